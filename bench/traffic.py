"""How well does the line `traffic` tell the next 24 hours, later than anything it learned from, beside simple models?

    python bench/traffic.py --data ../shared/data/city-hourly [--only volume] [--json]

Everything before a cut-off trains, everything after it is asked, hour by hour without a break, as a device would live
it. Traffic volume: cut-off 2018-01-01. The others: three quarters of their time. Three seeds, 0 to 2; intervals
resample weeks (95 %), all seeds' and sensors' results of a week together. Everything was chosen on traffic volume of
2017, trained on what came before, with seed 10, but for the number of steps on small series (docs/lines/traffic.md).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from table import table

from fleetmill.core.evidence import interval, ratios
from fleetmill.core.line import Array, Episode, Frame, Policy, Stretch, Tally, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.traffic import line
from fleetmill.lines.traffic.importing import HOUR_NS
from fleetmill.lines.traffic.judging import OUTPUTS, answers, tally
from fleetmill.lines.traffic.windows import AHEAD, HISTORY, WEEK, after, before
from fleetmill.receive.imports import open_files
from fleetmill.seams.runtime import policies
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held

SEEDS = (0, 1, 2)
FILES = {
    "volume": ("hourly_traffic_volume.csv", "2018-01-01"),
    "bikes": ("hourly_bikesharing.csv", None),
    "parking": ("hourly_parking.csv", None),
    "solar": ("hourly_solarpower.csv", None),
    "wind": ("hourly_windpower.csv", None),
}
METRICS = ("mae_1h", "mae_6h", "mae_24h", "mae", "mase", "pinball", "coverage")
Weeks = dict[int, list[Tally]]  # by week since 1970: a tally per sensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensor:
    """One sensor's hours without a break: silent ones are NaN."""

    first: int  # hours since 1970
    volume: Array
    calendar: Array


def load(path: Path) -> tuple[list[Episode], list[Sensor]]:
    """(the line's sessions, each sensor's whole life)."""
    episodes, sensors = [], {}
    for foreign in line.importers[0].read(open_files(path)):
        whole = Stretch(
            device=foreign.device, session=foreign.session, index=0, tags={}, messages=list(foreign.messages)
        )
        for e in line.cut(whole):
            episodes.append(e)
            sensors.setdefault(foreign.device, []).append(e)
    return episodes, [_joined(sensors[name]) for name in sorted(sensors)]


def _joined(episodes: Sequence[Episode]) -> Sensor:
    first, last = (int(episodes[i].times_ns[i]) // HOUR_NS for i in (0, -1))
    volume, calendar = np.full(last - first + 1, np.nan, np.float32), np.zeros((last - first + 1, 4), np.float32)
    for e in episodes:
        place = e.times_ns // HOUR_NS - first
        volume[place], calendar[place] = e.columns["volume"], e.columns["calendar"]
    return Sensor(first=first, volume=volume, calendar=calendar)


def judged(policy: Policy, sensors: Sequence[Sensor], cut: int) -> Weeks:
    """Tallies of each week after the cut-off; two weeks before it are history only."""
    weeks: Weeks = {}
    for s in sensors:
        start = max(cut - s.first, WEEK)
        from_ = max(start - HISTORY, 0)
        part = Sensor(first=s.first + from_, volume=s.volume[from_:], calendar=s.calendar[from_:])
        if len(part.volume) <= start - from_:
            continue
        told = answers(policy, _episode(part))
        hours = part.first + np.arange(len(part.volume))
        for week in np.unique(hours[start - from_ :] // WEEK):
            inside = np.flatnonzero((hours // WEEK == week) & (np.arange(len(hours)) >= start - from_))
            found = tally(part.volume, told, start=int(inside[0]), stop=int(inside[-1]) + 1)
            weeks.setdefault(int(week), []).append(found)
    return weeks


def _episode(s: Sensor) -> Episode:
    times = (s.first + np.arange(len(s.volume), dtype=np.int64)) * HOUR_NS
    columns = {"volume": s.volume, "calendar": s.calendar}
    end = int(times[-1]) + HOUR_NS
    return Episode(device="d", session="s", start_ns=int(times[0]), end_ns=end, times_ns=times, columns=columns)


class Last:
    """The last value that was counted, for each of the next 24 hours."""

    def reset(self) -> None: ...

    def step(self, observation: Frame) -> Frame:
        raise NotImplementedError

    def ask(self, inputs: Frame) -> Frame:
        past = np.nan_to_num(inputs["volume"][:, -1:])
        return {name: np.repeat(past, AHEAD, axis=1) for name in OUTPUTS}


class Ridge:
    """One linear model per hour ahead, on the same two weeks and calendar, scaled as the line scales them."""

    def __init__(self, train: Sequence[Episode], strength: float = 100.0) -> None:
        rows = [np.arange(WEEK, len(e.times_ns)) for e in train]
        past = np.concatenate([before(e.columns["volume"], r) for e, r in zip(train, rows)])
        came = np.concatenate([after(e.columns["volume"], r) for e, r in zip(train, rows)])
        calendar = np.concatenate([e.columns["calendar"][r] for e, r in zip(train, rows)])
        seen, mean, spread = self._seen(past, calendar)
        want = (came - mean) / spread
        good = np.isfinite(want)
        if good.all(axis=1).sum() > 1000:  # one matrix for all hours ahead
            good = np.repeat(good.all(axis=1)[:, None], AHEAD, axis=1)
        one = bool((good == good[:, :1]).all())
        fits = [self._fit(seen[good[:, h]], want[good[:, h]][:, slice(None) if one else slice(h, h + 1)], strength)
                for h in range(1 if one else AHEAD)]  # fmt: skip
        self._weight = np.concatenate([weight for weight, _ in fits], axis=1)
        self._apart = np.concatenate([apart for _, apart in fits], axis=1)

    @staticmethod
    def _fit(seen: Array, want: Array, strength: float) -> tuple[Array, Array]:
        if not len(seen):  # an hour ahead that is never counted
            return np.zeros((seen.shape[1], want.shape[1])), np.zeros((2, want.shape[1]))
        weight = np.linalg.solve(seen.T @ seen + strength * np.eye(seen.shape[1]), seen.T @ want)
        return weight, np.quantile(want - seen @ weight, [0.1, 0.9], axis=0)

    @staticmethod
    def _seen(past: Array, calendar: Array) -> tuple[Array, Array, Array]:
        known = np.isfinite(past)
        filled = np.where(known, past, 0.0).astype(np.float64)
        number = np.maximum(known.sum(1, keepdims=True), 1)
        mean = filled.sum(1, keepdims=True) / number
        apart = (filled - mean) * known
        spread = np.sqrt((apart**2).sum(1, keepdims=True) / number) + 0.05 * np.abs(mean) + 1e-3
        hour, day = (np.eye(n)[calendar[:, place].astype(int)] for place, n in ((0, 24), (1, 7)))
        marks = (hour[:, :, None] * day[:, None, :]).reshape(len(past), -1)
        return np.concatenate([apart / spread, known, marks, calendar[:, 2:4]], axis=1), mean, spread

    def reset(self) -> None: ...

    def step(self, observation: Frame) -> Frame:
        raise NotImplementedError

    def ask(self, inputs: Frame) -> Frame:
        seen, mean, spread = self._seen(inputs["volume"], inputs["calendar"])
        share = seen @ self._weight
        ranks = (share + self._apart[0], share, share + self._apart[1])
        return {name: rank * spread + mean for name, rank in zip(OUTPUTS, ranks)}


def rows(runs: Sequence[Weeks]) -> dict[str, Any]:
    trials = _by_week(runs)
    found: dict[str, Any] = {}
    for metric in METRICS:
        value, low, high = interval(metric, trials, _pool, seed=1)
        by_seed = [line.judging.metrics([t for week in run.values() for t in week])[metric] for run in runs]
        found[metric] = {"value": value, "low": low, "high": high, "by_seed": by_seed}
    return found


def _by_week(runs: Sequence[Weeks]) -> list[list[Tally]]:
    """One summed tally per week: sums of sums, so that a resample is cheap."""
    return [
        [{name: sum(np.asarray(t[name]) for run in runs for t in run[week]) for name in runs[0][week][0]}]
        for week in sorted(runs[0])
    ]


def _pool(chosen: Sequence[list[Tally]]) -> Mapping[str, float]:
    return line.judging.metrics([t for week in chosen for t in week])


def bench(path: Path, cut_text: str | None) -> dict[str, Any]:
    episodes, sensors = load(path)
    first, last = min(s.first for s in sensors), max(s.first + len(s.volume) for s in sensors)
    cut = int(np.datetime64(cut_text, "h").astype(np.int64)) if cut_text else first + (last - first) * 3 // 4
    train = _until(episodes, cut * HOUR_NS)
    assert line.judging.baseline is not None
    weekly = judged(line.judging.baseline(Held(train)), sensors, cut)
    found = {"last value": [judged(Last(), sensors, cut)], "weekly naive": [weekly]}
    found["ridge"] = [judged(Ridge(train), sensors, cut)]
    start = time.process_time()
    taught = [
        policies(line, OnnxRuntime(), line.train(TrainJob(data=Held(train), parent=None, seed=s, settings={}), Notes()))
        for s in SEEDS
    ]
    cost = (time.process_time() - start) / len(SEEDS)
    found["line"] = [judged(policy, sensors, cut) for policy in taught]
    mine = _by_week(found["line"])

    def ratio(name: str) -> dict[str, float]:
        (r,) = ratios(["mae_24h"], mine, _by_week(found[name] * len(SEEDS)), _pool, seed=1)
        return {"ratio": r.value, "low": r.low, "high": r.high}

    return {
        "sensors": len(sensors),
        "cut_off": str(np.datetime64(cut, "h")),
        "weeks_asked": len(weekly),
        "models": {name: rows(runs) for name, runs in found.items()},
        "line / weekly naive, MAE at 24 h": ratio("weekly naive"),
        "line / ridge, MAE at 24 h": ratio("ridge"),
        "cpu_seconds_per_training": cost,
    }


def _until(episodes: Sequence[Episode], cut_ns: int) -> list[Episode]:
    """What lies before the cut-off; a month that it divides is cut there."""
    found = []
    for e in episodes:
        rows = int(np.searchsorted(e.times_ns, cut_ns))
        if rows:
            columns = {name: column[:rows] for name, column in e.columns.items()}
            found.append(
                Episode(
                    device=e.device, session=e.session, start_ns=e.start_ns, end_ns=int(e.times_ns[rows - 1]) + HOUR_NS,
                    times_ns=e.times_ns[:rows], columns=columns,
                )
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the hourly files")
    parser.add_argument("--only", choices=sorted(FILES), default=None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    chosen = {name: where for name, where in FILES.items() if options.only in (None, name)}
    report = {name: bench(options.data / file, cut) for name, (file, cut) in chosen.items()}
    print(json.dumps(report, indent=1) if options.json else table(report))


if __name__ == "__main__":
    main()
