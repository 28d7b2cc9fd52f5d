"""Each generation's model in the field, and the control, on the report's worlds or recordings: measured once, as facts.

A `measured` fact names the tallies by digest; every figure of the report is pooled from them again, by whoever doubts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fleetmill.core import evidence
from fleetmill.core.line import Episode, Line, Metrics, Tally
from fleetmill.demo import control, stock
from fleetmill.demo.fleet import Plan
from fleetmill.home import Home
from fleetmill.judge import trials
from fleetmill.judge.gate import finite
from fleetmill.refine import run as refine
from fleetmill.score import recorded
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.executor import Here
from fleetmill.seams.ledger import Draft, Fact

REPORT_SEEDS = 30_000_000  # worlds of the report: used for nothing else
BOOTSTRAP_SEED = 7
CONTROL, BASELINE = "control", "baseline"
Side = list[Sequence[Tally]]


def measure(plan: Plan, home: Home) -> list[Fact]:
    """A fact for each generation's model in the field, and one for the control. A model is asked once.

    The control is the one whose chain of trainings is as long as the champion's. Where recordings are replayed, the
    line's baseline is asked too, fitted on what trained the last candidate.
    """
    sessions = _sessions(plan)
    trained = chain(home, plan.line)
    asked = [
        (f"generation {t['turn']}", model_after(home, plan.line, t), int(t["turn"])) for t in turns(home, plan.line)
    ]
    asked.append((CONTROL, home.blobs.put(control.model(plan.controls, trained)), trained))
    known = {
        model: _ask(plan, home, sessions, home.blobs.get(model)) for model in dict.fromkeys(m for _, m, _ in asked)
    }
    drafts = [_draft(plan, what, model, known[model], generation) for what, model, generation in asked]
    fit = plan.line.judging.baseline
    if plan.recordings is not None and fit is not None:
        last = turns(home, plan.line)[-1]
        baseline = fit(refine.open_data(home.ledger, home.blobs, last["dataset"]))
        # in this process: a line's own policy need not travel to another
        told = trials.recorded_side(plan.line, Here(), home.runtime, model=None, sessions=sessions, baseline=baseline)
        drafts.append(_draft(plan, BASELINE, "", keep(home, told), last["turn"]))
    return home.ledger.append([replace(d, record={**d.record, "worlds": _number(plan, sessions)}) for d in drafts])


def side(blobs: Blobs, fact: Fact) -> Side:
    """The tallies that a `measured` fact names, one or more per world."""
    return trials.read_side(blobs.get(fact.record["trials"]))


def metrics(line: Line, tallies: Side) -> dict[str, float]:
    """Pooled over all worlds, with the 95 % bootstrap interval of the line's headline as `ci_low` and `ci_high`."""
    pool = _pool(line)
    _, low, high = evidence.interval(headline(line), tallies, pool, seed=BOOTSTRAP_SEED)
    return {**finite(pool(tallies)), **finite({"ci_low": low, "ci_high": high})}


def compare(line: Line, fleet: Side, other: Side) -> dict[str, float]:
    """The headline of `fleet` over that of `other`, paired over worlds: ratio, ci_low, ci_high, fleet, other."""
    (ratio,) = evidence.ratios([headline(line)], fleet, other, _pool(line), seed=BOOTSTRAP_SEED)
    return finite(
        {"ratio": ratio.value, "ci_low": ratio.low, "ci_high": ratio.high, "fleet": ratio.a, "other": ratio.b}
    )


def world(line: Line, tallies: Side, first_seed: int, which: str) -> int:
    """Seed of the ``median`` or the ``worst`` world by the headline that the model came to there; ties: the lower seed.

    A world in which the headline cannot be told counts as the best.
    """
    better = next((c.better for c in line.checks if c.metric == headline(line)), "lower")
    sign = 1.0 if better == "lower" else -1.0
    found = [sign * line.judging.metrics(trial).get(headline(line), float("nan")) for trial in tallies]
    ordered = sorted(range(len(found)), key=lambda i: (-float("inf") if found[i] != found[i] else found[i], -i))
    return first_seed + (ordered[len(ordered) // 2] if which == "median" else ordered[-1])


def headline(line: Line) -> str:
    """The metric that the report is about; a line with a simulated fleet names it."""
    assert line.recipe is not None
    return line.recipe.headline


def turns(home: Home, line: Line) -> list[dict[str, Any]]:
    """Every turn that has ended, in order."""
    found = [dict(f.record) for f in home.ledger.read(kind="turn_ended") if f.record["line"] == line.name]
    return sorted(found, key=lambda t: int(t["turn"]))


def chain(home: Home, line: Line) -> int:
    """How many trainings lie between the champion and the first model; the control has as many."""
    return max(sum(bool(t["release"]) for t in turns(home, line)) - 1, 0)


def model_after(home: Home, line: Line, turn: Mapping[str, Any]) -> str:
    """Digest of the model file in the field after a turn; before the first release the candidate stands in."""
    releases = {f.record["counter"]: f.record for f in home.ledger.read(kind="release")}
    accepted = [t["release"] for t in turns(home, line) if t["turn"] <= turn["turn"] and t["release"]]
    if accepted:
        return str(releases[max(accepted)]["model_file"])
    return str(home.ledger.get("model", turn["candidate"]).record["files"]["model.onnx"])


def _draft(plan: Plan, what: str, model: str, tallies: str, generation: int) -> Draft:
    record = {
        "line": plan.line.name,
        "what": what,
        "generation": generation,
        "model_file": model,
        "trials": tallies,
        "scenario": plan.line.judging.scenario,
        "first_seed": REPORT_SEEDS,
        "seconds": plan.recipe.report_seconds,
    }
    return Draft(kind="measured", key=f"{plan.line.name}/{what}", record=record)


def _sessions(plan: Plan) -> list[list[Episode]]:
    """The episodes of each recorded session that the report asks about; none where models live in worlds."""
    if plan.recordings is None:
        return []
    return [episodes for _, episodes in recorded(plan.line, plan.recordings / stock.REPORT) if episodes]


def _number(plan: Plan, sessions: Sequence[object]) -> int:
    return len(sessions) if plan.recordings is not None else plan.recipe.report_trials


def _ask(plan: Plan, home: Home, sessions: Sequence[Sequence[Episode]], model: bytes) -> str:
    """Digest of a model's tallies."""
    if plan.recordings is not None:
        told = trials.recorded_side(plan.line, home.executor, home.runtime, model=model, sessions=sessions)
        return keep(home, told)
    seeds = range(REPORT_SEEDS, REPORT_SEEDS + plan.recipe.report_trials)
    lived = trials.live_side(
        plan.line, home.executor, home.runtime, model=model, seeds=seeds, seconds=plan.recipe.report_seconds
    )
    return keep(home, lived)


def keep(home: Home, side: Side) -> str:
    """Keep tallies; their digest."""
    return home.blobs.put(trials.digest(side)[1])


def _pool(line: Line) -> Any:
    def pooled(trial: Sequence[Sequence[Tally]]) -> Metrics:
        return line.judging.metrics([tally for world in trial for tally in world])

    return pooled
