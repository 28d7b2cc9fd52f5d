"""Imitate the expert: a small net on geometry. Loads torch; the line imports it inside `train`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fleetmill.core.line import ModelSpec, Tracker, TrainJob
from fleetmill.engines.export_onnx import export
from fleetmill.lines.arm.expert import FINGERS, GOAL, GRIP, THING
from fleetmill.lines.fit import Plan, fit, steady, take_over, weights

_STEPS = 1000  # of one generation, also of those that go on from a parent
_BATCH = 256
_RATE = 2e-3
_WIDTH = 128


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


def train(job: TrainJob, tracker: Tracker, spec: ModelSpec) -> Mapping[str, bytes]:
    """Mean absolute distance to the expert over all training rows, each as likely as the other."""
    data = job.data.split("train")
    states = torch.from_numpy(np.array(data.column("state"), dtype=np.float32))
    moves = torch.from_numpy(np.array(data.column("label.move"), dtype=np.float32))
    taken, done = np.asarray(data.column("takeover")), np.asarray(data.column("move"))
    plan = Plan(steps=int(job.settings.get("steps", _STEPS)), rate=float(job.settings.get("rate", _RATE)))
    with steady(job.seed):
        net = ArmNet()
        if job.parent is None and len(states):
            net.mean.copy_(geometry(states).mean(dim=0))
            net.spread.copy_(geometry(states).std(dim=0).clamp_min(1e-3))
        take_over(net, job.parent)

        def loss(chance: np.random.Generator) -> torch.Tensor:
            rows = torch.from_numpy(chance.integers(len(states), size=_BATCH))
            return torch.nn.functional.l1_loss(net(states[rows]), moves[rows])

        fit(net, loss, plan, job, tracker, _sources(taken, done, moves.numpy()))
        return {"model.onnx": export(net, spec), "weights.safetensors": weights(net)}


def _sources(taken: np.ndarray, done: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Label rows by who said what was right: the operator's own moves, demonstrations, or the oracle afterwards."""
    operator = taken > 0.5
    shown = ~operator & (done == right).all(axis=1)
    return {
        "rows.operator": float(operator.sum()),
        "rows.demonstration": float(shown.sum()),
        "rows.oracle": float((~operator & ~shown).sum()),
    }
