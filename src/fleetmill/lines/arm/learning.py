"""Imitate the expert: a small net on geometry. Loads torch; the line imports it inside `train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Data, ModelSpec, Tracker, TrainJob
from fleetmill.engines.export_onnx import export
from fleetmill.lines.arm.expert import FINGERS, GOAL, GRIP, THING
from fleetmill.lines.fit import Plan, fit, steady, take_over, weights

_STEPS = 1000  # of one generation, also of those that go on from a parent
_BATCH = 256
_RATE = 2e-3
_WIDTH = 128
_LABEL = "label.move"


class ArmNet(torch.nn.Module):
    """State (B, 28) in metres -> move (B, 4) within -1..1: two hidden layers over 17 geometric numbers."""

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(17))
        self.register_buffer("spread", torch.ones(17))
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(17, _WIDTH), torch.nn.ReLU(), torch.nn.Linear(_WIDTH, _WIDTH), torch.nn.ReLU(),
            torch.nn.Linear(_WIDTH, 4), torch.nn.Tanh(),
        )  # fmt: skip

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Move for each state."""
        move: torch.Tensor = self.layers((geometry(state) - self.mean) / self.spread)
        return move


def geometry(state: torch.Tensor) -> torch.Tensor:
    """The 17 numbers: grip, thing - grip, goal - thing, fingers, the thing's and the grip's velocity (m per step)."""
    grip, thing, goal = state[:, GRIP], state[:, THING], state[:, GOAL]
    return torch.cat([grip, thing - grip, goal - thing, state[:, FINGERS], state[:, 14:17], state[:, 20:23]], dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What is learned from."""

    state: torch.Tensor
    right: torch.Tensor  # the expert's moves
    sources: dict[str, float]


def train(job: TrainJob, tracker: Tracker, spec: ModelSpec) -> Mapping[str, bytes]:
    """Mean absolute distance to the expert over all training rows, each as likely as the other.

    Raises:
        InvalidInputError: there is no row to learn from.
        LineError: the parent's weights are another network's.
        Stopped: the run was cancelled through the tracker.
    """
    plan = Plan(steps=int(job.settings.get("steps", _STEPS)), rate=float(job.settings.get("rate", _RATE)))
    with steady(job.seed):
        net = ArmNet()
        take_over(net, job.parent)
        if plan.steps:
            _teach(net, job, plan, tracker)
        return {"model.onnx": export(net, spec), "weights.safetensors": weights(net)}


def _teach(net: ArmNet, job: TrainJob, plan: Plan, tracker: Tracker) -> None:
    rows = _rows(job.data.split("train"), str(job.settings.get("labels", "oracle")))
    if job.parent is None:  # a child keeps its parent's scale: its weights mean nothing on another one
        seen = geometry(rows.state)
        net.mean.copy_(seen.mean(dim=0))
        net.spread.copy_(seen.std(dim=0, correction=0).clamp_min(1e-3))

    def loss(chance: np.random.Generator) -> torch.Tensor:
        drawn = torch.from_numpy(chance.integers(len(rows.state), size=_BATCH))
        state, right = rows.state[drawn].to(job.accelerator), rows.right[drawn].to(job.accelerator)
        return torch.nn.functional.l1_loss(net(state), right)

    fit(net, loss, plan, job, tracker, rows.sources)


def _rows(data: Data, labels: str) -> Rows:
    """Rows to learn from. ``oracle``: all, relabelled by the expert; ``driver``: only those where a person moved."""
    if labels not in ("oracle", "driver"):
        raise InvalidInputError(f"labels = {labels!r}: must be 'oracle' or 'driver'")
    if not len(data):
        raise InvalidInputError("arm: no attempt to learn from; record some with the expert first")
    state, right, done, taken = (np.array(data.column(n), np.float32) for n in ("state", _LABEL, "move", "takeover"))
    operator = taken > 0.5
    shown = ~operator & (done == right).all(axis=1)
    usable = operator | shown if labels == "driver" else np.ones(len(state), bool)
    if not usable.any():
        raise InvalidInputError(f"labels = {labels!r}: none of {len(state)} rows has one")
    return Rows(
        state=torch.from_numpy(state[usable]),
        right=torch.from_numpy((done if labels == "driver" else right)[usable]),
        sources={
            "rows.operator": float(operator.sum()),
            "rows.demonstration": float(shown.sum()),
            "rows.oracle": float((usable & ~operator & ~shown).sum()),
        },
    )
