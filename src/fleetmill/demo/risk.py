"""From when on a model is sure: a threshold with a stated risk, and exact intervals of shares. Pure.

Source: Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, 1934;
several thresholds at once as in Angelopoulos et al., Learn then Test, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
NEVER = 1.01  # no answer is so sure
_STEPS = 60  # of a bisection: to the last bit that a float shows
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the answers that the thresholds keep


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """A threshold, and the answers at and above it on which it was fixed."""

    sure: float
    kept: int
    wrong: int
    bound: float  # of the share of wrong ones, with 95 % confidence; 1: none were kept
    asked: int


def threshold(answers: Sequence[tuple[float, bool]], *, risk: float) -> Threshold:
    """The lowest of ten thresholds at which at most `risk` of the kept answers are wrong, with 95 % confidence.

    `answers`: (how sure, whether right) of each. The thresholds keep a tenth of the answers, two tenths and so on, so
    they do not look at what is right; each is tried at a tenth of the error that is allowed in all (Bonferroni), so the
    confidence holds whichever is taken. It holds for this model and questions like these.
    """
    ordered = sorted(answers, key=lambda a: -a[0])
    found = Threshold(sure=NEVER, kept=0, wrong=0, bound=1.0, asked=len(ordered))
    for share in _SHARES:
        at = int(share * len(ordered)) - 1
        if at < 0:
            continue
        sure = ordered[at][0]
        above = [is_right for how_sure, is_right in ordered if how_sure >= sure]
        wrong = len(above) - sum(above)
        bound = upper(wrong, len(above), 1.0 - (1.0 - CONFIDENCE) / len(_SHARES))
        if bound <= risk:
            found = Threshold(sure=sure, kept=len(above), wrong=wrong, bound=bound, asked=len(ordered))
    return found


def interval(hits: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share.

    >>> [round(end, 3) for end in interval(0, 59)]
    [0.0, 0.061]
    """
    side = 1.0 - (1.0 - CONFIDENCE) / 2.0
    return 1.0 - upper(of - hits, of, side), upper(hits, of, side)


def upper(hits: int, of: int, confidence: float) -> float:
    """The largest share under which so few `hits` are not yet less likely than 1 - `confidence`.

    >>> round(upper(0, 59, 0.95), 4), upper(3, 3, 0.95)
    (0.0495, 1.0)
    """
    if hits >= of:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _at_most(hits, of, middle) > 1.0 - confidence else (low, middle)
    return high


def _at_most(hits: int, of: int, share: float) -> float:
    """How likely at most `hits` of `of` are."""
    if not 0.0 < share < 1.0:
        return float(share <= 0.0)
    ways = [math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(hits + 1)]
    return sum(math.exp(w + k * math.log(share) + (of - k) * math.log1p(-share)) for k, w in enumerate(ways))
