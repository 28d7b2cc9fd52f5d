"""Learn to steer from recorded frames: imitation of the expert's label, or of the safety driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Data, Tracker, TrainJob
from fleetmill.engines.export_onnx import export
from fleetmill.lines.driving.jitter import recolour
from fleetmill.lines.driving.net import SteeringNet
from fleetmill.lines.driving.shape import MODEL
from fleetmill.lines.fit import Plan, fit, steady, take_over, weights

_BETA = 0.1  # of the steering range: where the smooth L1 loss turns from square to straight
_WRONG = 0.5  # of the steering range: from here on a row has all of its extra weight


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """Settings of one training, named as in `TrainJob.settings`; there `steps` stands for both numbers of steps."""

    labels: str = "oracle"  # "oracle": every row, the expert's label. "driver": what a person did who drove
    steps_first: int = 450
    steps_next: int = 300
    lr: float = 3e-3
    batch: int = 64
    surprise: float = 8.0  # extra weight of rows where the model of that day was wrong: 0 is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What is learned from: all usable rows, and how often each is drawn."""

    camera: torch.Tensor
    speed: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


def train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """A model version's files.

    Raises:
        InvalidInputError: a setting is out of range, or no row is usable with these labels.
        LineError: the parent's weights are another network's.
        Stopped: the run was cancelled through the tracker.
    """
    lesson = _lesson(job.settings)
    steps = lesson.steps_first if job.parent is None else lesson.steps_next
    with steady(job.seed):
        net = SteeringNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        take_over(net, job.parent)
        if steps:
            _teach(net, job, steps, lesson, tracker)
        return {"model.onnx": export(net, MODEL), "weights.safetensors": weights(net)}


def _teach(net: SteeringNet, job: TrainJob, steps: int, lesson: Lesson, tracker: Tracker) -> None:
    rows = _rows(job.data.split("train"), lesson)

    def loss(chance: np.random.Generator) -> torch.Tensor:
        batch = _batch(rows, lesson.batch, torch.Generator().manual_seed(int(chance.integers(2**31))))
        camera, speed, target = (tensor.to(job.accelerator) for tensor in batch)
        return torch.nn.functional.smooth_l1_loss(net(camera, speed), target, beta=_BETA)

    plan = Plan(steps=steps, rate=lesson.lr, keep=100)
    fit(net, loss, plan, job, tracker, {f"rows.{lesson.labels}": float(len(rows.target))})


def _batch(rows: Rows, size: int, chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows drawn by weight, in colours of their own, half of them seen in a mirror."""
    drawn = torch.multinomial(rows.weight, size, replacement=True, generator=chance)
    camera = recolour(rows.camera[drawn].float(), chance)
    target, half = rows.target[drawn], size // 2
    mirrored = torch.cat([camera[:half].flip(2), camera[half:]])
    return mirrored, rows.speed[drawn], torch.cat([-target[:half], target[half:]])


def _rows(data: Data, lesson: Lesson) -> Rows:
    driven = np.asarray(data.column("takeover")) > 0.5
    driven |= np.isnan(data.column("model.steer"))  # before there was a model, a person drove all the time
    source = data.column("label.steer" if lesson.labels == "oracle" else "steer")
    usable = np.isfinite(source) if lesson.labels == "oracle" else driven & np.isfinite(source)
    if not usable.any():
        raise InvalidInputError(f"labels = {lesson.labels!r}: none of {len(driven)} rows has one")
    return Rows(
        camera=_tensor(data.column("camera"), usable, np.uint8),
        speed=_tensor(data.column("speed"), usable, np.float32),
        target=_tensor(source, usable, np.float32),
        weight=torch.from_numpy(_weights(data.column("model.steer"), source, lesson.surprise)[usable]),
    )


def _weights(proposed: Array, target: Array, surprise: float) -> Array:
    wrong = np.abs(proposed.astype(np.float64) - target)
    found: Array = 1.0 + surprise * np.clip(np.nan_to_num(wrong) / _WRONG, 0.0, 1.0)  # NaN: no model drove
    return found


def _tensor(column: Array, usable: Array, dtype: type) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(column[usable], dtype=dtype))


def _lesson(settings: Mapping[str, float | int | str | bool]) -> Lesson:
    known = {name: settings[name] for name in Lesson.__dataclass_fields__ if name in settings}
    if "steps" in settings:
        known |= {"steps_first": settings["steps"], "steps_next": settings["steps"]}
    lesson = Lesson(**known)  # type: ignore[arg-type]
    if lesson.labels not in ("oracle", "driver"):
        raise InvalidInputError(f"labels = {lesson.labels!r}: must be 'oracle' or 'driver'")
    if min(lesson.steps_first, lesson.steps_next, lesson.surprise) < 0 or lesson.batch < 2 or lesson.lr <= 0:
        raise InvalidInputError(f"{lesson}: steps and surprise must be 0 or more, batch 2 or more, lr above 0")
    return lesson
