"""Ready-made parts of a line keep the contract, and break nothing that they are given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill.core.line import Message, Stretch
from fleetmill.lines import find
from fleetmill.lines.ready import rows_of, still
from fleetmill.testing import check_line, made_up, tiny_line

CUT = rows_of("x", "label.y", period_ns=100)


def stretch_of(rows):
    """`rows`: (time, topics recorded then)."""
    messages = [
        Message(topic=name, log_time_ns=at, publish_time_ns=at, value={"data": np.float32(at)})
        for at, names in rows
        for name in names
    ]
    return Stretch(device="d", session="s", index=0, tags={"room": "a"}, messages=messages)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.sets(st.sampled_from(["x", "label.y", "takeover"]))), max_size=40))
def test_a_row_stands_for_each_whole_instant_in_order(rows):
    seen = {}
    for at, names in rows:
        seen.setdefault(at, set()).update(names)
    whole = sorted(at for at, names in seen.items() if {"x", "label.y"} <= names)

    found = list(CUT(stretch_of(rows)))

    assert [list(e.times_ns) for e in found] == ([whole] if whole else [])
    for episode in found:
        assert (episode.start_ns, episode.end_ns) == (whole[0], whole[-1] + 100)
        np.testing.assert_array_equal(episode.columns["x"], np.array(whole, np.float32))
        assert episode.tags == {"room": "a"}


def test_the_tiny_line_may_be_cut_and_challenged_by_ready_parts():
    line = replace(
        tiny_line,
        cut=rows_of("x", "label.y", period_ns=100_000_000),
        judging=replace(tiny_line.judging, baseline=still(tiny_line.model)),
    )

    assert check_line(line) == []
    assert check_line(replace(line, world=None), stretches=made_up(line)) == []


def test_a_still_policy_answers_zeros_in_the_shapes_of_the_ports():
    policy = still(tiny_line.model)(None)

    assert policy.step({"x": np.ones(3, np.float32)}) == {"y": 0.0}
    np.testing.assert_array_equal(policy.ask({"x": np.ones((5, 3), np.float32)})["y"], np.zeros(5, np.float32))


@pytest.mark.parametrize("name", ["driving", "rccar"])
def test_made_up_recordings_have_the_shapes_that_a_line_declares(name):
    line = find(name)
    first, again = made_up(line, number=1, seconds=0.5), made_up(line, number=1, seconds=0.5)
    features = {f.name: f for f in line.features}

    for message, same in zip(first[0].messages, again[0].messages, strict=True):
        value = message.value["data"]
        assert value.dtype == features[message.topic].dtype
        assert len(value.shape) == len(features[message.topic].shape)
        np.testing.assert_array_equal(value, same.value["data"])
