"""Teach the forecaster: two weeks of hours and the calendar in, three quantiles of each of the next 24 hours out.

The graph scales each history by its own mean and spread, so one model serves a street and a car park. It starts from
what was counted one week, two weeks and a day before, weighs these, and learns what must be added. Missing hours are
marked, and a third of the histories are cut short while learning: a fresh device has no two weeks yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, ModelSpec, Tracker, TrainJob
from fleetmill.engines.export_onnx import export
from fleetmill.lines.fit import Plan, fit, steady, take_over, weights
from fleetmill.lines.traffic.windows import AHEAD, HISTORY, WEEK

_MOST, _LEAST_STEPS, _PASSES = 1500, 300, 20  # steps, and how often each hour is seen where there are few
_RATE, _DECAY, _CLIP = 1e-3, 1e-2, 1.0
_BATCH = 256
_WIDTH = 256
_DROP = 0.1
_SHORT = 0.3  # share of histories that are cut short
_LEAST = 24  # counted hours of a history to learn from
_QUANTILES = (0.1, 0.5, 0.9)


class Forecaster(torch.nn.Module):
    """volume (B, 336) with NaN for what is missing, calendar (B, 4) -> low, middle, high (B, 24) each."""

    def __init__(self) -> None:
        super().__init__()
        self.days = torch.nn.Linear(24 + 7 + 2, 32)
        self.first = torch.nn.Linear(2 * HISTORY + 6 * AHEAD + 32, _WIDTH)
        self.second = torch.nn.Linear(_WIDTH, _WIDTH)
        self.last = torch.nn.Linear(_WIDTH, 3 * AHEAD)
        self.drop = torch.nn.Dropout(_DROP)
        self.trust = torch.nn.Parameter(torch.zeros(3))  # in last week, the week before, yesterday; as logs
        torch.nn.init.zeros_(self.last.weight)
        torch.nn.init.zeros_(self.last.bias)

    def forward(self, volume: torch.Tensor, calendar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is told, as it is counted."""
        quantiles, mean, spread = self.scaled(volume, calendar)
        told = quantiles * spread[:, None] + mean[:, None]
        return told[:, :, 0], told[:, :, 1], told[:, :, 2]

    def scaled(self, volume: torch.Tensor, calendar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(quantiles (B, 24, 3) as shares of the history's spread from its mean, mean (B, 1), spread (B, 1))."""
        share, known, mean, spread = _share(volume)
        ago = [slice(HISTORY - WEEK, HISTORY - WEEK + AHEAD), slice(0, AHEAD), slice(HISTORY - AHEAD, HISTORY)]
        then = torch.stack([share[:, part] for part in ago], 2)
        was = torch.stack([known[:, part] for part in ago], 2)
        trust = torch.exp(self.trust) * was
        start = (then * trust).sum(2) / trust.sum(2).clamp_min(1e-6)
        seen = torch.cat([share, known, then.flatten(1), was.flatten(1), torch.relu(self.days(_days(calendar)))], 1)
        hidden = self.drop(torch.relu(self.first(seen)))
        added = self.last(hidden + torch.relu(self.second(hidden))).view(-1, AHEAD, 3)
        middle = start + added[:, :, 1]
        below, above = (torch.nn.functional.softplus(added[:, :, place] - 1.0) for place in (0, 2))
        return torch.stack([middle - below, middle, middle + above], 2), mean, spread


def _share(volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(share, known) (B, 336) and (mean, spread) (B, 1): each history by its own measure."""
    known = (~torch.isnan(volume)).to(torch.float32)
    filled = torch.where(torch.isnan(volume), torch.zeros_like(volume), volume)
    number = known.sum(1, keepdim=True).clamp_min(1.0)
    mean = filled.sum(1, keepdim=True) / number
    apart = (filled - mean) * known
    spread = (apart.square().sum(1, keepdim=True) / number).sqrt() + 0.05 * mean.abs() + 1e-3
    return apart / spread, known, mean, spread


def _days(calendar: torch.Tensor) -> torch.Tensor:
    """(B, 33): the hour and the weekday as marks, holiday today and tomorrow."""
    marks = [
        (torch.arange(number, dtype=torch.float32) == calendar[:, place : place + 1].floor().clamp(0, number - 1))
        for place, number in ((0, 24), (1, 7))
    ]
    return torch.cat([*(mark.to(torch.float32) for mark in marks), calendar[:, 2:4].clamp(0.0, 1.0)], 1)


def train(job: TrainJob, tracker: Tracker, spec: ModelSpec) -> Mapping[str, bytes]:
    """Pinball loss over all hours, each as likely as the other; from a parent the net goes on.

    Raises:
        InvalidInputError: there is no hour to learn from.
        LineError: the parent's weights are another network's.
        Stopped: the run was cancelled through the tracker.
    """
    with steady(job.seed):
        net = Forecaster()
        take_over(net, job.parent)
        if job.settings.get("steps") != 0:
            _teach(net, job, tracker)
        return {"model.onnx": export(net, spec), "weights.safetensors": weights(net)}


def _teach(net: Forecaster, job: TrainJob, tracker: Tracker) -> None:
    filled, calendar, rows = _hours(job)
    if not len(rows):
        raise InvalidInputError(
            f"traffic: no hour to learn from; import a sensor with {_LEAST} counted hours or more that train"
        )
    enough = min(max(_PASSES * len(rows) // _BATCH, _LEAST_STEPS), _MOST)  # more makes intervals too narrow
    steps, rate = int(job.settings.get("steps", enough)), float(job.settings.get("rate", _RATE))
    plan = Plan(steps=steps, rate=rate, decay=_DECAY, clip=_CLIP)
    quantile = torch.tensor(_QUANTILES)

    def loss(chance: np.random.Generator) -> torch.Tensor:
        drawn = rows[chance.integers(len(rows), size=_BATCH)]
        volume = _shortened(filled[drawn[:, None] + np.arange(1 - HISTORY, 1)], chance)
        came = torch.from_numpy(filled[drawn[:, None] + np.arange(1, AHEAD + 1)])
        seen = (torch.from_numpy(part).to(job.accelerator) for part in (volume, calendar[drawn]))
        told, mean, spread = (part.to("cpu") for part in net.scaled(*seen))
        known = ~torch.isnan(came)
        error = ((came - mean) / spread)[:, :, None] - told
        error = torch.where(known[:, :, None], error, torch.zeros_like(error))
        return torch.maximum(quantile * error, (quantile - 1.0) * error).sum() / known.sum().clamp_min(1)

    fit(net, loss, plan, job, tracker, {"rows.counted": float(len(rows))})


def _hours(job: TrainJob) -> tuple[Array, Array, Array]:
    """(volume with two weeks of nothing before each session and a day after, calendar, rows to learn from)."""
    data = job.data.split("train")
    volume, calendar = [np.zeros(0, np.float32)], [np.zeros((0, 4), np.float32)]
    for episode in (data.episode(index) for index in range(len(data))):
        inside = np.asarray(episode.columns["volume"], np.float32)
        volume.append(np.pad(inside, (HISTORY, AHEAD), constant_values=np.nan))
        calendar.append(np.pad(np.asarray(episode.columns["calendar"], np.float32), ((HISTORY, AHEAD), (0, 0))))
    filled = np.concatenate(volume)
    counted = np.concatenate([[0], np.cumsum(np.isfinite(filled))])
    rows = np.arange(HISTORY, max(len(filled) - AHEAD, HISTORY))
    enough = counted[rows + 1] - counted[rows + 1 - HISTORY] >= _LEAST
    some = counted[rows + 1 + AHEAD] - counted[rows + 1] > 0
    return filled, np.concatenate(calendar), rows[enough & some]


def _shortened(volume: Array, chance: np.random.Generator) -> Array:
    """Some of the histories begin later than two weeks ago."""
    length = np.where(chance.random(len(volume)) < _SHORT, chance.integers(_LEAST, HISTORY, len(volume)), HISTORY)
    return np.where(np.arange(HISTORY) < (HISTORY - length)[:, None], np.float32(np.nan), volume)
