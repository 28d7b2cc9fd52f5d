"""The line ``machine_alarm``: something is wrong with a machine now, from one number that it gives every few minutes.

The model is a watcher with memory: it carries what is usual for this machine, and weighs how unusual this value is. It
runs on any series, since it learns what is usual on the device itself. The guard holds further alarms off for a day.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleetmill.core.line import (
    Array,
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
from fleetmill.lines.machine.alarm_files import HOLD_NS, series
from fleetmill.lines.machine.alarm_judging import HOLD_OFF_HOURS, baseline, due, later, metrics, score
from fleetmill.lines.machine.sample import series as watched
from fleetmill.lines.ready import rows_of

_LOUDEST = 1e3
_PERIOD_NS = 300 * 1_000_000_000
MEMORY = 87  # numbers that the model carries: see `alarm_net`

_SPEC = ModelSpec(
    inputs=(
        Port(name="value", dtype="float32", shape=(), feature="value"),
        Port(name="hour", dtype="float32", shape=(), feature="hour"),
        Port(name="memory", dtype="float32", shape=(MEMORY,)),
    ),
    outputs=(
        Port(name="score", dtype="float32", shape=(), feature="score"),
        Port(name="alarm", dtype="float32", shape=(), feature="alarm"),
        Port(name="memory_next", dtype="float32", shape=(MEMORY,), feeds="memory"),
    ),
    rate_hz=1e9 / _PERIOD_NS,
    latency_ns=25_000_000,
    tolerance=1e-3,
)


def train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """The model's files; see `alarm_net.train`."""
    from fleetmill.lines.machine.alarm_net import train as learn

    return learn(job, tracker, _SPEC)


def guard(action: Frame, observation: Frame, memory: Memory) -> tuple[Frame, Memory]:
    """An alarm, and then none for a day, whatever the model says; what is no number is no alarm."""
    hour = float(observation["hour"])
    hour = hour if np.isfinite(hour) else 0.0
    since = float(memory.get("since", np.array(np.inf))) + (hour - float(memory.get("hour", np.array(hour)))) % 24.0
    told = float(action["score"])
    rings = bool(float(action["alarm"]) > 0.5) and since >= HOLD_OFF_HOURS
    level = min(max(told, -_LOUDEST), _LOUDEST) if np.isfinite(told) else -_LOUDEST
    sent = {"score": np.asarray(level, np.float32), "alarm": np.asarray(float(rings), np.float32)}
    return sent, {"since": np.asarray(0.0 if rings else since), "hour": np.asarray(hour)}


def _labels(episode: Episode) -> Array:
    return np.asarray(episode.columns["label.anomaly"] > 0.5)


def _feature(name: str, kind: str, unit: str = "1") -> Feature:
    return Feature(name=name, kind=kind, dtype="float32", shape=(), unit=unit, hold_ns=HOLD_NS)  # type: ignore[arg-type]


_one_series = Round(scenario="replay", sessions=1, seconds=21 * 24 * 3600.0, budget_ratio=1.0)

line = Line(
    name="machine_alarm",
    features=(
        _feature("value", "observation"),  # a temperature, a load, a count: what is usual is learned on the device
        _feature("hour", "observation", unit="h"),  # of the day, 0 to 24, of the clock on the wall
        _feature("score", "action"),  # above 0: unusual enough for an alarm
        _feature("alarm", "action"),  # 1 at the instant at which somebody is called
        _feature("label.anomaly", "label"),  # 1 within a window that a person marked, else 0; NaN: nobody looked
        _feature("model.alarm", "extra"),
    ),
    model=_SPEC,
    # the last value counts for a period, though it may stand for up to an hour: a device's session ends with it
    cut=rows_of("value", "hour", "label.anomaly", period_ns=_PERIOD_NS),
    version=2,
    train=train,
    judging=Judging(score=score, metrics=metrics, baseline=baseline),
    checks=(
        # a dozen held-out windows prove no small gain: at least a tenth more of them found, as a point estimate
        Check(metric="recall_at_one_a_week", better="higher", against="baseline", limit=1.1),
        Check(metric="false_alarms_per_week", better="lower", against="limit", limit=2.0),
        Check(metric="recall_at_one_a_week", better="higher", against="champion", limit=0.95, first=False),
    ),
    guard=guard,
    slices={
        "marked": lambda episode: bool(_labels(episode).any()),
        "calm": lambda episode: not _labels(episode).any(),
    },
    split="device",
    forecast=Forecast(tells=("score", "alarm"), due=due, score=later, across=True, alarm="alarm"),
    importers=(series,),
    recipe=Recipe(
        devices=5,
        first=_one_series,
        then=_one_series,
        headline="recall_at_one_a_week",
        report_trials=9,  # machines that no device gets
        quick=(2, 3),
        generations=3,
        sample=watched,
    ),
)
