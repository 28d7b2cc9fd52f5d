"""Streaming and vectorised evaluation say the same; windows fit the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetmill.core import trigger
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Trigger

TERMS = ["steer", "label.steer", "takeover", "missing"]
numbers = st.one_of(st.floats(-2, 2, width=32), st.just(float("nan")))


@st.composite
def texts(draw):
    def comparison():
        a, b = draw(st.sampled_from(TERMS)), draw(st.sampled_from(TERMS))
        limit = draw(st.integers(-9, 9)) / 4
        op = draw(st.sampled_from([">", ">=", "<", "<="]))
        return draw(
            st.sampled_from([a, f"{a} {op} {limit}", f"{a} - {b} {op} {limit}", f"abs({a} - {b}) {op} {limit}"])
        )

    text = comparison()
    for _ in range(draw(st.integers(0, 3))):
        text += f" {draw(st.sampled_from(['and', 'or']))} {comparison()}"
    return text + draw(st.sampled_from(["", " for 0.1s", " for 0.25"]))


@given(texts(), st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=30))
def test_streaming_equals_vectorised(text, rows):
    condition = trigger.parse(text)
    times = np.arange(len(rows)) * 80_000_000
    columns = {name: np.array([row[i] for row in rows]) for i, name in enumerate(TERMS[:3])}
    watch = trigger.Watch(condition)

    streamed = [watch.see(int(t), {k: float(v[i]) for k, v in columns.items()}) for i, t in enumerate(times)]
    holds, peaks = trigger.evaluate(condition, times, columns)

    assert [bool(h) for h in holds] == [s[0] for s in streamed]
    np.testing.assert_array_equal(peaks, [s[1] for s in streamed])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "ends where"),
        ("steer >", "ends where"),
        ("steer > x", "number was expected"),
        ("abs(steer - label.steer > 1", "not closed"),
        ("steer > 1 xor takeover", "'and', 'or' or 'for'"),
        ("steer > 1 for", "one number of seconds"),
        ("steer ! 1", "not understood"),
        ("__import__('os')", "not understood"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_by_name(text, what):
    with pytest.raises(InvalidInputError, match=what):
        trigger.parse(text)


def test_a_window_has_its_seconds_before_and_after():
    times = np.arange(10) * 100
    column = np.array([0, 0, 0, 1, 1, 0, 0, 0, 1, 0.0])

    found = trigger.windows(
        Trigger(when="takeover", before_ns=150, after_ns=100), times, times + 100, {"takeover": column}
    )

    assert [(w.start_ns, w.end_ns) for w in found] == [(150, 600), (650, 1000)]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(0, 2), st.floats(0, 5))), st.integers(0, 150)
)
def test_the_budget_is_never_exceeded_and_the_most_valuable_window_goes_first(rows, most):
    times, sizes = np.arange(20), np.full(20, 7)
    found = [trigger.Window(start_ns=s, end_ns=s + n, priority=p, peak=v) for s, n, p, v in rows]

    kept, wanted = trigger.choose(found, times, sizes, most_bytes=most)

    assert sizes[kept].sum() <= most
    assert not (kept & ~wanted).any()
    if found:
        best = min(found, key=lambda w: w.order)
        inside = (times >= best.start_ns) & (times < best.end_ns)
        assert kept[inside].sum() == min(inside.sum(), most // 7)
