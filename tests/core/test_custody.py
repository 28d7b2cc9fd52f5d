"""The posting rule: nothing is lost, nothing is double."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetmill.core import custody
from fleetmill.core.custody import DAY_NS, Posting, Span
from fleetmill.core.errors import ConflictError, InvalidInputError


def posting(start=0, end=10, size=100, messages=10, source="lived", to="buffered", **more):
    return Posting(
        device=0, track=0, start_ns=start, end_ns=end, bytes=size, messages=messages, source=source, to=to, **more
    )


def test_new_time_may_not_overlap_old():
    old = Span(start_ns=5, end_ns=6, bytes=1, messages=1, account="buffered")

    with pytest.raises(ConflictError, match="lived before"):
        custody.move(posting(), [old])


@pytest.mark.parametrize(
    ("source", "to"), [("lived", "refined"), ("dropped", "kept"), ("refined", "landed"), ("nowhere", "kept")]
)
def test_a_move_that_is_not_in_the_table_is_refused(source, to):
    with pytest.raises(InvalidInputError, match="no legal move"):
        custody.move(posting(source=source, to=to), [])


def test_a_drop_needs_a_reason():
    with pytest.raises(InvalidInputError, match="needs a reason"):
        custody.check(posting(source="buffered", to="dropped"))


def test_a_hole_or_another_account_is_a_conflict():
    spans = [
        Span(start_ns=0, end_ns=4, bytes=40, messages=4, account="buffered"),
        Span(start_ns=5, end_ns=10, bytes=60, messages=6, account="buffered"),
    ]

    with pytest.raises(ConflictError, match="not all of"):
        custody.move(posting(source="buffered", to="kept"), spans)
    with pytest.raises(ConflictError, match="never lived"):
        custody.move(posting(source="buffered", to="kept", end=4, start=0), [])


def test_amounts_must_agree():
    whole = [Span(start_ns=0, end_ns=10, bytes=100, messages=10, account="buffered")]

    with pytest.raises(ConflictError, match="the books hold 50 in 5"):
        custody.move(posting(source="buffered", to="kept", end=5, size=51, messages=5), whole)


@given(st.integers(1, 10**6), st.integers(0, 10**9), st.integers(0, 10**5), st.lists(st.integers(1, 10**6), max_size=6))
def test_pieces_always_sum_to_the_whole(length, size, messages, edges):
    spans = [Span(start_ns=0, end_ns=length, bytes=size, messages=messages, account="kept")]
    for edge in sorted({e for e in edges if e < length}):
        cut = next(s for s in spans if s.start_ns < edge <= s.end_ns)
        before, inside, after = custody.cut(cut, edge, length)
        spans = [s for s in spans if s is not cut] + [s for s in (before, inside, after) if s]

    assert sum(s.bytes for s in spans) == size
    assert sum(s.messages for s in spans) == messages
    assert sum(s.end_ns - s.start_ns for s in spans) == length


@given(st.integers(0, 3 * DAY_NS), st.integers(1, 3 * DAY_NS), st.integers(0, 10**12))
def test_days_sum_to_the_interval(start, length, amount):
    parts = list(custody.days(start, start + length, amount))

    assert sum(p[1] for p in parts) == length
    assert sum(p[2] for p in parts) == amount
    assert all(ns <= DAY_NS for _, ns, _ in parts)
    assert [p[0] for p in parts] == sorted({p[0] for p in parts})
