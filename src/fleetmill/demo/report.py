"""What came of a demo: every generation's model in the field and the control, on worlds that no other step uses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetmill.core import evidence
from fleetmill.core.line import Metrics, Tally
from fleetmill.demo import control, picture, timing
from fleetmill.demo.fleet import Plan
from fleetmill.home import Home, open_home
from fleetmill.judge import trials
from fleetmill.judge.gate import finite
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Fact
from fleetmill.settings import Settings
from fleetmill.status import accounts

REPORT_SEEDS = 30_000_000  # worlds of the report: used for nothing else
_BOOTSTRAP_SEED = 7
Side = list[Sequence[Tally]]
SHOWS_NOT = (
    "It is one simulated world: nothing here says how a real machine would do.",
    "Labels come from a privileged expert (or with --labels driver from the safety driver): on real machines somebody "
    "or something must give them.",
    "Intervals are over the report's worlds for this one training seed; other seeds differ by more.",
    "Improvement from one generation to the next is not promised; a candidate that is not better is held.",
    "After a killed device the digests of later generations may differ from those of an undisturbed run.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Tallies on the report's worlds: of the model in the field after each generation, and of the control."""

    field: list[Side]
    control: Side
    control_generation: int


def measure(plan: Plan, home: Home) -> Measured:
    """Drive the report's worlds. A model that stays in the field is driven once."""
    seeds = range(REPORT_SEEDS, REPORT_SEEDS + plan.recipe.report_trials)
    known: dict[str, Side] = {}
    field: list[Side] = []
    accepted = 0
    for turn in _turns(home, plan):
        accepted += turn["decision"] == "accepted"
        model = _model_after(home, plan, turn)
        if model not in known:
            known[model] = _drive(plan, home, home.blobs.get(model), seeds)
        field.append(known[model])
    chain = max(accepted - 1, 0)
    return Measured(
        field=field, control=_drive(plan, home, control.model(plan.controls, chain), seeds), control_generation=chain
    )


def make(
    plan: Plan,
    settings: Settings,
    measured: Measured,
    *,
    audit: dict[str, Any],
    cpu_seconds: float,
    wall_seconds: float,
) -> dict[str, Any]:
    """The report as plain values."""
    with open_home(settings, own=False) as home:
        facts = list(home.ledger.read())
        books = accounts(home)
        faults = home.books.faults()
    turns = [f.record for f in facts if f.kind == "turn_ended"]
    generations = [_generation(plan, facts, turn, side) for turn, side in zip(turns, measured.field, strict=True)]
    headline = _headline(plan, measured)
    return {
        "line": plan.line.name,
        "seed": plan.seed,
        "devices": plan.devices,
        "labels": plan.labels,
        "metric": plan.recipe.headline,
        "better": _better(plan),
        "looks": list(plan.line.judging.looks),
        "report_worlds": plan.recipe.report_trials,
        "generations": generations,
        "control": {**_metrics(plan, measured.control), "generation": measured.control_generation},
        "headline": headline,
        "verdicts": [{**f.record, "seq": f.seq} for f in facts if f.kind == "verdict"],
        "books": _by_account(books),
        "balanced": not faults,
        "audit": audit,
        "loop_seconds": timing.total(facts, plan.line.name),
        "cpu_seconds": cpu_seconds,
        "wall_seconds": wall_seconds,
        "facts": len(facts),
        "shows_not": list(SHOWS_NOT),
        "tallies": {
            "field": [trials.plain_side(side) for side in measured.field],
            "control": trials.plain_side(measured.control),
        },
    }


def write(plan: Plan, found: dict[str, Any]) -> None:
    """report.json, report.png and report.html in the plan's folder."""
    png = picture.curve(found)
    write_whole(plan.folder / "report.png", png)
    write_whole(plan.folder / "report.html", picture.page(found, png).encode())
    write_whole(plan.folder / "report.json", json.dumps(found, indent=1, allow_nan=False).encode())


def _drive(plan: Plan, home: Home, model: bytes, seeds: range) -> Side:
    return trials.live_side(
        plan.line, home.executor, home.runtime, model=model, seeds=seeds, seconds=plan.recipe.report_seconds
    )


def _headline(plan: Plan, measured: Measured) -> dict[str, Any]:
    """The model in the field at the end against the control and against generation 0, paired over worlds."""
    metric = plan.recipe.headline
    found: dict[str, Any] = {"metric": metric}
    for name, other in (("against_control", measured.control), ("against_generation_0", measured.field[0])):
        (ratio,) = evidence.ratios([metric], measured.field[-1], other, _pool(plan), seed=_BOOTSTRAP_SEED)
        values = {"ratio": ratio.value, "ci_low": ratio.low, "ci_high": ratio.high, "fleet": ratio.a, "other": ratio.b}
        found[name] = finite(values)
    return found


def _generation(plan: Plan, facts: Sequence[Fact], turn: Mapping[str, Any], side: Side) -> dict[str, Any]:
    number = turn["turn"]
    begun = next(f.record for f in facts if f.kind == "turn_begun" and f.record["turn"] == number)
    before = next((f.record for f in facts if f.kind == "turn_begun" and f.record["turn"] == number - 1), None)
    new = set(begun["sessions"]) - set(before["sessions"] if before else ())
    manifests = [f.record["manifest"] for f in facts if f.kind == "session" and f.key in new]
    run = next((f.record for f in facts if f.kind == "model" and f.key == turn["candidate"]), {})
    return {
        "generation": number,
        **_metrics(plan, side),
        "accepted": turn["decision"] == "accepted",
        "decision": turn["decision"],
        "release": turn["release"],
        "dataset": turn["dataset"],
        "candidate": turn["candidate"],
        "sessions": len(manifests),
        "uploaded_bytes": sum(r["bytes"] for m in manifests for r in m["recordings"]),
        "recorded_bytes": sum(m["recorded_bytes"] for m in manifests),
        "label_rows": {k.removeprefix("rows."): v for k, v in run.get("metrics", {}).items() if k.startswith("rows.")},
        "stages": timing.stages(facts, plan.line.name, number),
    }


def _metrics(plan: Plan, side: Side) -> dict[str, Any]:
    metrics = finite(_pool(plan)(side))
    _, low, high = evidence.interval(plan.recipe.headline, side, _pool(plan), seed=_BOOTSTRAP_SEED)
    return {**metrics, **finite({"ci_low": low, "ci_high": high})}


def _pool(plan: Plan) -> Any:
    def pooled(side: Sequence[Sequence[Tally]]) -> Metrics:
        return plan.line.judging.metrics([tally for trial in side for tally in trial])

    return pooled


def _better(plan: Plan) -> str:
    return next((c.better for c in plan.line.checks if c.metric == plan.recipe.headline), "lower")


def _turns(home: Home, plan: Plan) -> list[dict[str, Any]]:
    found = [dict(f.record) for f in home.ledger.read(kind="turn_ended") if f.record["line"] == plan.line.name]
    return sorted(found, key=lambda t: int(t["turn"]))


def _model_after(home: Home, plan: Plan, turn: dict[str, Any]) -> str:
    """Digest of the model file in the field after a turn; before the first release the candidate stands in."""
    releases = {f.record["counter"]: f.record for f in home.ledger.read(kind="release")}
    accepted = [t["release"] for t in _turns(home, plan) if t["turn"] <= turn["turn"] and t["release"]]
    if accepted:
        return str(releases[max(accepted)]["model_file"])
    return str(home.ledger.get("model", turn["candidate"]).record["files"]["model.onnx"])


def _by_account(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        name = row["account"] + (f"({row['reason']})" if row["reason"] else "")
        held = found.setdefault(name, {"seconds": 0.0, "bytes": 0.0})
        held["seconds"] += row["seconds"]
        held["bytes"] += row["bytes"]
    return found
