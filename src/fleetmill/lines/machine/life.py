"""The line ``machine_life``: how many cycles an engine has left, from its sensors, one cycle at a time with memory.

The model is a recurrent net whose memory is a port that feeds itself. Other engines are held out, never other cycles.
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
from fleetmill.lines.machine.life_files import PERIOD_NS, SENSORS, SETTINGS, cmapss
from fleetmill.lines.machine.life_judging import MOST, baseline, due, later, metrics, score
from fleetmill.lines.machine.sample import engines
from fleetmill.lines.ready import rows_of

MEMORY = 32  # numbers that the model carries from cycle to cycle

_SPEC = ModelSpec(
    inputs=(
        Port(name="settings", dtype="float32", shape=(SETTINGS,), feature="settings"),
        Port(name="sensors", dtype="float32", shape=(SENSORS,), feature="sensors"),
        Port(name="memory", dtype="float32", shape=(MEMORY,)),
    ),
    outputs=(
        Port(name="rul", dtype="float32", shape=(), feature="rul"),
        Port(name="memory_next", dtype="float32", shape=(MEMORY,), feeds="memory"),
    ),
    rate_hz=1e9 / PERIOD_NS,
    latency_ns=25_000_000,
    tolerance=1e-3,  # cycles
)


def train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """The model's files; see `life_net.train`."""
    from fleetmill.lines.machine.life_net import train as learn

    return learn(job, tracker, _SPEC)


def guard(action: Frame, observation: Frame, memory: Memory) -> tuple[Frame, Memory]:  # noqa: ARG001
    """Within 0 to 125 cycles; what is no number is the last that was sent less this cycle, and 0 before the first."""
    rul = float(action["rul"])
    if not np.isfinite(rul):
        rul = float(memory.get("rul", np.zeros(()))) - 1.0
    sent = np.asarray(np.clip(rul, 0.0, MOST), dtype=np.float32)
    return {"rul": sent}, {"rul": sent}


def _cycles(episode: Episode) -> float:
    """How long the engine lives, as far as the recording says; NaN where nobody knows."""
    return len(episode.times_ns) + float(episode.columns["label.rul"][-1])


def _feature(name: str, kind: str, unit: str = "1", shape: tuple[int, ...] = ()) -> Feature:
    return Feature(name=name, kind=kind, dtype="float32", shape=shape, unit=unit, hold_ns=PERIOD_NS)  # type: ignore[arg-type]


_four_lives = Round(scenario="replay", sessions=4, seconds=400 * 3600.0, budget_ratio=1.0)

line = Line(
    name="machine_life",
    features=(
        _feature("settings", "observation", shape=(SETTINGS,)),  # how the engine is flown
        _feature("sensors", "observation", shape=(SENSORS,)),  # temperatures, pressures, speeds, in the file's order
        _feature("rul", "action", unit="{cycle}"),
        _feature("label.rul", "label", unit="{cycle}"),  # known when it has failed; NaN: nobody knows
        _feature("model.rul", "extra", unit="{cycle}"),
    ),
    model=_SPEC,
    cut=rows_of("settings", "sensors", "label.rul", period_ns=PERIOD_NS),
    train=train,
    judging=Judging(score=score, metrics=metrics, baseline=baseline),
    checks=(
        Check(metric="rul_rmse", better="lower", against="baseline", limit=1.0),
        Check(metric="phm08_mean", better="lower", against="baseline", limit=1.0),
        # two dozen engines cannot prove a small gain: not worse by more than 2 %
        Check(metric="rul_rmse", better="lower", against="champion", limit=1.02, first=False),
    ),
    guard=guard,
    slices={
        "short_lived": lambda episode: _cycles(episode) < 200,
        "long_lived": lambda episode: _cycles(episode) >= 200,
    },
    split="device",
    forecast=Forecast(tells=("rul",), due=due, score=later, across=True),
    importers=(cmapss,),
    recipe=Recipe(
        devices=6,
        first=_four_lives,
        then=_four_lives,
        headline="rul_rmse",
        generations=3,
        report_trials=24,  # engines that no device gets
        quick=(2, 3),
        demo_train={"steps": 300},  # half: to be looked at while it runs
        sample=engines,
    ),
)
