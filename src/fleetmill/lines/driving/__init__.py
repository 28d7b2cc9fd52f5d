"""Cars that learn to steer: a camera from above, cruise control, a safety driver, roadworks nobody had seen before.

The simulator is gymnasium's CarRacing-v3 (extra ``sim``), training is PyTorch (extra ``train``); both are imported when
they are used. What was measured with this line, and what it does not show: docs/lines/driving.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleetmill.core.errors import EngineMissingError
from fleetmill.core.line import (
    Check,
    Episode,
    Frame,
    Judging,
    Line,
    Recipe,
    Round,
    Tracker,
    TrainJob,
    Trigger,
    World,
)
from fleetmill.lines.driving import scoring
from fleetmill.lines.driving.cutting import cut
from fleetmill.lines.driving.shape import FEATURES, MODEL

_SURPRISE = 0.35  # of the steering range from the expert: 0.14 rad at the wheels


def train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """`training.train`, with PyTorch imported now.

    Raises:
        EngineMissingError: PyTorch, ONNX or safetensors is not installed.
    """
    try:
        from fleetmill.lines.driving import training
    except ModuleNotFoundError as error:
        raise EngineMissingError(str(error.name), extra="train") from error
    return training.train(job, tracker)


def world(scenario: str, seed: int) -> World:
    """`world.DrivingWorld`, with the simulator imported now.

    Raises:
        EngineMissingError: gymnasium, Box2D or pygame is not installed.
        InvalidInputError: there is no such scenario.
    """
    try:
        from fleetmill.lines.driving.world import DrivingWorld
    except ModuleNotFoundError as error:
        raise EngineMissingError(str(error.name), extra="sim") from error
    return DrivingWorld(scenario, seed)


def stands_still(observation: Frame) -> bool:
    """A new model may be put in while the car is not moving."""
    return float(observation["speed"]) < 0.5


def was_held(episode: Episode) -> bool:
    """The safety driver had the wheel at some time."""
    return bool((episode.columns["takeover"] > 0.5).any())


def was_surprised(episode: Episode) -> bool:
    """The model that drove was far from the expert at some time."""
    wrong = np.abs(episode.columns["model.steer"] - episode.columns["label.steer"])
    return bool((wrong > _SURPRISE).any())  # NaN, no model or no label, is not above anything


def is_sharp(episode: Episode) -> bool:
    """A bend or an evasion that wants more than half of the wheel."""
    return bool((np.abs(episode.columns["label.steer"]) > 0.5).any())


line = Line(
    name="driving",
    features=FEATURES,
    model=MODEL,
    cut=cut,
    train=train,
    judging=Judging(
        score=scoring.score,
        metrics=scoring.metrics,
        live=scoring.live,
        baseline=scoring.baseline,
        scenario="field",
        trial_seconds=10.0,
        looks=(16, 24, 32, 40),
    ),
    checks=(
        Check(metric="takeovers_per_km", better="lower", against="champion", limit=1.0, first=False),
        Check(metric="takeovers_per_km", better="lower", against="baseline", limit=1.0),
        Check(metric="off_road_per_km", better="lower", against="champion", limit=1.5, first=False),
        Check(metric="mean_speed", better="higher", against="champion", limit=0.95, first=False),
    ),
    triggers=(
        Trigger(when="takeover > 0.5", before_ns=1_600_000_000, after_ns=800_000_000, priority=1),
        Trigger(
            when=f"abs(model.steer - label.steer) > {_SURPRISE}",
            before_ns=240_000_000,
            after_ns=240_000_000,
        ),
    ),
    guard=scoring.guard,
    safe=stands_still,
    slices={"held by the safety driver": was_held, "far from the expert": was_surprised, "sharp": is_sharp},
    world=world,
    recipe=Recipe(
        devices=12,
        first=Round(scenario="default", sessions=1, seconds=20.0, budget_ratio=1.0),
        then=Round(scenario="field", sessions=1, seconds=25.0, budget_ratio=0.35),
        headline="takeovers_per_km",
        shown=1,
        report_trials=20,
        report_seconds=20.0,
    ),
)
