"""Every line keeps the contract, and `check_line` notices when one does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fleetmill import lines
from fleetmill.core.line import Check, Feature, Port, Trigger
from fleetmill.testing import check_line, tiny_line

LIVED = [name for name in lines.names() if lines.find(name).world is not None]


def test_the_tiny_line_keeps_the_contract():
    assert check_line(tiny_line) == []


@pytest.mark.parametrize("name", LIVED)
def test_our_lines_with_a_world_keep_the_contract(name):
    assert check_line(lines.find(name)) == []


def flaky(make):
    """A planted bug: every second call gives something else."""
    calls = iter(range(10**6))
    return lambda *args: make(next(calls) % 2, *args)


def noisy_world(odd, scenario, seed):
    return tiny_line.world(scenario, seed + odd)


def noisy_cut(odd, stretch):
    for e in tiny_line.cut(stretch):
        yield replace(e, columns={**e.columns, "x": e.columns["x"] + odd})


def noisy_train(odd, job, tracker):
    files = tiny_line.train(job, tracker)
    return {**files, "weights.bin": bytes([odd])}


def noisy_score(odd, policy, episode):
    return {**tiny_line.judging.score(policy, episode), "wrong": np.asarray(float(odd))}


def forgetful_train(job, tracker):
    return (
        tiny_line.train(replace(job, parent=None, settings={}), tracker)
        if job.parent is None
        else {"model.onnx": __import__("fleetmill.testing", fromlist=["x"]).tiny_model(np.ones(3))}
    )


def last_one(tallies):
    return {"error": float(tallies[-1]["wrong"])}


def sends_more(action, observation, memory):
    return {**action, "brake": np.zeros(())}, memory


def noisy_guard(odd, action, observation, memory):
    return {"y": action["y"] + odd}, memory


def outside(stretch):
    for e in tiny_line.cut(stretch):
        yield replace(e, end_ns=e.end_ns + 10**12)


JUDGING = tiny_line.judging
MODEL = tiny_line.model
BUGS = {
    "a feature twice": (replace(tiny_line, features=tiny_line.features * 2), "stands twice"),
    "a dtype nobody records": (
        replace(tiny_line, features=(Feature(name="c", kind="extra", dtype="complex64", shape=(), unit="1"),)),
        "cannot be recorded",
    ),
    "a port without feature": (
        replace(tiny_line, model=replace(MODEL, inputs=(Port(name="x", dtype="float32", shape=(3,), feature="z"),))),
        "not among",
    ),
    "a label as input": (
        replace(
            tiny_line, model=replace(MODEL, inputs=(Port(name="x", dtype="float32", shape=(), feature="label.y"),))
        ),
        "a label is never",
    ),
    "a trigger on nothing": (replace(tiny_line, triggers=(Trigger(when="fog > 1", before_ns=0, after_ns=0),)), "fog"),
    "no baseline": (replace(tiny_line, judging=replace(JUDGING, baseline=None)), "baseline"),
    "a world with dice": (replace(tiny_line, world=flaky(noisy_world)), "two lives of one seed differ"),
    "a cut with dice": (replace(tiny_line, cut=flaky(noisy_cut)), "two cuts"),
    "a cut beyond its stretch": (replace(tiny_line, cut=outside), "within its stretch"),
    "a cut of nothing": (replace(tiny_line, cut=lambda stretch: iter(())), "nothing was cut"),
    "a training with dice": (replace(tiny_line, train=flaky(noisy_train)), "different bytes"),
    "a training that forgets its parent": (replace(tiny_line, train=forgetful_train), "0 steps"),
    "a model of another name": (
        replace(tiny_line, model=replace(MODEL, outputs=(Port(name="z", dtype="float32", shape=(), feature="y"),))),
        "lacks: z",
    ),
    "a score with dice": (replace(tiny_line, judging=replace(JUDGING, score=flaky(noisy_score))), "two scores"),
    "metrics that depend on order": (replace(tiny_line, judging=replace(JUDGING, metrics=last_one)), "the order"),
    "a check on nothing": (
        replace(tiny_line, checks=(Check(metric="joy", better="higher", against="limit", limit=1.0),)),
        "joy",
    ),
    "a guard that adds": (replace(tiny_line, guard=sends_more), "brake"),
    "a guard with dice": (replace(tiny_line, guard=flaky(noisy_guard)), "answered alike"),
}


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_caught_and_named(bug):
    line, what = BUGS[bug]

    breaches = check_line(line)

    assert breaches
    assert what in " ".join(breaches)
