"""How well the cycles that are left are told: pooled errors over engines that were never seen.

Labels are clipped at 125 cycles, as the field does: nobody can tell 200 from 150 by a healthy engine. Tallies are sums,
so that RMSE and PHM08 are of the pool. Rows without a label count nowhere.

Source of PHM08: Saxena et al., 2008: exp(-d/13) - 1 for d < 0 (too early), exp(d/10) - 1 else (too late). It is a sum
there; here the mean over cycles, so that more engines do not make it worse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Data, Episode, Frame, Metrics, Policy, Tally
from fleetmill.lines.machine.life_files import PERIOD_NS

MOST = 125.0  # cycles: beyond that an engine is simply healthy
_NEAR = 50.0  # cycles: where a plan is made
_NAMES = ("rul_rmse", "rul_mae", "phm08_mean", "rul_rmse_last_50", "too_late_ratio")


def score(policy: Policy, episode: Episode) -> Tally:
    """Step the policy through the engine's life, one cycle at a time, through memory and guard."""
    policy.reset()
    columns = episode.columns
    answers = [
        policy.step({"settings": columns["settings"][row], "sensors": columns["sensors"][row]})["rul"]
        for row in range(len(episode.times_ns))
    ]
    return tally(columns["label.rul"], np.array(answers))


def due(told_at_ns: int) -> tuple[int, int]:
    """The cycle that it was told at: when the life ends nobody knows beforehand."""
    return told_at_ns, told_at_ns + PERIOD_NS


def later(told: Episode, came: Episode) -> Tally | None:
    """The error of one forecast once it is known what was left, at that cycle or at any later one."""
    at_ns = int(told.times_ns[-1])
    label, times = np.asarray(came.columns["label.rul"]), np.asarray(came.times_ns)
    known = np.flatnonzero(np.isfinite(label) & (times >= at_ns))
    if not len(known):
        return None
    left = float(label[known[0]]) + int(times[known[0]] - at_ns) // PERIOD_NS
    return tally(np.array([left]), np.asarray(told.columns["rul"])[-1:])


def tally(label: Array, told: Array) -> Tally:
    """The sums of some cycles: what was left and what was told, (T,) each."""
    known = np.isfinite(label)
    left = np.minimum(np.asarray(label, np.float64)[known], MOST)
    error = np.clip(np.asarray(told, np.float64)[known], 0.0, MOST) - left
    near = left <= _NEAR
    penalty = np.where(error < 0, np.exp(-error / 13.0), np.exp(error / 10.0)) - 1.0
    sums = {
        "rows": float(len(error)),
        "error_squared": (error**2).sum(),
        "error_abs": np.abs(error).sum(),
        "phm08": penalty.sum(),
        "near": float(near.sum()),
        "near_squared": (error[near] ** 2).sum(),
        "too_late": float((error > 0).sum()),
    }
    return {name: np.array(float(value)) for name, value in sums.items()}


def metrics(tallies: Sequence[Tally]) -> Metrics:
    """Pooled RMSE and MAE (cycles), mean PHM08, RMSE of the last 50 cycles, share of rows told too late.

    >>> round(metrics([tally(np.array([130.0, 10.0]), np.array([125.0, 20.0]))])["rul_rmse"], 2)
    7.07
    """
    rows, near = _total("rows", tallies), _total("near", tallies)
    if not rows:
        return dict.fromkeys(_NAMES, float("nan"))
    return {
        "rul_rmse": float(np.sqrt(_total("error_squared", tallies) / rows)),
        "rul_mae": _total("error_abs", tallies) / rows,
        "phm08_mean": _total("phm08", tallies) / rows,
        "rul_rmse_last_50": float(np.sqrt(_total("near_squared", tallies) / near)) if near else float("nan"),
        "too_late_ratio": _total("too_late", tallies) / rows,
    }


def _total(name: str, tallies: Sequence[Tally]) -> float:
    # sorted: a sum of floats must not depend on the order of the trials
    return float(sum(sorted(float(tally[name]) for tally in tallies)))


class Linear:
    """Least squares on this cycle's settings and sensors; implements `core.line.Policy`."""

    def __init__(self, mean: Array, spread: Array, weight: Array) -> None:
        self._mean, self._spread, self._weight = mean, spread, weight

    def reset(self) -> None:
        """Nothing to forget."""

    def step(self, observation: Frame) -> Frame:
        """Within 0 to 125 cycles, as the line's guard has it."""
        answer = self.ask({name: np.asarray(observation[name])[np.newaxis] for name in ("settings", "sensors")})
        return {"rul": np.clip(answer["rul"][0], 0.0, MOST)}

    def ask(self, inputs: Frame) -> Frame:
        """For each row of the batch."""
        rows = np.concatenate([inputs["settings"], inputs["sensors"]], axis=1).astype(np.float64)
        whole = np.nan_to_num((rows - self._mean) / self._spread)
        return {"rul": (whole @ self._weight[:-1] + self._weight[-1]).astype(np.float32)}


def baseline(data: Data) -> Policy:
    """What must be beaten: a linear model of the same cycle's numbers.

    Raises:
        InvalidInputError: there is no labelled cycle to fit it on.
    """
    train = data.split("train")
    rows = np.concatenate([train.column("settings"), train.column("sensors")], axis=1).astype(np.float64)
    label = np.minimum(np.asarray(train.column("label.rul"), np.float64), MOST)
    known = np.isfinite(label)
    if not known.any():
        raise InvalidInputError("machine_life: no labelled cycle trains; import engines that ran to failure")
    mean, spread = np.nanmean(rows[known], axis=0), np.nanstd(rows[known], axis=0)
    spread = np.where(spread < 1e-4, np.inf, spread)  # a sensor that never moves says nothing
    whole = np.nan_to_num((rows[known] - mean) / spread)
    weight = np.linalg.lstsq(np.c_[whole, np.ones(len(whole))], label[known], rcond=None)[0]
    return Linear(mean, spread, weight)
