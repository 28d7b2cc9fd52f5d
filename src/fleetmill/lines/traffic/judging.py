"""How well the next 24 hours are told: errors per hour ahead, pinball loss and coverage, pooled over later months.

Tallies are sums per hour ahead (24,). A row counts once a week of its session has passed (the weekly baseline must have
what it needs too), and only against hours that were counted. MASE and pinball are scaled by the session's own mean
change from week to week, so that a big street does not drown a small one.

Source: Hyndman and Koehler, Another look at measures of forecast accuracy, 2006 (MASE, with a season of 168 hours);
Koenker and Bassett, Regression Quantiles, 1978 (pinball).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleetmill.core.line import Array, Data, Episode, Frame, Metrics, Policy, Tally
from fleetmill.lines.traffic.importing import HOUR_NS
from fleetmill.lines.traffic.windows import AHEAD, HISTORY, WEEK, after, before

OUTPUTS = ("forecast_low", "forecast", "forecast_high")
QUANTILES = np.array([0.1, 0.5, 0.9])
COVERAGE = 0.8  # of the hours should fall between low and high
_BATCH = 256
_SUMS = ("rows", "error_abs", "error_squared", "scaled_abs", "pinball", "inside", "width")

__all__ = ["AHEAD", "HISTORY", "OUTPUTS", "baseline", "due", "later", "metrics", "score", "tally"]


def score(policy: Policy, episode: Episode) -> Tally:
    """Ask at every hour of the session after its first week, in batches: the model has no state but its history."""
    policy.reset()
    volume = np.asarray(episode.columns["volume"], np.float32)
    return tally(volume, answers(policy, episode), start=WEEK)


def due(told_at_ns: int) -> tuple[int, int]:
    """The hours that are told: the 24 after the hour that begins at `told_at_ns`."""
    return told_at_ns + HOUR_NS, told_at_ns + (AHEAD + 1) * HOUR_NS


def later(told: Episode, came: Episode) -> Tally | None:
    """The sums of one forecast once its last hour was recorded; hours that nobody counted are in none of them."""
    start_ns, end_ns = due(int(told.times_ns[-1]))
    times = np.asarray(came.times_ns)
    if not len(times) or int(times[-1]) + HOUR_NS < end_ns:
        return None
    hours = (times[times < end_ns] - times[0]) // HOUR_NS
    volume = np.full((end_ns - int(times[0])) // HOUR_NS, np.nan, np.float32)
    volume[hours] = np.asarray(came.columns["volume"], np.float32)[: len(hours)]
    row = (start_ns - int(times[0])) // HOUR_NS - 1
    rows = np.zeros((len(volume), len(OUTPUTS), AHEAD), np.float32)
    rows[row] = np.stack([told.columns[name][-1] for name in OUTPUTS])
    return tally(volume, rows, start=row, stop=row + 1)


def answers(policy: Policy, episode: Episode) -> Array:
    """(T, 3, 24): what is told at each hour; where that is no number, what the line's guard would send."""
    volume = np.asarray(episode.columns["volume"], np.float32)
    calendar = np.asarray(episode.columns["calendar"], np.float32)
    rows, found = np.arange(len(volume)), []
    for part in np.array_split(rows, max(1, len(rows) // _BATCH)):
        told = policy.ask({"volume": before(volume, part), "calendar": calendar[part]})
        found.append(np.stack([np.asarray(told[name], np.float32) for name in OUTPUTS], axis=1))
    whole = np.sort(np.concatenate(found), axis=1)
    for row in np.flatnonzero(~np.isfinite(whole).all(axis=(1, 2))):
        whole[row] = np.nan if row == 0 else np.concatenate([whole[row - 1, :, 1:], whole[row - 1, :, -1:]], axis=1)
    return whole


def tally(volume: Array, told: Array, *, start: int = 0, stop: int | None = None) -> Tally:
    """The sums of the forecasts of hours `start` to `stop`: counts (T,) and what was told at each hour (T, 3, 24)."""
    rows = np.arange(start, len(volume) if stop is None else stop)
    came = after(volume, rows).astype(np.float64)
    low, middle, high = (np.asarray(told[rows, place], np.float64) for place in range(3))
    known = np.isfinite(came)
    error = np.where(known, came - middle, 0.0)
    scale = _weekly_change(volume)
    apart = np.stack([came - part for part in (low, middle, high)], axis=2)
    loss = np.maximum(QUANTILES * apart, (QUANTILES - 1.0) * apart).sum(axis=2)
    sums = {
        "rows": known,
        "error_abs": np.abs(error),
        "error_squared": error**2,
        "scaled_abs": np.abs(error) / scale,
        "pinball": np.where(known, loss, 0.0) / scale,
        "inside": known & (came >= low) & (came <= high),
        "width": np.where(known, high - low, 0.0),
    }
    return {name: np.asarray(value, np.float64).sum(axis=0).reshape(AHEAD) for name, value in sums.items()}


def metrics(tallies: Sequence[Tally]) -> Metrics:
    """MAE as counted and coverage, at 1, 6 and 24 hours and over all; RMSE, MASE, pinball and mean width."""
    total = {name: _total(name, tallies) for name in _SUMS}
    rows = total["rows"]

    def mean(name: str, ahead: int | None = None) -> float:
        part, whole = (total[name].sum(), rows.sum()) if ahead is None else (total[name][ahead - 1], rows[ahead - 1])
        return float(part / whole) if whole else float("nan")

    inside = mean("inside")
    return {
        **{f"mae_{ahead}h": mean("error_abs", ahead) for ahead in (1, 6, AHEAD)},
        "mae": mean("error_abs"),
        "rmse": float(np.sqrt(mean("error_squared"))),
        "mase": mean("scaled_abs"),
        "pinball": mean("pinball"),
        **{f"coverage_{ahead}h": mean("inside", ahead) for ahead in (1, 6, AHEAD)},
        "coverage": inside,
        "coverage_error": abs(inside - COVERAGE),
        "width": mean("width"),
    }


def _weekly_change(volume: Array) -> float:
    """Mean |this hour - the same a week before|; what is counted on the whole where a session has no two weeks."""
    change = np.abs(volume[WEEK:] - volume[:-WEEK]) if len(volume) > WEEK else np.zeros(0)
    known = change[np.isfinite(change)]
    level = np.abs(volume[np.isfinite(volume)])
    found = float(known.mean()) if len(known) else float(level.mean()) if len(level) else 1.0
    return max(found, 1e-6)


def _total(name: str, tallies: Sequence[Tally]) -> Array:
    # sorted: a sum of floats must not depend on the order of the trials
    held = [np.asarray(tally[name], np.float64) for tally in tallies]
    return np.sort(np.stack(held), axis=0).sum(axis=0) if held else np.zeros(AHEAD)


class Weekly:
    """What was counted a week before the hour that is asked for; implements `core.line.Policy`.

    Where that is missing: two weeks before, else a day before, else the last that was counted. The interval is as wide
    as its errors were in training, as a share of the history's spread.
    """

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high
        self._past = np.zeros(0, np.float32)

    def reset(self) -> None:
        """Forget the weeks."""
        self._past = np.zeros(0, np.float32)

    def step(self, observation: Frame) -> Frame:
        """From the weeks that were seen."""
        self._past = np.append(self._past, np.asarray(observation["volume"], np.float32))[-HISTORY:]
        told = self.ask({"volume": before(self._past, np.array([len(self._past) - 1]))})
        return {name: value[0] for name, value in told.items()}

    def ask(self, inputs: Frame) -> Frame:
        """For each history of the batch (B, 336)."""
        past = np.asarray(inputs["volume"], np.float32)
        middle, spread = naive(past), _spread(past)[:, np.newaxis]
        told = (middle + self._low * spread, middle, middle + self._high * spread)
        return {name: np.asarray(value, np.float32) for name, value in zip(OUTPUTS, told, strict=True)}


def naive(past: Array) -> Array:
    """(B, 336) -> (B, 24): the same hour a week ago, and what stands in for it."""
    found = past[:, HISTORY - WEEK : HISTORY - WEEK + AHEAD]
    for other in (past[:, :AHEAD], past[:, HISTORY - AHEAD :], _last(past)[:, np.newaxis]):
        found = np.where(np.isfinite(found), found, other)
    return np.nan_to_num(found)


def _last(past: Array) -> Array:
    known = np.isfinite(past)
    place = past.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return np.asarray(past[np.arange(len(past)), place])


def _spread(past: Array) -> Array:
    known = np.isfinite(past)
    number = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, past, 0.0).sum(axis=1) / number
    apart = np.where(known, past - mean[:, np.newaxis], 0.0)
    return np.asarray(np.sqrt((apart**2).sum(axis=1) / number) + 1e-3)


def baseline(data: Data) -> Policy:
    """What must be beaten: the same hour a week ago, with an interval from its own errors in training."""
    train = data.split("train")
    shares = [_shares(np.asarray(train.episode(i).columns["volume"], np.float32)) for i in range(len(train))]
    every = np.concatenate([np.zeros(0), *shares])
    low, high = np.quantile(every, [0.1, 0.9]) if len(every) else (0.0, 0.0)
    return Weekly(float(low), float(high))


def _shares(volume: Array) -> Array:
    """The weekly guess's errors of a session, as shares of the history's spread."""
    rows = np.arange(WEEK, len(volume), 5)  # every fifth hour: all hours of the day, a fifth of the work
    past = before(volume, rows)
    found = ((after(volume, rows) - naive(past)) / _spread(past)[:, np.newaxis]).reshape(-1)
    return np.asarray(found[np.isfinite(found)], np.float64)
