"""The watcher: what is usual for this machine, carried as memory, and how much each kind of oddness counts, learned.

Memory (87 numbers): hours lived, the last hour and value; running mean, distance from it and size of the steps, each
over 1, 6, 24 and 96 hours; mean, distance and a mark for each hour of the day. Fifteen kinds of oddness follow from it
(how far the value, its last hour or six hours, its hour of the day, its step; whether it moves or spreads more or less
than usual). Training learns their weights, none negative, from windows that people marked: the oddest instant of a
window should be an alarm, the oddest of an ordinary day should not (multiple-instance learning).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Episode, ModelSpec, Tracker, TrainJob
from fleetmill.engines.export_onnx import export
from fleetmill.lines.fit import Plan, fit, steady, take_over, weights
from fleetmill.lines.machine.alarm_judging import WARM_HOURS, threshold

_STEPS, _RATE, _DECAY = 80, 0.03, 1e-2
_MARKED = 5.0  # what a marked window counts, in ordinary days
ODD = 15  # kinds of oddness
_TAU = (1.0, 6.0, 24.0, 96.0)  # hours
_FIRST_HOURS = 1.0 / 12.0
_DAYS = 4.0  # after which half of an hour of the day's past is forgotten
_QUIET = -10.0  # score while nobody can know yet


class Watcher(torch.nn.Module):
    """One value at a time, with memory."""

    tau: torch.Tensor
    spread: torch.Tensor
    level: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tau", torch.tensor(_TAU))
        self.register_buffer("spread", torch.ones(ODD))  # of each oddness in training
        self.register_buffer("level", torch.zeros(()))  # what an alarm takes
        self.weight = torch.nn.Parameter(torch.full((ODD,), -2.0))
        self.bias = torch.nn.Parameter(torch.tensor(-3.0))

    def forward(
        self, value: torch.Tensor, hour: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(score (B,), alarm (B,), memory (B, 87)) after one value (B,) at an hour of the day (B,)."""
        odd, after = self.oddness(value, hour, memory)
        told = self.logit(odd) - self.level
        quiet = (after[:, 0] < WARM_HOURS) | torch.isnan(value)
        told = torch.where(quiet, torch.full_like(told, _QUIET), told)
        return told, (told > 0).to(torch.float32), after

    def logit(self, odd: torch.Tensor) -> torch.Tensor:
        """How odd in all (..., ODD) -> (...)."""
        share = (odd / self.spread).clamp(0.0, 8.0)
        return self.bias + (share * torch.nn.functional.softplus(self.weight)).sum(-1)

    def oddness(
        self, value: torch.Tensor, hour: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(kinds of oddness (B, 15), memory after) of one value; a value that is NaN changes nothing."""
        silent = torch.isnan(value)[:, None]
        lived, last = memory[:, 0:1], memory[:, 2:3]
        first = lived <= 0.0
        x = torch.where(silent, last, value[:, None])
        passed = torch.remainder(hour[:, None] - memory[:, 1:2], 24.0)
        passed = torch.where(first, torch.full_like(passed, _FIRST_HOURS), passed)
        mean, apart, moved = memory[:, 3:7], memory[:, 7:11], memory[:, 11:15]
        mean = torch.where(first, x.expand_as(mean), mean)
        step = torch.where(first, torch.zeros_like(x), x - last)
        day, far, seen = memory[:, 15:39], memory[:, 39:63], memory[:, 63:87]
        now = (torch.arange(24, dtype=torch.float32) == hour[:, None].floor().clamp(0.0, 23.0)).to(torch.float32)
        odd = _kinds(x, step, mean, apart, moved, _pick(day, now), _pick(far, now), _pick(seen, now))
        lived_now = lived + passed
        blend = torch.maximum(
            1.0 - torch.exp(-passed / self.tau),
            torch.where(lived_now < self.tau, (passed / lived_now.clamp_min(1e-6)).clamp(0.0, 1.0), 0.0 * self.tau),
        )
        apart_now = torch.where(first, apart, apart + blend * ((x - mean).abs() - apart))
        moved_now = torch.where(first, moved, moved + blend * (step.abs() - moved))
        share = now * torch.where(seen > 0.5, 1.0 - torch.exp(-passed / _DAYS), torch.ones_like(seen))
        begun = torch.where(seen > 0.5, (x - day).abs(), apart_now[:, 3:4].expand_as(day))
        after = torch.cat(
            [
                lived_now, hour[:, None], x, mean + blend * (x - mean), apart_now, moved_now,
                day + share * (x - day), far + share * (begun - far), torch.maximum(seen, now),
            ], 1,
        )  # fmt: skip
        return odd * (~silent), torch.where(silent, memory, after)


def _pick(profile: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    return (profile * now).sum(1, keepdim=True)


def _kinds(
    x: torch.Tensor,
    step: torch.Tensor,
    mean: torch.Tensor,
    apart: torch.Tensor,
    moved: torch.Tensor,
    day: torch.Tensor,
    far: torch.Tensor,
    seen: torch.Tensor,
) -> torch.Tensor:
    """(B, 15), none negative; sizes as log(1 + share of what is usual), movements as log of a ratio."""
    (hour_mean, six_mean, day_mean, long_mean), (_, six_apart, day_apart, long_apart) = (
        torch.split(part, 1, 1) for part in (mean, apart)
    )
    hour_moved, six_moved, day_moved, long_moved = torch.split(moved, 1, 1)
    least = 1e-3 * long_mean.abs() + 1e-6
    usual = day_apart + 0.3 * long_apart + least
    from_day, from_long = (x - day_mean) / usual, (x - long_mean) / (long_apart + least)
    from_hour = seen * (x - day) / (far + 0.3 * long_apart + least)
    sizes = [
        from_day.relu(), (-from_day).relu(), from_long.relu(), (-from_long).relu(),
        ((hour_mean - day_mean) / usual).abs(), ((six_mean - long_mean) / (long_apart + least)).abs(),
        from_hour.relu(), (-from_hour).relu(), step.abs() / (day_moved + 0.3 * long_moved + least),
    ]  # fmt: skip
    ratios = [
        torch.log((now + 0.02 * usually + least) / (usually + least))
        for now, usually in ((hour_moved, long_moved), (six_moved, long_moved), (six_apart, long_apart))
    ]
    signed = [part for ratio in ratios for part in (ratio.relu(), (-ratio).relu())]
    return torch.cat([torch.log1p(torch.cat(sizes, 1)), *signed], 1)


def train(job: TrainJob, tracker: Tracker, spec: ModelSpec) -> Mapping[str, bytes]:
    """Weights of oddness and the level of an alarm; without a single marked window the weights stay equal.

    Raises:
        InvalidInputError: there is no series to learn from.
        LineError: the parent's weights are another network's.
        Stopped: the run was cancelled through the tracker.
    """
    steps, rate = int(job.settings.get("steps", _STEPS)), float(job.settings.get("rate", _RATE))
    with steady(job.seed):
        net = Watcher()
        take_over(net, job.parent)
        if steps:
            _teach(net, job, Plan(steps=steps, rate=rate, decay=_DECAY), tracker)
        return {"model.onnx": export(net, spec), "weights.safetensors": weights(net)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bags:
    """Instants in bags: each marked window, each ordinary day."""

    odd: torch.Tensor  # (N, ODD)
    bag: torch.Tensor  # int64 (N,)
    marked: torch.Tensor  # (bags,) 1 for a window

    def oddest(self, net: Watcher) -> torch.Tensor:
        """The highest logit of each bag."""
        low = torch.full((len(self.marked),), -1e3)
        return low.scatter_reduce(0, self.bag, net.logit(self.odd), "amax")


def _teach(net: Watcher, job: TrainJob, plan: Plan, tracker: Tracker) -> None:
    data = job.data.split("train")
    episodes = [data.episode(index) for index in range(len(data))]
    if not episodes:
        raise InvalidInputError("machine_alarm: no series to learn from; import at least one that trains")
    odd = watched(net, episodes)
    bags = _bags(episodes, odd)
    if job.parent is None:
        everything = bags.odd if len(bags.odd) else torch.from_numpy(np.concatenate(odd))
        net.spread.copy_(everything.std(0, correction=0) + 1e-3)
    weight = 1.0 + (_MARKED - 1.0) * bags.marked

    def loss(chance: np.random.Generator) -> torch.Tensor:  # noqa: ARG001 - every instant at every step
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(bags.oddest(net), bags.marked, reduction="none")
        return (weight * entropy).mean()

    if bool(bags.marked.any()):
        fit(net, loss, plan, job, tracker, {"rows.annotator": float(len(bags.odd))})
    with torch.no_grad():
        scores = [net.logit(torch.from_numpy(o)).numpy() for o in odd]
    net.level.fill_(threshold([e.times_ns for e in episodes], [e.columns["label.anomaly"] for e in episodes], scores))


def watched(net: Watcher, episodes: list[Episode]) -> list[Array]:
    """The oddness of every instant (T, 15) of every series: all series side by side, one instant after another."""
    longest = max(len(e.times_ns) for e in episodes)
    value, hour = np.full((longest, len(episodes)), np.nan, np.float32), np.zeros((longest, len(episodes)), np.float32)
    for place, e in enumerate(episodes):
        value[: len(e.times_ns), place], hour[: len(e.times_ns), place] = e.columns["value"], e.columns["hour"]
    memory, found = torch.zeros(len(episodes), 3 + 3 * len(_TAU) + 3 * 24), []
    with torch.no_grad():
        for now in zip(torch.from_numpy(value), torch.from_numpy(hour)):
            odd, memory = net.oddness(*now, memory)
            found.append(odd)
    whole = torch.stack(found, 1).numpy()
    return [whole[place, : len(e.times_ns)] for place, e in enumerate(episodes)]


def _bags(episodes: list[Episode], odd: list[Array]) -> _Bags:
    """Each marked window and each day of what lies outside; what nobody looked at is left out."""
    rows, bags, marked = [np.zeros((0, ODD), np.float32)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    number = 0
    for e, of_series in zip(episodes, odd, strict=True):
        label = np.asarray(e.columns["label.anomaly"])
        hours = (e.times_ns - e.times_ns[0]) / 3.6e12
        inside = label > 0.5
        begins = np.cumsum(inside & ~np.concatenate([[False], inside[:-1]]))
        name = np.where(inside, -begins, (hours // 24).astype(np.int64))
        used = (hours >= WARM_HOURS) & np.isfinite(label) & np.isfinite(e.columns["value"])
        names, place = np.unique(name[used], return_inverse=True)
        rows.append(of_series[used])
        bags.append(place + number)
        marked.append((names < 0).astype(np.float32))
        number += len(names)
    return _Bags(
        odd=torch.from_numpy(np.concatenate(rows)),
        bag=torch.from_numpy(np.concatenate(bags)),
        marked=torch.from_numpy(np.concatenate(marked)),
    )
