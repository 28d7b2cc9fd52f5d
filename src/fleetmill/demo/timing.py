"""Where the time of a loop went, from the times of facts alone. Waiting stands apart from working."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleetmill.seams.ledger import Fact

WAITING = "wait"
STAGES = ("update", "live", WAITING, "refine", "train", "judge", "publish")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A moment at which a stage was over."""

    time_ns: int
    stage: str


def stages(facts: Sequence[Fact], line: str, turn: int) -> dict[str, float]:
    """Seconds of each stage of a turn: from its campaign to the next one, cut at the facts between them.

    update: devices installed and confirmed the release of the turn before; live: lived, kept and uploaded; wait: until
    the turn began; then refine, train, judge, publish. The last turn ends with its last confirmation, which is booked
    on `update` of that turn.
    """
    begun = _one(facts, "turn_begun", f"{line}/{turn}")
    ended = _one(facts, "turn_ended", f"{line}/{turn}")
    start = next((f.time_ns for f in facts if f.kind == "campaign" and f.key == f"{line}/{turn}"), None)
    if begun is None or ended is None or start is None:
        return {}
    sessions = set(begun.record["sessions"])
    closed = [f for f in facts if f.kind == "session" and f.key in sessions and start <= f.time_ns <= begun.time_ns]
    before = [f for f in facts if f.kind == "deployment" and start <= f.time_ns <= begun.time_ns]
    marks = [
        *_last(before, "update"),
        *_last(closed, "live"),
        Mark(time_ns=begun.time_ns, stage=WAITING),
        *_last(_between(facts, "dataset", begun, ended), "refine"),
        *_last(_between(facts, "run", begun, ended), "train"),
        *_last(_between(facts, "verdict", begun, ended), "judge"),
        Mark(time_ns=ended.time_ns, stage="publish"),
    ]
    after = next((f.time_ns for f in facts if f.kind == "campaign" and f.key == f"{line}/{turn + 1}"), None)
    if after is None:
        marks += _last([f for f in facts if f.kind == "deployment" and f.time_ns > ended.time_ns], "update")
    return _cut(start, marks, until=after)


def total(facts: Sequence[Fact], line: str) -> float:
    """Seconds from the first campaign to the last turn's end or last confirmation."""
    first = next((f.time_ns for f in facts if f.kind == "campaign" and f.key == f"{line}/0"), 0)
    kinds = ("turn_ended", "deployment")
    return (max((f.time_ns for f in facts if f.kind in kinds), default=first) - first) / 1e9


def _cut(start: int, marks: Iterable[Mark], *, until: int | None) -> dict[str, float]:
    """Each stage gets the time up to its mark; a mark beyond `until` ends there."""
    found = dict.fromkeys(STAGES, 0.0)
    at = start
    for mark in marks:
        end = max(at, mark.time_ns if until is None else min(mark.time_ns, until))
        found[mark.stage] += (end - at) / 1e9
        at = end
    if until is not None:
        found["publish"] += (until - at) / 1e9
    return found


def _one(facts: Sequence[Fact], kind: str, key: str) -> Fact | None:
    return next((f for f in facts if f.kind == kind and f.key == key), None)


def _between(facts: Sequence[Fact], kind: str, first: Fact, last: Fact) -> list[Fact]:
    return [f for f in facts if f.kind == kind and first.seq < f.seq < last.seq]


def _last(facts: Sequence[Fact], stage: str) -> list[Mark]:
    return [Mark(time_ns=max(f.time_ns for f in facts), stage=stage)] if facts else []
