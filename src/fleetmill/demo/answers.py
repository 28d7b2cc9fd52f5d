"""Who answers: each generation's model, and the control, on the report's questions. Measured once, as facts.

An `audited` fact names its tallies by digest, one a person. An answer that a model keeps is one of which it is at least
as sure as the threshold that stood before generation 0; the others are handed on to the larger model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core import evidence
from fleetmill.core.line import Data, Episode, Line, Metrics, Policy, Tally
from fleetmill.core.talk import Limits, Said, Talk
from fleetmill.demo import measure, premises, risk, stock
from fleetmill.demo.fleet import Plan
from fleetmill.demo.premises import Prepared
from fleetmill.device.speaking import speak
from fleetmill.home import Home
from fleetmill.refine import run as refine
from fleetmill.score import recorded
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Draft, Fact
from fleetmill.seams.runtime import policies
from fleetmill.seams.tables import open_table

COUNTS = ("asked", "kept", "kept_right", "right", "together")
NEW = tuple(f"new_{name}" for name in COUNTS)
Heard = list[tuple[str, float, bool]]  # a person's questions: what was asked, how sure the answer, whether right


@dataclass(kw_only=True)
class _Auditor:
    """The report's questions, and what the larger model makes of them."""

    line: Line
    talk: Talk
    home: Home
    limits: Limits
    people: Sequence[Sequence[Said]]

    def heard(self, policy: Policy) -> list[Heard]:
        """What a model answers, each question that comes again answered once."""
        known: dict[str, tuple[float, bool]] = {}
        for question in (q for person in self.people for q in person):
            if question.text not in known:
                said = speak(self.talk, policy, [question], self.limits)
                known[question.text] = (said.sure, bool(self.talk.right(question.text, said.text)))
        return [[(q.text, *known[q.text]) for q in person] for person in self.people]

    def ask(self, model: str) -> list[Heard]:
        """The same of a model file in the home."""
        return self.heard(policies(self.line, self.home.runtime, {"model.onnx": self.home.blobs.get(model)}))


def audit(plan: Plan, home: Home, prepared: Prepared) -> list[Fact]:
    """A fact for each generation's model in the field, one for the control, one for the larger model alone."""
    talk = premises.spoken_with(plan.line)
    auditor = _Auditor(line=plan.line, talk=talk, home=home, limits=prepared.limits, people=list(_people(plan, talk)))
    larger = auditor.ask(prepared.teacher)
    turns, known, drafts = measure.turns(home, plan.line), dict[str, list[Heard]](), list[Draft]()
    for turn in turns:
        model = measure.model_after(home, plan.line, turn)
        known[model] = known.get(model) or auditor.ask(model)
        seen = set(_learned(talk, refine.open_data(home.ledger, home.blobs, turn["dataset"]).split("train")))
        lived = _lived(home, plan.line, turn["turn"])
        drafts.append(_draft(auditor, f"generation {turn['turn']}", model, known[model], larger, seen, lived))
    control = home.ledger.get("measured", f"{plan.line.name}/{measure.CONTROL}").record["model_file"]
    first = set(_learned(talk, refine.open_data(home.ledger, home.blobs, turns[0]["dataset"]).split("train")))
    drafts.append(_draft(auditor, measure.CONTROL, control, auditor.ask(control), larger, first, {}))
    return home.ledger.append(drafts)


def metrics(blobs: Blobs, fact: Fact) -> dict[str, float]:
    """Shares of an `audited` fact, each with its 95 % interval as NAME_low and NAME_high.

    Bootstrap over people; for the answers that are kept the exact interval of Clopper and Pearson, as if each question
    stood alone.
    """
    tallies = measure.side(blobs, fact)
    found = evidence.intervals(tallies, _pooled, seed=measure.BOOTSTRAP_SEED)
    told = {
        f"{name}{end}": v for name, ends in found.items() for end, v in zip(("", "_low", "_high"), ends, strict=True)
    }
    sums = _sums(tallies)
    for new in ("", "new_"):
        kept, right = int(sums[f"{new}kept"]), int(sums[f"{new}kept_right"])
        low, high = risk.interval(right, kept) if kept else (0.0, 1.0)
        told |= {f"{new}kept_right_share_low": low, f"{new}kept_right_share_high": high}
    for name in ("kept_right_share", "new_kept_right_share"):  # where nothing is kept, nothing is wrong
        told[name] = told[name] if np.isfinite(told[name]) else 1.0
    told["new_share"] = sums["new_asked"] / sums["asked"] if sums["asked"] else 0.0
    return {name: value for name, value in {**told, **sums}.items() if np.isfinite(value)}


def _pooled(tallies: Sequence[Sequence[Tally]]) -> Metrics:
    s = _sums(tallies)
    found: dict[str, float] = {}
    for new in ("", "new_"):
        asked, kept = s[f"{new}asked"], s[f"{new}kept"]
        found |= {
            f"{new}handed_on_share": (asked - kept) / asked if asked else float("nan"),
            f"{new}kept_right_share": s[f"{new}kept_right"] / kept if kept else float("nan"),
            f"{new}right_share": s[f"{new}right"] / asked if asked else float("nan"),
            f"{new}together_share": s[f"{new}together"] / asked if asked else float("nan"),
        }
    return found


def _sums(tallies: Sequence[Sequence[Tally]]) -> dict[str, float]:
    return {name: float(sum(float(t[name]) for person in tallies for t in person)) for name in (*COUNTS, *NEW)}


def _draft(
    auditor: _Auditor,
    what: str,
    model: str,
    heard: Sequence[Heard],
    larger: Sequence[Heard],
    seen: set[str],
    lived: Mapping[str, int],
) -> Draft:
    sure = auditor.limits.sure
    side: measure.Side = [[_tally(mine, theirs, sure, seen)] for mine, theirs in zip(heard, larger, strict=True)]
    record = {
        "line": auditor.line.name,
        "what": what,
        "model_file": model,
        "trials": measure.keep(auditor.home, side),
        "people": len(side),
        "sure": sure,
        "lived": dict(lived),
    }
    return Draft(kind="audited", key=f"{auditor.line.name}/{what}", record=record)


def _tally(mine: Heard, larger: Heard, sure: float, seen: set[str]) -> Tally:
    found = dict.fromkeys((*COUNTS, *NEW), 0.0)
    for (question, how_sure, right), (_, _, larger_right) in zip(mine, larger, strict=True):
        is_kept = how_sure >= sure
        counted = {
            "asked": 1,
            "kept": is_kept,
            "kept_right": is_kept and right,
            "right": right,
            "together": right if is_kept else larger_right,
        }
        for name, hit in counted.items():
            found[name] += hit
            found[f"new_{name}"] += hit and question not in seen
    return {name: np.asarray(value) for name, value in found.items()}


def _people(plan: Plan, talk: Talk) -> Iterator[list[Said]]:
    assert plan.recordings is not None
    for _, episodes in recorded(plan.line, plan.recordings / stock.REPORT):
        found = [turns[0] for turns in premises.asked(talk, episodes) if turns and turns[0].role == "user"]
        yield [question for question in found if talk.right(question.text, "") is not None]


def _learned(talk: Talk, data: Data) -> Iterator[str]:
    """Every question that stands in training data."""
    for turns in premises.asked(talk, [data.episode(n) for n in range(len(data))]):
        yield from (turn.text for turn in turns if turn.role == "user")


def _lived(home: Home, line: Line, number: int) -> dict[str, int]:
    """Of the sessions that were new in a turn: answers given, and how many of them by somebody else than the device."""
    taken = {f.record["turn"]: set(f.record["sessions"]) for f in home.ledger.read(kind="turn_begun")}
    new, found = taken[number] - taken.get(number - 1, set()), {"answers": 0, "handed_on": 0}
    for fact in home.ledger.read(kind="refined"):
        if fact.record["line"] == line.name and fact.record["session"] in new and fact.record["shard"]:
            table = open_table(home.blobs.path(fact.record["shard"]))
            for episode in (table.episode(n) for n in range(len(table.places))):
                for source in _sources(line, episode):
                    found["answers"] += 1
                    found["handed_on"] += source > 0
    return found


def _sources(line: Line, episode: Episode) -> Iterator[int]:
    """The tier of each answer's first row."""
    talk = premises.spoken_with(line)
    rows = [{name: column[n] for name, column in episode.columns.items()} for n in range(len(episode.times_ns))]
    roles = ["", *(said[-1].role if (said := talk.turns([row])) else "" for row in rows)]
    for (before, now), row in zip(itertools.pairwise(roles), rows, strict=True):
        if now == "assistant" and before != now and "tier" in row:
            yield int(row["tier"])
