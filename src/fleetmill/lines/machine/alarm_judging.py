"""How many marked windows are found, at what price in false alarms: counted over machines that were never seen.

A window is found when an alarm falls into it. An alarm outside all windows is false. After an alarm there is none for
a day (the guard); the first two days of a machine count nowhere, since nobody can know yet what is usual. Recall at one
false alarm a week sweeps a threshold over the scores, as the field's curves do: it says how well the scores rank, and
no device runs with that threshold; precision, recall and false alarms as lived are those of the model's own.

Source: Lavin and Ahmad, Evaluating Real-time Anomaly Detection Algorithms, ICMLA 2015 (NAB: windows, probation).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleetmill.core.line import Array, Data, Episode, Frame, Metrics, Policy, Tally

WARM_HOURS = 48.0
HOLD_OFF_HOURS = 24.0
FALSE_PER_WEEK = 1.0  # what people put up with
LEVELS = np.arange(-4.0, 8.0001, 0.1)  # thresholds that are swept
_OUTSIDE, _EARLIER = -1, -2  # no window; a window that another look counts
_GAP_HOURS = 3.0  # a longer silence is nobody's time
_NAMES = (
    "recall", "precision", "f1", "false_alarms_per_week", "alarms_per_week", "recall_at_one_a_week",
)  # fmt: skip


def score(policy: Policy, episode: Episode) -> Tally:
    """Step the policy through the series, one value at a time, through memory and guard."""
    policy.reset()
    value, hour = episode.columns["value"], episode.columns["hour"]
    answers = [policy.step({"value": v, "hour": h}) for v, h in zip(value, hour, strict=True)]
    scores, alarms = (np.array([float(a[name]) for a in answers]) for name in ("score", "alarm"))
    return tally(episode.times_ns, episode.columns["label.anomaly"], scores, alarms)


def due(told_at_ns: int) -> tuple[int, int]:
    """What was looked at: when somebody says whether it was wrong nobody knows beforehand."""
    return told_at_ns, told_at_ns + 1


def later(told: Episode, came: Episode) -> Tally | None:
    """The counts of one look once somebody has labelled all of it; a window counts in the look in which it begins."""
    times = np.asarray(came.times_ns)
    rows = np.searchsorted(times, told.times_ns)
    label = np.asarray(came.columns["label.anomaly"])
    if not np.isfinite(label[rows]).all():
        return None
    asked = np.zeros(len(times), bool)
    asked[rows] = True
    scores, alarms = np.full(len(times), -np.inf), np.zeros(len(times))
    scores[rows], alarms[rows] = told.columns["score"], told.columns["alarm"]
    return tally(times, np.where(asked | np.isfinite(label), label, 0.0), scores, alarms, asked)


def tally(times_ns: Array, label: Array, scores: Array, alarms: Array, asked: Array | None = None) -> Tally:
    """The counts of one series, or of the rows of it that were `asked`: at each level of the sweep, and as lived."""
    hours = np.asarray(times_ns, np.float64) / 3.6e12
    counted, known = hours - hours[0] >= WARM_HOURS, bool(np.isfinite(label).all())
    window = _numbered(np.asarray(label > 0.5))
    if asked is not None:
        counted = counted & asked
        begins = asked & (window != np.concatenate([[_OUTSIDE], window[:-1]]))
        window = np.where(np.isin(window, [_OUTSIDE, *window[begins]]), window, _EARLIER)
    windows = len(set(window[counted].tolist()) - {_OUTSIDE, _EARLIER})
    lived = (np.diff(hours, append=hours[-1]).clip(0, _GAP_HOURS) * counted).sum()
    swept = [_outcome(held_off(hours, (scores > level) & counted), window) for level in LEVELS]
    rung = np.flatnonzero((alarms > 0.5) & counted)
    found, false = _outcome(rung, window)
    return {
        "windows": np.array(float(windows)),
        "hours": np.array(float(lived if known else 0.0)),
        "hours_all": np.array(float(lived)),
        "alarms": np.array(float(len(rung))),
        "found": np.array(float(found)),
        "false": np.array(float(false if known else 0.0)),
        "true": np.array(float(len(rung) - false if known else 0.0)),
        "found_at": np.array([float(f) for f, _ in swept]),
        "false_at": np.array([float(f) if known else 0.0 for _, f in swept]),
    }


def held_off(hours: Array, over: Array) -> Array:
    """Rows at which an alarm rings: the first over the threshold, then the first after the hold-off, and so on."""
    rows, rung, at = np.flatnonzero(over), [], 0
    while at < len(rows):
        rung.append(rows[at])
        at = max(at + 1, int(np.searchsorted(hours[rows], hours[rows[at]] + HOLD_OFF_HOURS - 1e-9)))
    return np.array(rung, np.int64)


def metrics(tallies: Sequence[Tally]) -> Metrics:
    """Recall over windows, precision over alarms, rates per week; NaN for what there was nothing of."""
    total = {name: _total(name, tallies) for name in ("windows", "hours", "hours_all", "alarms", "found")}
    false, true = _total("false", tallies), _total("true", tallies)
    recall, precision = _share(total["found"], total["windows"]), _share(true, true + false)
    if total["windows"] and not true + false:
        precision = 0.0  # nothing was said: nothing was right
    return {
        "recall": recall,
        "precision": precision,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0 * recall,
        "false_alarms_per_week": _share(false, total["hours"] / 168.0),
        "alarms_per_week": _share(total["alarms"], total["hours_all"] / 168.0),
        "recall_at_one_a_week": _at_one(tallies, total["windows"], total["hours"]),
    }


def threshold(times: Sequence[Array], labels: Sequence[Array], scores: Sequence[Array]) -> float:
    """The lowest score at which these machines would have had one false alarm a week at most."""
    hours = [np.asarray(t, np.float64) / 3.6e12 for t in times]
    counted = [h - h[0] >= WARM_HOURS for h in hours]
    weeks = sum(float((np.diff(h, append=h[-1]).clip(0, _GAP_HOURS) * c).sum()) for h, c in zip(hours, counted)) / 168.0
    every = np.concatenate([s[c & ~(lab > 0.5)] for s, c, lab in zip(scores, counted, labels)])
    if not len(every):
        return 0.0
    for level in np.quantile(every, 1.0 - np.geomspace(0.3, 1e-5, 120)):
        rung = [held_off(h, (s > level) & c) for h, s, c in zip(hours, scores, counted)]
        false = sum(int((~(lab[r] > 0.5)).sum()) for r, lab in zip(rung, labels))
        if false <= FALSE_PER_WEEK * weeks:
            return float(level)
    return float(every.max())


def _outcome(rung: Array, window: Array) -> tuple[int, int]:
    """(windows found, false alarms)."""
    hit = window[rung]
    return len(set(hit[hit >= 0].tolist())), int((hit == _OUTSIDE).sum())


def _numbered(marked: Array) -> Array:
    """int (T,): the number of the window that a row lies in, or that it lies outside."""
    starts = marked & ~np.concatenate([[False], marked[:-1]])
    return np.where(marked, np.cumsum(starts) - 1, _OUTSIDE)


def _at_one(tallies: Sequence[Tally], windows: float, hours: float) -> float:
    if not windows or not hours:
        return float("nan")
    found = np.sum([tally["found_at"] for tally in tallies], axis=0)  # whole numbers: any order gives the same sum
    false = np.sum([tally["false_at"] for tally in tallies], axis=0)
    allowed = found[false <= FALSE_PER_WEEK * hours / 168.0]
    return float(allowed.max(initial=0.0) / windows)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _total(name: str, tallies: Sequence[Tally]) -> float:
    # sorted: a sum of floats must not depend on the order of the trials
    return float(sum(sorted(float(tally[name]) for tally in tallies)))


class RobustZ:
    """|value - median| over the median distance, of the last two days; implements `core.line.Policy`."""

    def __init__(self, level: float = 0.0) -> None:
        self._level = level  # log of the distance at which it rings
        self.reset()

    def reset(self) -> None:
        """Forget the days."""
        self._values: list[float] = []
        self._ages: list[float] = []
        self._hour = self._since = float("nan")

    def step(self, observation: Frame) -> Frame:
        """Its score, and an alarm that is held off as the line's guard does."""
        value, hour = float(observation["value"]), float(observation["hour"])
        passed = 0.0 if np.isnan(self._hour) else (hour - self._hour) % 24.0
        self._hour = hour
        self._since = self._since + passed if np.isfinite(self._since) else self._since
        self._ages = [age + passed for age in self._ages]
        while self._ages and self._ages[0] > WARM_HOURS:
            del self._ages[0], self._values[0]
        told = float(np.log(max(self._distance(value), 1e-3))) - self._level
        if np.isfinite(value):
            self._values.append(value)
            self._ages.append(0.0)
        rings = told > 0 and not self._since < HOLD_OFF_HOURS
        self._since = 0.0 if rings else self._since
        return {"score": np.asarray(told, np.float32), "alarm": np.asarray(float(rings), np.float32)}

    def ask(self, inputs: Frame) -> Frame:
        """Of single values nothing can be said."""
        nothing = np.zeros(len(inputs["value"]), np.float32)
        return {"score": nothing, "alarm": nothing}

    def _distance(self, value: float) -> float:
        if len(self._values) < 12 or not np.isfinite(value):
            return 0.0
        median = float(np.median(self._values))
        spread = 1.4826 * float(np.median(np.abs(np.array(self._values) - median)))
        return abs(value - median) / (spread + 1e-3 * abs(median) + 1e-6)


def baseline(data: Data) -> Policy:
    """What must be beaten: a robust z-score, with the threshold that gives one false alarm a week in training."""
    train = data.split("train")
    episodes = [train.episode(index) for index in range(len(train))]
    policy, scores = RobustZ(), []
    for e in episodes:
        policy.reset()
        steps = zip(e.columns["value"], e.columns["hour"], strict=True)
        scores.append(np.array([float(policy.step({"value": v, "hour": h})["score"]) for v, h in steps]))
    times, labels = [e.times_ns for e in episodes], [e.columns["label.anomaly"] for e in episodes]
    return RobustZ(threshold(times, labels, scores) if episodes else 0.0)
