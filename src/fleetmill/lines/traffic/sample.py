"""Made-up streets for a first look: people drive by hour, weekday and season, and a sensor is silent at times.

Nothing here was counted anywhere. What the line learns from it says that its parts work, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fleetmill.core.line import Array

_STREETS, _DAYS = 3, 880
_SILENT = 0.02  # of the hours


def streets(seed: int) -> Mapping[str, bytes]:
    """Tables as the importer ``hourly`` reads them, one per street."""
    chance = np.random.default_rng(seed)
    return {f"street-{n}.csv": _street(chance) for n in range(_STREETS)}


def _street(chance: np.random.Generator) -> bytes:
    hours = np.datetime64("2024-01-01T00", "h") + np.arange(24 * _DAYS)
    count = np.maximum(_counted(chance, len(hours)), 0.0).round().astype(int)
    heard = chance.random(len(hours)) > _SILENT
    lines = (f"{str(at).replace('T', ' ')}:00:00,{n}" for at, n in zip(hours[heard], count[heard], strict=True))
    return "\n".join(["date_time,traffic_volume", *lines, ""]).encode()


def _counted(chance: np.random.Generator, hours: int) -> Array:
    """(T,): two rush hours on working days, a noon hill on others, the season, and a mood that lasts some hours."""
    t = np.arange(hours)
    hour, weekend = t % 24, (t // 24 % 7) >= 5
    rush = np.exp(-(((hour - 8) / 2.0) ** 2)) + 1.2 * np.exp(-(((hour - 17) / 2.5) ** 2))
    course = np.where(weekend, 0.9 * np.exp(-(((hour - 14) / 4.5) ** 2)), rush) + 0.12
    season = 1.0 + 0.25 * np.sin(2 * np.pi * (t / 8766.0 + chance.random()))
    mood = np.zeros(hours)
    steps = 0.06 * chance.normal(size=hours)
    for at in range(1, hours):
        mood[at] = 0.93 * mood[at - 1] + steps[at]
    noise = 1.0 + 0.04 * chance.normal(size=hours)
    return np.asarray(chance.uniform(800, 4000) * course * season * np.exp(mood) * noise)
