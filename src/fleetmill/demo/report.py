"""What came of a demo, as plain values: what `--json` prints, what lies in report.json, what the proof pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetmill.core.line import Line
from fleetmill.demo import answers_page, measure, timing
from fleetmill.demo.fleet import Plan
from fleetmill.demo.numbers import Source, new_manifests
from fleetmill.home import Home
from fleetmill.judge import trials
from fleetmill.seams.ledger import Draft, Fact
from fleetmill.status import accounts

_MADE_UP = "The recordings are made up by the line itself: nothing here says how real machines would do."
_SIMULATED = (
    "It is one simulated world: nothing here says how a real machine would do.",
    "Labels come from a privileged expert (or with --labels driver from the safety driver): on real machines somebody "
    "or something must give them.",
    "Intervals are over the report's worlds for this one training seed; other seeds differ by more.",
)
_REPLAYED = (
    "Recordings are replayed: what a model says changes nothing of what follows, so it shows how well things are told, "
    "not what acting on it would do.",
    "All devices begin at once, each with the first recording that it got; hours in which nothing was recorded are "
    "nobody's. When it really was stands in each session's tags.",
    "What really came is known when a session ends, and labels come with it; elsewhere they may come later.",
    "Intervals are over the report's sessions for this one training seed; other seeds differ by more.",
)
_ASKED = (
    "The larger model learned from sums with true results, the fleet's from its answers alone: what is shown is that "
    "what it knows comes down to the devices, not that anybody knows more in the end.",
    "People ask what the made-up or recorded texts hold, and agree to be recorded; none reacts to an answer.",
    "The threshold's risk was promised for the model that it was fixed on.",
)
_ALWAYS = (
    "Improvement from one generation to the next is not promised; a candidate that is not better is held.",
    "After a killed device the digests of later generations differ from those of a run without accidents (--calm).",
)


def shows_not(demo: Mapping[str, Any]) -> tuple[str, ...]:
    """What a demo does not show, by its fact's record."""
    replayed = demo.get("replayed", {})  # facts of earlier versions know no replay
    made_up = (_MADE_UP,) if replayed.get("made_up") else ()
    asked = _ASKED if demo.get("asked") else ()
    return (*made_up, *(_REPLAYED if replayed else _SIMULATED), *asked, *_ALWAYS)


def close(
    plan: Plan,
    home: Home,
    *,
    replayed: Mapping[str, Any],
    audit: Mapping[str, Any],
    cpu_seconds: float,
    wall_seconds: float,
) -> Fact:
    """The demo's last fact: what was asked for, what it took, and what the audit said.

    `replayed`: where the fleet's recordings came from; empty where it lived in a world.
    """
    record = {
        "line": plan.line.name,
        "seed": plan.seed,
        "devices": plan.devices,
        "generations": plan.generations,
        "labels": plan.labels,
        "calm": plan.calm,
        "cpu_seconds": round(cpu_seconds, 3),
        "wall_seconds": round(wall_seconds, 3),
        "replayed": dict(replayed),
        **({"asked": True} if plan.recipe.asking else {}),
        "audit": dict(audit),
    }
    return home.ledger.append([Draft(kind="demo", key=plan.line.name, record=record)])[0]


def make(source: Source, line: Line) -> dict[str, Any]:
    """The report of the line's demo in a home, from its facts alone."""
    assert line.recipe is not None
    home, facts, demo = source.home, source.facts, source.one("demo", line.name).record
    ended = sorted((f for f in facts if f.kind == "turn_ended"), key=lambda f: int(f.record["turn"]))
    field = [source.one("measured", f"{line.name}/generation {f.record['turn']}") for f in ended]
    other = source.one("measured", f"{line.name}/{measure.CONTROL}")
    naive = next((f for f in facts if (f.kind, f.key) == ("measured", f"{line.name}/{measure.BASELINE}")), None)
    sides = {f.digest: measure.side(home.blobs, f) for f in (*field, other)}
    control = {**measure.metrics(line, sides[other.digest]), "generation": other.record["generation"]}
    return {
        **{name: demo[name] for name in ("line", "seed", "devices", "labels", "calm", "cpu_seconds", "wall_seconds")},
        "metric": measure.headline(line),
        "better": better(line),
        "looks": list(line.judging.looks),
        "report_worlds": other.record["worlds"],
        "generations": [
            {**measure.metrics(line, sides[m.digest]), **_generation(source, f)}
            for f, m in zip(ended, field, strict=True)
        ],
        "control": control,
        **({"baseline": measure.metrics(line, measure.side(home.blobs, naive))} if naive else {}),
        "headline": {
            "metric": measure.headline(line),
            "against_control": measure.compare(line, sides[field[-1].digest], sides[other.digest]),
            "against_generation_0": measure.compare(line, sides[field[-1].digest], sides[field[0].digest]),
        },
        "verdicts": [{**f.record, "seq": f.seq} for f in facts if f.kind == "verdict"],
        "events": events(facts, line),
        "books": _by_account(accounts(home)),
        "balanced": not home.books.faults(),
        "audit": demo["audit"],
        "loop_seconds": timing.total(facts, line.name),
        "facts": len(facts),
        "replayed": demo.get("replayed", {}),
        **({"answers": told} if (told := answers_page.told(source, line)) else {}),
        "shows_not": list(shows_not(demo)),
        "tallies": {
            "field": [trials.plain_side(sides[m.digest]) for m in field],
            "control": trials.plain_side(sides[other.digest]),
        },
    }


def events(facts: Sequence[Fact], line: Line) -> list[dict[str, Any]]:
    """Each accident with how it ended, in the order in which they were done."""
    ends = {f.key: f for f in facts if f.kind == "accident_ended"}
    done = sorted((f for f in facts if f.kind == "accident" and f.record["line"] == line.name), key=lambda f: f.seq)
    return [
        {**f.record, **ends[f.key].record, "seq": f.seq, "ended_seq": ends[f.key].seq} for f in done if f.key in ends
    ]


def better(line: Line) -> str:
    """Which way the headline should go."""
    return next((c.better for c in line.checks if c.metric == measure.headline(line)), "lower")


def _generation(source: Source, ended: Fact) -> dict[str, Any]:
    turn, manifests = ended.record, new_manifests(source.facts, ended)
    return {
        "generation": turn["turn"],
        "accepted": turn["decision"] == "accepted",
        "decision": turn["decision"],
        "release": turn["release"],
        "dataset": turn["dataset"],
        "candidate": turn["candidate"],
        "sessions": len(manifests),
        "uploaded_bytes": sum(r["bytes"] for m in manifests for r in m["recordings"]),
        "recorded_bytes": sum(m["recorded_bytes"] for m in manifests),
        "label_rows": label_rows(source.one("model", turn["candidate"])),
        "stages": timing.stages(source.facts, turn["line"], turn["turn"]),
    }


def label_rows(model: Fact) -> dict[str, float]:
    """Training rows by who labelled them, as the trainer said."""
    metrics = model.record.get("metrics", {})
    return {k.removeprefix("rows."): v for k, v in metrics.items() if k.startswith("rows.")}


def _by_account(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        name = row["account"] + (f"({row['reason']})" if row["reason"] else "")
        held = found.setdefault(name, {"seconds": 0.0, "bytes": 0.0})
        held["seconds"] += row["seconds"]
        held["bytes"] += row["bytes"]
    return found
