"""The rule of what a device keeps: instants, campaign and sizes in; clips and postings out. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fleetmill.core import wire
from fleetmill.core.custody import LIVED, Posting
from fleetmill.core.fleet import Campaign
from fleetmill.core.line import Array
from fleetmill.core.trigger import Window, choose, parse, windows
from fleetmill.device.spool import Begin, Instant

OVER_BUDGET, NOT_TRIGGERED, CRASH = "over_budget", "not_triggered", "crash"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lived:
    """A session that ended: what was lived, and the tail that a crash lost."""

    begin: Begin
    instants: tuple[Instant, ...]
    ended: str
    tail_ns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A run of instants with one fate: reason "" is kept."""

    start_ns: int
    end_ns: int
    instants: tuple[Instant, ...]
    reason: str

    @property
    def bytes(self) -> int:
        """Payload."""
        return sum(i.bytes for i in self.instants)

    @property
    def messages(self) -> int:
        """Number of messages."""
        return sum(len(i.messages) for i in self.instants)


def decide(campaign: Campaign, lived: Sequence[Lived]) -> list[list[Piece]]:
    """Each session's pieces: the most valuable windows of all sessions of the campaign that fit into its budget.

    Without triggers everything is worth keeping. The budget is a share of the payload bytes that were recorded in the
    campaign's sessions together, so `kept <= budget_ratio * recorded` holds exactly.
    """
    sizes = [np.array([i.bytes for i in s.instants], np.int64) for s in lived]
    times = [np.array([i.time_ns for i in s.instants], np.int64) for s in lived]
    most = int(campaign.budget_ratio * sum(int(s.sum()) for s in sizes))
    found = [w for s, t in zip(lived, times, strict=True) for w in _windows(campaign, s, t)]
    none = [np.zeros(0, np.int64)]
    kept, wanted = choose(found, np.concatenate(times + none), np.concatenate(sizes + none), most_bytes=most)
    edges = np.cumsum([0, *(len(t) for t in times)])
    return [list(_pieces(s, kept[a:b], wanted[a:b])) for s, a, b in zip(lived, edges[:-1], edges[1:], strict=True)]


def postings(device: int, lived: Lived, pieces: Sequence[Piece]) -> list[Posting]:
    """What the journal says of a session: each piece is lived into the buffer, then kept, or dropped with a reason."""
    found: list[Posting] = []
    for piece in pieces:
        opened = Posting(
            device=device,
            track=0,
            start_ns=piece.start_ns,
            end_ns=piece.end_ns,
            bytes=piece.bytes,
            messages=piece.messages,
            source=LIVED,
            to="buffered",
        )
        to = "dropped" if piece.reason else "kept"
        found += [opened, replace(opened, source="buffered", to=to, reason=piece.reason)]
    if lived.tail_ns:
        start = pieces[-1].end_ns if pieces else lived.begin.start_ns
        tail = Posting(
            device=device,
            track=0,
            start_ns=start,
            end_ns=start + lived.tail_ns,
            bytes=0,
            messages=0,
            source=LIVED,
            to="dropped",
            reason=CRASH,
        )
        found.append(tail)
    return found


def _windows(campaign: Campaign, lived: Lived, times: Array) -> list[Window]:
    if not len(times):
        return []
    end = int(times[-1]) + lived.begin.period_ns
    if not campaign.triggers:
        return [Window(start_ns=lived.begin.start_ns, end_ns=end, priority=0, peak=0.0)]
    terms = {term for t in campaign.triggers for term in parse(t.when).terms}
    columns = {term: _column(lived.instants, term) for term in terms}
    return [w for t in campaign.triggers for w in windows(t, times, times + lived.begin.period_ns, columns)]


def _column(instants: Sequence[Instant], term: str) -> Array:
    """One scalar per instant; NaN where the topic is absent. Of an array the element of largest size."""
    column = np.full(len(instants), np.nan)
    for i, instant in enumerate(instants):
        for m in instant.messages:
            if m.topic == term:
                column[i] = _scalar(wire.decode(m.kind, m.payload, (-1,)))
    return column


def _scalar(value: Mapping[str, Array | str]) -> float:
    data = np.asarray(value["data"], np.float64).reshape(-1)
    return float(data[np.abs(data).argmax()]) if data.size else float("nan")


def _pieces(lived: Lived, kept: Array, wanted: Array) -> Iterator[Piece]:
    reasons = ["" if k else OVER_BUDGET if w else NOT_TRIGGERED for k, w in zip(kept, wanted, strict=True)]
    at = 0
    while at < len(reasons):
        last = at
        while last + 1 < len(reasons) and reasons[last + 1] == reasons[at]:
            last += 1
        run = lived.instants[at : last + 1]
        yield Piece(
            start_ns=run[0].time_ns,
            end_ns=run[-1].time_ns + lived.begin.period_ns,
            instants=run,
            reason=reasons[at],
        )
        at = last + 1
