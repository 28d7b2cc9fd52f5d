"""Made-up recordings for a line without a world: every feature at the model's rate, filled by chance."""

from __future__ import annotations

import numpy as np

from fleetmill.core.line import Array, Feature, Line, Message, Stretch

_START_NS = 1_800_000_000_000_000_000


def made_up(line: Line, *, number: int = 3, seconds: float = 4.0, seed: int = 0) -> list[Stretch]:
    """Stretches for `check_line`: numbers by a normal distribution, pictures by an even one; text is left out.

    A length that varies (-1) is 1. They have the shapes that a line declares, and no meaning.
    """
    chance = np.random.default_rng(seed)
    period_ns = round(1e9 / line.model.rate_hz)
    return [
        Stretch(
            device="made-up",
            session=f"s{index:05d}",
            index=0,
            tags={},
            messages=[
                Message(topic=f.name, log_time_ns=at, publish_time_ns=at, value={"data": _value(f, chance)})
                for at in range(_START_NS, _START_NS + round(seconds * 1e9), period_ns)
                for f in line.features
                if f.dtype != "str"
            ],
        )
        for index in range(number)
    ]


def _value(feature: Feature, chance: np.random.Generator) -> Array:
    shape = tuple(max(n, 1) for n in feature.shape)
    if np.issubdtype(np.dtype(feature.dtype), np.integer):
        return chance.integers(0, 128, shape).astype(feature.dtype)
    return np.asarray(chance.normal(size=shape), feature.dtype)
