"""The statistics of findings: counts and columns in, probabilities out. Pure, numpy only, chance by a seed.

Each family of questions (all devices; all components of all features) is answered at 5 % for the family as a whole:
Holm's correction. tests/findings simulates how often nothing at all is called something.

Source: Clopper and Pearson 1934 and Przyborowski and Wilenski 1940 (exact counts); Holm 1979; Phipson and Smyth 2010
(p-values of permutations are never zero).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core.line import Array

LEVEL = 0.05  # share of families in which a false alarm is allowed
LEAST_SESSIONS = 3  # on a side; fewer cannot tell what differs between sessions anyway
_CUTS = 64  # where the distributions are compared in a permutation
_PERMUTATIONS = 999
_EQUAL = 1 + 1e-7  # outcomes that are equally likely but for rounding


def holm(probabilities: Sequence[float]) -> list[float]:
    """Each p-value corrected for all of its family, in the given order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    found, highest = [0.0] * len(probabilities), 0.0
    for rank, index in enumerate(sorted(range(len(probabilities)), key=lambda i: probabilities[i])):
        highest = max(highest, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        found[index] = highest
    return found


def binomial(hits: int, of: int, share: float) -> float:
    """Exact two-sided p-value of so many hits when each has probability `share`: all outcomes that are no likelier.

    >>> round(binomial(682, 925, 0.75), 4)
    0.3825
    >>> binomial(0, 0, 0.5)
    1.0
    """
    if not 0 < share < 1 or of == 0:
        return 1.0
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, of + 1)))])  # of the factorials
    k = np.arange(of + 1)
    likely = logs[of] - logs[k] - logs[of - k] + k * math.log(share) + (of - k) * math.log1p(-share)
    chances = np.exp(likely)
    return float(min(1.0, chances[chances <= chances[hits] * _EQUAL].sum()))


def rates_differ(hits: int, time: float, other_hits: int, other_time: float) -> float:
    """Exact two-sided p-value that two Poisson rates are one: given all hits, those of one side are binomial.

    >>> round(rates_differ(11, 800, 21, 3011), 5)
    0.07967
    """
    return binomial(hits, hits + other_hits, time / (time + other_time)) if time > 0 and other_time > 0 else 1.0


def ks(a: Array, b: Array) -> float:
    """The Kolmogorov-Smirnov distance of two samples: the largest gap between their distribution functions.

    >>> round(ks(np.array([1, 2, 3]), np.array([2, 3, 4])), 4)
    0.3333
    """
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    gap = np.searchsorted(a, both, side="right") / len(a) - np.searchsorted(b, both, side="right") / len(b)
    return float(np.abs(gap).max())


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """How far a component is from where it was, and how surely. `p` is alone, `p_family` among all that were asked."""

    distance: float  # KS
    p: float
    p_family: float


def shifts(columns: Sequence[Sequence[Array]], new: Sequence[bool], *, seed: int) -> list[Shift]:
    """For each component (a column per session) whether its rows in new sessions differ from those in the others.

    Rows within a session are correlated, so whole sessions change sides in a permutation, never rows; each component
    is asked with the same permutations.
    """
    side = np.asarray(new, bool)
    sides = _permuted(side, permutations(len(columns)), seed)
    alone = [_chance(column, side, sides) for column in columns]
    return [
        Shift(distance=_distance(column, side), p=p, p_family=family)
        for column, p, family in zip(columns, alone, holm(alone), strict=True)
    ]


def permutations(components: int) -> int:
    """How many permutations are drawn: so many that the least p-value can pass Holm's first step twice over."""
    return max(_PERMUTATIONS, math.ceil(2 * components / LEVEL))


def least_chance(new: int, old: int) -> float:
    """The least p-value that so many sessions on either side can come to, however different they are.

    >>> least_chance(3, 3)
    0.1
    """
    ways = math.comb(new + old, new)
    return (2 if new == old else 1) / ways  # equal sides: the mirror image is as far apart


def _permuted(side: Array, number: int, seed: int) -> Array:
    """(number, sessions): who is on the new side in each permutation."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.permuted(np.tile(side, (number, 1)), axis=1), np.float64)


def _chance(column: Sequence[Array], side: Array, sides: Array) -> float:
    """The p-value of one component: the share of permutations that are at least as far apart."""
    cuts = np.unique(np.quantile(np.concatenate(column), np.linspace(0, 1, _CUTS)))
    below = np.stack([np.searchsorted(np.sort(rows), cuts, side="right") for rows in column]).astype(np.float64)
    counts = np.array([len(rows) for rows in column], np.float64)

    def gaps(new: Array) -> Array:
        mine, theirs = new @ below, (1 - new) @ below
        return np.asarray(np.abs(mine / (new @ counts)[:, None] - theirs / ((1 - new) @ counts)[:, None]).max(axis=1))

    seen = float(gaps(side[None].astype(np.float64))[0])
    return float((1 + (gaps(sides) >= seen - 1e-12).sum()) / (1 + len(sides)))


def _distance(column: Sequence[Array], side: Array) -> float:
    return ks(
        np.concatenate([rows for rows, is_new in zip(column, side, strict=True) if is_new]),
        np.concatenate([rows for rows, is_new in zip(column, side, strict=True) if not is_new]),
    )
