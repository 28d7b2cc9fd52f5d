"""Made-up machines for a first look: engines that wear out, and numbers of machines in which something goes wrong.

Nothing here was measured on a machine. What a line learns from it says that its parts work, and no more.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import numpy as np

from fleetmill.core.line import Array
from fleetmill.lines.machine.life_files import SENSORS, SETTINGS

_ENGINES, _SERIES = 100, 32
_DAYS, _A_DAY = 12, 288  # of a series; values a day, every five minutes
_START = datetime(2026, 1, 5, tzinfo=timezone.utc)


def engines(seed: int) -> Mapping[str, bytes]:
    """One table for the importer ``cmapss``: engines that run to failure; wear shows in two sensors of three."""
    chance = np.random.default_rng(seed)
    level, reach = chance.uniform(20.0, 2000.0, SENSORS), chance.normal(0.0, 1.0, SENSORS)
    reach[::3] = 0.0  # these show nothing but noise
    rows = [_life(chance, engine, level, reach) for engine in range(1, _ENGINES + 1)]
    names = [f"setting{n}" for n in range(1, SETTINGS + 1)] + [f"s{n}" for n in range(1, SENSORS + 1)]
    header = ",".join(["engine", "cycle", *names])
    text = io.StringIO()
    np.savetxt(text, np.concatenate(rows), fmt=["%d", "%d", *["%.5g"] * (SETTINGS + SENSORS)], delimiter=",")
    return {"engines.csv": f"{header}\n{text.getvalue()}".encode()}


def series(seed: int) -> Mapping[str, bytes]:
    """Tables for the importer ``series``: a daily course with noise; in most of them a marked fault."""
    chance = np.random.default_rng(seed)
    return {f"machine-{n:02d}.csv": _watched(chance) for n in range(_SERIES)}


def _life(chance: np.random.Generator, engine: int, level: Array, reach: Array) -> Array:
    """(T, 26): wear rises slowly, then fast; no two engines wear alike."""
    cycles = int(np.clip(chance.normal(190.0, 45.0), 100, 350))
    t = np.arange(1, cycles + 1)
    wear = np.exp(chance.uniform(4.0, 6.0) * (t / cycles - 1.0)) + chance.uniform(0.0, 0.08)
    own = 1.0 + 0.15 * chance.normal(size=SENSORS)
    shown = np.outer(wear, reach * own) + 0.3 * chance.normal(size=(cycles, SENSORS))
    settings = 0.002 * chance.normal(size=(cycles, SETTINGS)) + np.array([0.0, 0.0, 100.0])
    return np.concatenate([np.full((cycles, 1), engine), t[:, None], settings, level * (1.0 + 0.01 * shown)], axis=1)


def _watched(chance: np.random.Generator) -> bytes:
    rows = _DAYS * _A_DAY
    t = np.arange(rows)
    noise, course = chance.uniform(0.5, 2.0), chance.uniform(4.0, 12.0)
    daily, mixed = np.sin(2 * np.pi * t / _A_DAY), chance.normal(size=rows)
    wrong = np.zeros(rows, bool)
    if chance.random() < 0.75:
        first = int(chance.integers(4 * _A_DAY, rows - _A_DAY))
        wrong[first : first + int(chance.integers(72, 144))] = True
    how = chance.integers(4) if wrong.any() else -1
    if how == 0:
        mixed[wrong] *= 2.0  # it trembles
    elif how == 1:
        mixed[wrong] *= 0.4  # its sensor has grown dull
    elif how == 2:
        daily[wrong] *= 0.2  # it hardly follows the day
    elif how == 3:
        daily[wrong] += 0.7 * chance.choice((-1.0, 1.0))  # higher or lower than it is at that hour
    value = chance.uniform(30.0, 90.0) + course * daily + noise * mixed
    start = _START + timedelta(days=int(chance.integers(0, 60)))
    lines = (
        f"{start + timedelta(minutes=5 * int(at)):%Y-%m-%d %H:%M:%S},{number:.3f},{int(marked)}"
        for at, number, marked in zip(t, value, wrong, strict=True)
    )
    return "\n".join(["timestamp,value,label", *lines, ""]).encode()
