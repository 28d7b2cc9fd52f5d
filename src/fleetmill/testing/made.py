"""Made-up recordings for a line without a world: every feature at the model's rate, filled by chance."""

from __future__ import annotations

import numpy as np

from fleetmill.core.line import Array, Line, Message, Stretch

START_NS = 1_800_000_000_000_000_000


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
                Message(
                    topic=f.name,
                    log_time_ns=at,
                    publish_time_ns=at,
                    value={"data": value(f.dtype, f.shape, chance)},
                )
                for at in range(START_NS, START_NS + round(seconds * 1e9), period_ns)
                for f in line.features
                if f.dtype != "str"
            ],
        )
        for index in range(number)
    ]


def value(dtype: str, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    """One instant's numbers of that dtype and shape."""
    whole = tuple(max(n, 1) for n in shape)
    if np.issubdtype(np.dtype(dtype), np.integer):
        return chance.integers(0, 128, whole).astype(dtype)
    return np.asarray(chance.normal(size=whole), dtype)
