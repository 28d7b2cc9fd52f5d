"""The line ``arm``: a robot arm learns to pick and place from demonstrations and from its operator's rescues."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleetmill.core.line import (
    Check,
    Episode,
    Feature,
    Frame,
    Judging,
    Line,
    Memory,
    ModelSpec,
    Port,
    Recipe,
    Round,
    Tracker,
    TrainJob,
    Trigger,
    World,
)
from fleetmill.lines.arm.cutting import cut
from fleetmill.lines.arm.drawing import draw
from fleetmill.lines.arm.expert import GOAL, THING
from fleetmill.lines.arm.judging import baseline, live, metrics, score
from fleetmill.lines.arm.world import ALONE_STEPS, PERIOD_NS, RESCUE_STEPS, Attempt

_TABLE_M = 0.45  # a thing whose middle is higher than this is held (it rests at 0.425)
_ALONE_SECONDS = (ALONE_STEPS + 1) * PERIOD_NS / 1e9  # what the operator does afterwards decides nothing
_ATTEMPT_SECONDS = (ALONE_STEPS + RESCUE_STEPS + 1) * PERIOD_NS / 1e9  # the world ends it, sooner or there

_SPEC = ModelSpec(
    inputs=(Port(name="state", dtype="float32", shape=(28,), feature="state"),),
    outputs=(Port(name="move", dtype="float32", shape=(4,), feature="move"),),
    rate_hz=25.0,
    latency_ns=5_000_000,
)


def train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """The model's files; see `learning.train`."""
    from fleetmill.lines.arm.learning import train as learn

    return learn(job, tracker, _SPEC)


def world(scenario: str, seed: int) -> World:
    """An attempt: ``default`` without, ``field`` with an operator who rescues."""
    return Attempt(scenario, seed)


def guard(action: Frame, observation: Frame, memory: Memory) -> tuple[Frame, Memory]:  # noqa: ARG001
    """Nothing beyond what the arm can do, and what is no number stands still."""
    return {"move": np.clip(np.nan_to_num(action["move"], posinf=0.0, neginf=0.0), -1.0, 1.0)}, memory


def safe(observation: Frame) -> bool:
    """A new model may be put in while nothing is held up."""
    return bool(observation["state"][THING][2] < _TABLE_M)


def _in_air(episode: Episode) -> bool:
    return bool(episode.columns["state"][0, GOAL][2] > _TABLE_M)


line = Line(
    name="arm",
    features=(
        Feature(name="state", kind="observation", dtype="float32", shape=(28,), unit="m", hold_ns=PERIOD_NS),
        Feature(name="move", kind="action", dtype="float32", shape=(4,), unit="1", hold_ns=PERIOD_NS),
        Feature(name="label.move", kind="label", dtype="float32", shape=(4,), unit="1", hold_ns=PERIOD_NS),
        Feature(name="model.move", kind="extra", dtype="float32", shape=(4,), unit="1", hold_ns=PERIOD_NS),
        Feature(name="takeover", kind="extra", dtype="float32", shape=(), unit="1", hold_ns=PERIOD_NS),
    ),
    model=_SPEC,
    cut=cut,
    train=train,
    judging=Judging(
        score=score,
        metrics=metrics,
        live=live,
        baseline=baseline,
        scenario="field",
        trial_seconds=_ALONE_SECONDS,
        looks=(32, 64, 96, 128),  # a yes-or-no metric needs more pairs than a rate, and an attempt is short
    ),
    checks=(
        Check(metric="success", better="higher", against="champion", limit=1.0, first=False),
        Check(metric="success", better="higher", against="baseline", limit=1.0),
    ),
    # an attempt that needed rescue is kept whole, one that did not is not kept
    triggers=(Trigger(when="takeover > 0.5", before_ns=ALONE_STEPS * PERIOD_NS, after_ns=RESCUE_STEPS * PERIOD_NS),),
    guard=guard,
    safe=safe,
    slices={"air": _in_air, "table": lambda episode: not _in_air(episode)},
    world=world,
    recipe=Recipe(
        devices=8,
        first=Round(scenario="default", sessions=2, seconds=_ATTEMPT_SECONDS, budget_ratio=1.0),
        then=Round(scenario="field", sessions=16, seconds=_ATTEMPT_SECONDS, budget_ratio=0.35),
        headline="success",
        report_trials=100,
        report_seconds=_ALONE_SECONDS,
        quick=(2, 8),
        draw=draw,
    ),
)
