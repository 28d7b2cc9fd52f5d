"""What a device keeps: the rule, and the postings that account for every instant."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill.core import wire
from fleetmill.core.custody import Span, move
from fleetmill.core.fleet import Campaign
from fleetmill.core.line import Trigger
from fleetmill.device import keep
from fleetmill.device.keep import Lived, Piece
from fleetmill.device.spool import Begin, Instant
from fleetmill.seams.recordings import Encoded

PERIOD_NS = 100
KIND = wire.ARRAYS["float32"]


def a_campaign(ratio: float, *triggers: Trigger) -> Campaign:
    return Campaign(
        line="tiny", number=1, scenario="field", sessions=2, seconds=1.0, budget_ratio=ratio, triggers=triggers, seed=0
    )


def an_instant(index: int, start_ns: int, x: float, size: int = 0) -> Instant:
    at_ns = start_ns + index * PERIOD_NS
    value = wire.encode(KIND, {"data": np.float32(x)}, at_ns)
    return Instant(
        time_ns=at_ns,
        messages=(
            Encoded(topic="x", kind=KIND.name, time_ns=at_ns, payload=value),
            Encoded(topic="big", kind=KIND.name, time_ns=at_ns, payload=bytes(size)),
        ),
    )


def a_life(values: list[float], *, start_ns: int = 0, ended: str = "done", tail_ns: int = 0, size: int = 80) -> Lived:
    begin = Begin(
        session="s0", number=0, campaign="c", line="tiny", model="", start_ns=start_ns, period_ns=PERIOD_NS, seed=0,
        topics=("x", "big"), kinds=(KIND.name,),
    )  # fmt: skip
    instants = tuple(an_instant(i, start_ns, x, size) for i, x in enumerate(values))
    return Lived(begin=begin, instants=instants, ended=ended, tail_ns=tail_ns)


def reasons(pieces: list[Piece]) -> list[tuple[int, int, str]]:
    return [(p.start_ns, p.end_ns, p.reason) for p in pieces]


ABOVE = Trigger(when="x > 0.5", before_ns=2 * PERIOD_NS, after_ns=PERIOD_NS)


def test_without_triggers_everything_is_kept_as_long_as_it_fits() -> None:
    life = a_life([0.0] * 10)

    ((whole,),) = keep.decide(a_campaign(1.0), [life])
    (half,) = keep.decide(a_campaign(0.5), [life])

    assert (whole.start_ns, whole.end_ns, whole.reason, whole.messages) == (0, 1000, "", 20)
    assert reasons(half) == [(0, 500, ""), (500, 1000, "over_budget")]


def test_a_trigger_keeps_the_seconds_before_and_after_and_the_rest_is_not_triggered() -> None:
    ((*pieces,),) = keep.decide(a_campaign(1.0, ABOVE), [a_life([0, 0, 0, 0, 1, 0, 0, 0])])

    assert reasons(pieces) == [(0, 200, "not_triggered"), (200, 600, ""), (600, 800, "not_triggered")]


def test_a_campaigns_sessions_share_one_budget_and_the_higher_priority_wins() -> None:
    first = Trigger(when="x > 5", before_ns=0, after_ns=0, priority=-1)  # lower is sooner, or it is not: see below
    common = Trigger(when="x > 0.5", before_ns=0, after_ns=0)
    lives = [a_life([1] * 10), a_life([0, 0, 0, 0, 0, 9, 9, 9, 9, 9], start_ns=5000)]

    poor, rich = keep.decide(a_campaign(0.25, first, common), lives)

    assert sum(p.bytes for p in (*poor, *rich) if not p.reason) <= 0.25 * sum(p.bytes for p in (*poor, *rich))
    assert reasons(rich) == [(5000, 5500, "not_triggered"), (5500, 6000, "")]
    assert [r for *_, r in reasons(poor)] == ["over_budget"]


def test_nothing_lived_is_nothing_kept() -> None:
    assert keep.decide(a_campaign(1.0, ABOVE), [a_life([])]) == [[]]
    assert keep.decide(a_campaign(1.0), []) == []
    assert keep.postings(3, a_life([]), []) == []


def test_a_crash_loses_a_tail_that_is_posted() -> None:
    life = a_life([1, 1], ended="crash", tail_ns=PERIOD_NS)
    (pieces,) = keep.decide(a_campaign(1.0), [life])

    posted = keep.postings(3, life, pieces)

    assert [(p.start_ns, p.end_ns, p.source, p.to, p.reason) for p in posted] == [
        (0, 200, "lived", "buffered", ""),
        (0, 200, "buffered", "kept", ""),
        (200, 300, "lived", "dropped", "crash"),
    ]
    assert posted[-1].bytes == 0


def test_a_crash_before_the_first_instant_is_a_tail_alone() -> None:
    life = a_life([], start_ns=700, ended="crash", tail_ns=PERIOD_NS)

    (tail,) = keep.postings(3, life, [])

    assert (tail.start_ns, tail.end_ns, tail.to, tail.reason) == (700, 800, "dropped", "crash")


@pytest.mark.parametrize("ratio", [0.0, 0.35, 1.0])
@given(
    values=st.lists(st.sampled_from([0.0, 0.4, 0.6, 3.0, float("nan")]), max_size=40),
    split=st.integers(0, 40),
    tail_ns=st.sampled_from([0, PERIOD_NS]),
    size=st.integers(0, 200),
)
@settings(max_examples=60, deadline=None)
def test_every_instant_has_one_fate_the_budget_holds_and_the_books_take_the_postings(
    ratio: float, values: list[float], split: int, tail_ns: int, size: int
) -> None:
    other = Trigger(when="x > 2 or x < 0.3 for 0.0000002s", before_ns=0, after_ns=3 * PERIOD_NS, priority=1)
    lives = [
        a_life(values[:split], tail_ns=tail_ns, size=size),
        a_life(values[split:], start_ns=100_000, size=3 * size),
    ]

    decided = keep.decide(a_campaign(ratio, ABOVE, other), lives)

    for life, pieces in zip(lives, decided, strict=True):
        assert [i for p in pieces for i in p.instants] == list(life.instants)
        assert all(a.end_ns == b.start_ns and a.reason != b.reason for a, b in itertools.pairwise(pieces))
        spans: list[Span] = []
        for posting in keep.postings(1, life, pieces):
            touched = [s for s in spans if s.start_ns < posting.end_ns and s.end_ns > posting.start_ns]
            spans = [s for s in spans if s not in touched] + move(posting, touched)
        assert sum(s.end_ns - s.start_ns for s in spans) == len(life.instants) * PERIOD_NS + life.tail_ns
        assert {s.account for s in spans} <= {"kept", "dropped"}
    every = [p for pieces in decided for p in pieces]
    assert sum(p.bytes for p in every if not p.reason) <= ratio * sum(p.bytes for p in every)
