"""The line ``rccar``: a toy car learns from its driver to steer by its camera, from real Donkeycar tubs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleetmill.core.line import Check, Feature, Frame, Judging, Line, Memory, ModelSpec, Port, Tracker, TrainJob
from fleetmill.lines.rccar.cutting import PERIOD_NS, SHAPE, cut
from fleetmill.lines.rccar.importing import donkeycar
from fleetmill.lines.rccar.judging import baseline, metrics, score

_SPEC = ModelSpec(
    inputs=(Port(name="camera", dtype="uint8", shape=SHAPE, feature="camera"),),
    outputs=(Port(name="steer", dtype="float32", shape=(), feature="steer"),),
    rate_hz=20.0,
    latency_ns=25_000_000,
)


def train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """The model's files; see `learning.train`."""
    from fleetmill.lines.rccar.learning import train as learn

    return learn(job, tracker, _SPEC)


def guard(action: Frame, observation: Frame, memory: Memory) -> tuple[Frame, Memory]:  # noqa: ARG001
    """Steering within full lock; what is no number steers straight on."""
    steer = np.clip(np.nan_to_num(action["steer"], posinf=0.0, neginf=0.0), -1.0, 1.0)
    return {"steer": np.asarray(steer, dtype=np.float32)}, memory


def _feature(name: str, kind: str, unit: str = "1", dtype: str = "float32", shape: tuple[int, ...] = ()) -> Feature:
    return Feature(name=name, kind=kind, dtype=dtype, shape=shape, unit=unit, hold_ns=PERIOD_NS)  # type: ignore[arg-type]


line = Line(
    name="rccar",
    features=(
        _feature("camera", "observation", dtype="uint8", shape=SHAPE),
        _feature("range_cm", "observation", unit="cm"),  # ultrasonic, not in every tub; no input of the model
        _feature("steer", "action"),  # share of full lock, right is positive
        _feature("throttle", "action"),
        _feature("label.steer", "label"),  # what the driver did; source: driver
        _feature("model.steer", "extra"),
        _feature("mode", "extra", dtype="str"),  # user, local_angle, local
        _feature("deleted", "extra"),  # 1 where a human marked the record as bad
    ),
    model=_SPEC,
    cut=cut,
    train=train,
    judging=Judging(score=score, metrics=metrics, baseline=baseline),
    checks=(
        Check(metric="steering_rmse", better="lower", against="baseline", limit=1.0),
        # a handful of held-out drives cannot prove a small gain: not worse by more than 2 %
        Check(metric="steering_rmse", better="lower", against="champion", limit=1.02, first=False),
    ),
    guard=guard,
    slices={
        "turning": lambda episode: bool(np.abs(episode.columns["label.steer"]).mean() > 0.5),
        "straight": lambda episode: bool(np.abs(episode.columns["label.steer"]).mean() <= 0.5),
    },
    importers=(donkeycar,),
)
