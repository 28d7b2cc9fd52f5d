"""The line ``traffic``: what a city's sensor will count in each of the next 24 hours, with intervals.

Any hourly series: vehicles, hired bikes, parked cars, power of sun and wind. Held-out data lies later in time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleetmill.core.line import (
    Check,
    Episode,
    Feature,
    Forecast,
    Frame,
    Judging,
    Line,
    Memory,
    ModelSpec,
    Port,
    Recipe,
    Round,
    Tracker,
    TrainJob,
)
from fleetmill.lines.ready import rows_of
from fleetmill.lines.traffic.importing import HOUR_NS, hourly
from fleetmill.lines.traffic.judging import AHEAD, HISTORY, OUTPUTS, baseline, due, later, metrics, score
from fleetmill.lines.traffic.sample import streets

_SPEC = ModelSpec(
    inputs=(
        Port(name="volume", dtype="float32", shape=(), feature="volume", history=HISTORY),
        Port(name="calendar", dtype="float32", shape=(4,), feature="calendar"),
    ),
    outputs=tuple(Port(name=name, dtype="float32", shape=(AHEAD,), feature=name) for name in OUTPUTS),
    rate_hz=1e9 / HOUR_NS,
    latency_ns=25_000_000,
    tolerance=0.05,  # of what is counted in an hour; thousands are
)


def train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """The model's files; see `learning.train`."""
    from fleetmill.lines.traffic.learning import train as learn

    return learn(job, tracker, _SPEC)


def guard(action: Frame, observation: Frame, memory: Memory) -> tuple[Frame, Memory]:  # noqa: ARG001
    """Intervals the right way round. What is no number is the forecast of an hour ago, an hour further on.

    Before the first good forecast there is none to fall back to: NaN says so.
    """
    ranks = np.sort(np.stack([np.asarray(action[name], np.float32) for name in OUTPUTS]), axis=0)
    if not np.isfinite(ranks).all():
        before = np.asarray(memory.get("sent", np.full((len(OUTPUTS), AHEAD), np.nan, np.float32)))
        ranks = np.concatenate([before[:, 1:], before[:, -1:]], axis=1)
    return dict(zip(OUTPUTS, ranks, strict=True)), {"sent": ranks}


def _silent(episode: Episode) -> float:
    return float(np.isnan(np.asarray(episode.columns["volume"])).mean())


def _feature(name: str, kind: str, shape: tuple[int, ...] = ()) -> Feature:
    return Feature(name=name, kind=kind, dtype="float32", shape=shape, unit="1", hold_ns=HOUR_NS)  # type: ignore[arg-type]


_half_a_year = Round(scenario="replay", sessions=6, seconds=31 * 24 * 3600.0, budget_ratio=1.0)

line = Line(
    name="traffic",
    features=(
        _feature("volume", "observation"),  # of the hour that begins here; NaN: the sensor said nothing
        _feature("calendar", "observation", (4,)),  # hour 0-23, weekday 0-6 from Monday, holiday today, tomorrow (0/1)
        *(_feature(name, "action", (AHEAD,)) for name in OUTPUTS),  # of the next 24 hours
        *(_feature(f"model.{name}", "extra", (AHEAD,)) for name in OUTPUTS),
    ),
    model=_SPEC,
    cut=rows_of("volume", "calendar", period_ns=HOUR_NS),
    train=train,
    judging=Judging(score=score, metrics=metrics, baseline=baseline),
    checks=(
        Check(metric="mae_24h", better="lower", against="baseline", limit=1.0),
        Check(metric="pinball", better="lower", against="baseline", limit=1.0),
        Check(metric="coverage_error", better="lower", against="limit", limit=0.1),
        # later months are few: not worse by more than 2 %
        Check(metric="mae", better="lower", against="champion", limit=1.02, first=False),
    ),
    guard=guard,
    slices={
        "whole": lambda episode: _silent(episode) <= 0.05,
        "gappy": lambda episode: _silent(episode) > 0.05,
    },
    split="time",
    forecast=Forecast(tells=OUTPUTS, due=due, score=later, across=True),
    importers=(hourly,),
    recipe=Recipe(
        devices=3,
        first=_half_a_year,
        then=_half_a_year,
        headline="mase",
        generations=3,
        report_trials=3,  # later months of each sensor
        demo_train={"steps": 200},  # a fifth: to be looked at while it runs
        quick=(2, 2),
        sample=streets,
    ),
)
