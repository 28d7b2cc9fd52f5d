"""Teach the net that tells how many cycles are left: whole lives in training, one cycle at a time on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, ModelSpec, Tracker, TrainJob
from fleetmill.engines.export_onnx import export
from fleetmill.lines.fit import Plan, fit, steady, take_over, weights
from fleetmill.lines.machine.life_files import SENSORS, SETTINGS
from fleetmill.lines.machine.life_judging import MOST

_STEPS, _RATE, _DECAY, _CLIP = 600, 5e-3, 1e-2, 1.0
_DROP = 0.2
_LIVES = 16  # a batch
_LATE = 0.3  # share of lives that are seen from some cycle on: a device may start with a worn engine
_NOISE = 0.2  # of a sensor's spread, added while learning
_WIDTH = 16  # of what the memory sees
_STILL = 1e-4  # a sensor with less spread says nothing


class LifeNet(torch.nn.Module):
    """A gated recurrent unit over cycles; `forward` is one cycle, `lives` is the same over whole lives."""

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(SETTINGS + SENSORS))
        self.register_buffer("spread", torch.ones(SETTINGS + SENSORS))
        self.seen = torch.nn.Linear(SETTINGS + SENSORS, _WIDTH)
        self.unit = torch.nn.GRU(_WIDTH, memory, batch_first=True)
        self.drop = torch.nn.Dropout(_DROP)
        self.hidden = torch.nn.Linear(memory, 16)
        self.told = torch.nn.Linear(16, 1)
        torch.nn.init.constant_(self.told.bias, 0.7)  # of 125: the mean of a life

    def forward(
        self, settings: torch.Tensor, sensors: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(rul (B,), memory (B, M)) after one cycle: the unit's equations, written out for one step."""
        x = self._inputs(torch.cat([settings, sensors], 1))
        (rx, zx, nx), (rh, zh, nh) = self._gates("ih", x), self._gates("hh", memory)
        reset, keep = torch.sigmoid(rx + rh), torch.sigmoid(zx + zh)
        after = (1.0 - keep) * torch.tanh(nx + reset * nh) + keep * memory
        return self._answer(after), after

    def lives(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (B, T, 24) -> cycles left (B, T)."""
        memory, _ = self.unit(self.drop(self._inputs(rows)))
        return self._answer(self.drop(memory))

    def _gates(self, which: str, given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight, bias = (self.unit.get_parameter(f"{name}_{which}_l0") for name in ("weight", "bias"))
        return torch.nn.functional.linear(given, weight, bias).chunk(3, 1)

    def _inputs(self, rows: torch.Tensor) -> torch.Tensor:
        whole = (rows - self.mean) / self.spread
        whole = torch.where(torch.isnan(whole), torch.zeros_like(whole), whole)  # a silent sensor: its mean
        return torch.tanh(self.seen(whole.clamp(-5.0, 5.0)))

    def _answer(self, memory: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = MOST * self.told(torch.relu(self.hidden(memory)))
        return answer[..., 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Life:
    """One engine's cycles."""

    rows: Array  # float32 (T, 24)
    label: Array  # float32 (T,), clipped; NaN where nobody knows


def train(job: TrainJob, tracker: Tracker, spec: ModelSpec) -> Mapping[str, bytes]:
    """Mean squared error over whole lives, each engine as likely as the other; from a parent the net goes on.

    Raises:
        InvalidInputError: there is no labelled cycle to learn from.
        LineError: the parent's weights are another network's.
        Stopped: the run was cancelled through the tracker.
    """
    steps, rate = int(job.settings.get("steps", _STEPS)), float(job.settings.get("rate", _RATE))
    with steady(job.seed):
        net = LifeNet(memory=next(p.shape[0] for p in spec.inputs if p.name == "memory"))
        take_over(net, job.parent)
        if steps:
            _teach(net, job, Plan(steps=steps, rate=rate, decay=_DECAY, clip=_CLIP), tracker)
        return {"model.onnx": export(net, spec), "weights.safetensors": weights(net)}


def _teach(net: LifeNet, job: TrainJob, plan: Plan, tracker: Tracker) -> None:
    lives = _lives(job)
    if not lives:
        raise InvalidInputError("machine_life: no labelled cycle to learn from; import engines that ran to failure")
    if job.parent is None:
        _normalise(net, np.concatenate([life.rows for life in lives]))
    noise = _NOISE * torch.where(net.spread < 1e5, net.spread, torch.zeros_like(net.spread))

    def loss(chance: np.random.Generator) -> torch.Tensor:
        rows, label = _batch(lives, chance)
        known = ~torch.isnan(label)
        rows = rows + noise * torch.from_numpy(chance.standard_normal(rows.shape, dtype=np.float32))
        told = net.lives(rows.to(job.accelerator)).to("cpu")
        error: torch.Tensor = (told[known] - label[known]) / MOST
        return error.square().mean()

    fit(net, loss, plan, job, tracker, {"rows.failure": float(sum(np.isfinite(life.label).sum() for life in lives))})


def _lives(job: TrainJob) -> list[_Life]:
    data = job.data.split("train")
    episodes = [data.episode(index) for index in range(len(data))]
    lives = [
        _Life(
            rows=np.concatenate([e.columns["settings"], e.columns["sensors"]], axis=1).astype(np.float32),
            label=np.minimum(e.columns["label.rul"], np.float32(MOST)),
        )
        for e in episodes
    ]
    return [life for life in lives if np.isfinite(life.label).any()]


def _normalise(net: LifeNet, rows: Array) -> None:
    spread = np.nanstd(rows.astype(np.float64), axis=0)
    net.mean.copy_(torch.from_numpy(np.nan_to_num(np.nanmean(rows.astype(np.float64), axis=0))))
    net.spread.copy_(torch.from_numpy(np.where(spread > _STILL, spread, 1e6)))


def _batch(lives: list[_Life], chance: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Some lives, the shorter ones filled up behind their end with rows that have no label."""
    chosen = [_seen(lives[i], chance) for i in chance.integers(len(lives), size=_LIVES)]
    longest = max(len(life.label) for life in chosen)
    rows = np.zeros((_LIVES, longest, SETTINGS + SENSORS), np.float32)
    label = np.full((_LIVES, longest), np.nan, np.float32)
    for place, life in enumerate(chosen):
        rows[place, : len(life.label)], label[place, : len(life.label)] = life.rows, life.label
    return torch.from_numpy(rows), torch.from_numpy(label)


def _seen(life: _Life, chance: np.random.Generator) -> _Life:
    """The whole life, or its end from some cycle on."""
    start = int(chance.integers(len(life.label))) if chance.random() < _LATE else 0
    return _Life(rows=life.rows[start:], label=life.label[start:])
