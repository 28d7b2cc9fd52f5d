"""What a comparison of paired trials says, and how surely. Judge and release both read it, neither owns it.

Trials are paired: trial i of both sides lived the same world or saw the same recording. Pairs are resampled, tallies
pooled anew each time, so that rates and R2 come out right.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fleetmill.core.line import Metrics

Trial = TypeVar("Trial")  # a tally, or all tallies of one session
RESAMPLES = 1000
LEAST_TRIALS = 3  # fewer prove nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """a/b of a pooled metric with its 95 % paired bootstrap interval; each end is a one-sided 97.5 % bound."""

    metric: str
    a: float
    b: float
    value: float
    low: float
    high: float
    pairs: int


def ratios(
    metrics: Sequence[str],
    a: Sequence[Trial],
    b: Sequence[Trial],
    pool: Callable[[Sequence[Trial]], Metrics],
    *,
    seed: int,
) -> list[Ratio]:
    """The ratio of each metric over the same resamples of the pairs.

    0/0 counts as 1 (no difference seen), x/0 as infinity.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} trials are no pairs")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(a), (RESAMPLES, len(a)))
    whole_a, whole_b = pool(a), pool(b)
    found: dict[str, list[float]] = {m: [] for m in metrics}
    for draw in draws:
        pooled_a, pooled_b = pool([a[i] for i in draw]), pool([b[i] for i in draw])
        for metric in metrics:
            found[metric].append(_ratio(pooled_a[metric], pooled_b[metric]))
    return [
        Ratio(
            metric=metric,
            a=whole_a[metric],
            b=whole_b[metric],
            value=_ratio(whole_a[metric], whole_b[metric]),
            low=_rank(found[metric], 0.025),
            high=_rank(found[metric], 0.975),
            pairs=len(a),
        )
        for metric in metrics
    ]


def interval(
    metric: str, tallies: Sequence[Trial], pool: Callable[[Sequence[Trial]], Metrics], *, seed: int
) -> tuple[float, float, float]:
    """(value, low, high): a pooled metric with its 95 % bootstrap interval over trials."""
    return intervals(tallies, lambda chosen: {metric: pool(chosen)[metric]}, seed=seed)[metric]


def intervals(
    tallies: Sequence[Trial],
    pool: Callable[[Sequence[Trial]], Metrics],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float, float]]:
    """The same of every metric, over the same resamples."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(tallies), (resamples, len(tallies)))
    found = [pool([tallies[i] for i in draw]) for draw in draws]
    return {
        metric: (value, _rank([f[metric] for f in found], 0.025), _rank([f[metric] for f in found], 0.975))
        for metric, value in pool(tallies).items()
    }


def _ratio(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return math.nan
    if b == 0:
        return 1.0 if a == 0 else math.inf
    return a / b


def _rank(values: Sequence[float], share: float) -> float:
    """The value at that rank; NaN (a resample that measures nothing) counts as the end that proves nothing."""
    ordered = sorted(values, key=lambda v: math.inf if math.isnan(v) else v)
    if share < 0.5:
        ordered = sorted(values, key=lambda v: -math.inf if math.isnan(v) else v)
    at = ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
    return at if not math.isnan(at) else (math.inf if share > 0.5 else -math.inf)
