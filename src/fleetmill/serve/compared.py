"""How far a candidate's answers lie from the champion's on the same inputs. Pure, and nothing of an input is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fleetmill.core.line import Frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Sums over rows; two of them add up."""

    rows: int = 0
    differing: int = 0  # rows of which an output lies farther off than the tolerance
    distance: float = 0.0  # sum over rows of the farthest output's distance
    failed: int = 0  # requests that the candidate could not answer

    def __add__(self, other: Compared) -> Compared:
        return Compared(
            rows=self.rows + other.rows,
            differing=self.differing + other.differing,
            distance=self.distance + other.distance,
            failed=self.failed + other.failed,
        )


FAILED = Compared(failed=1)


def compare(champion: Frame, candidate: Frame, tolerance: float) -> Compared:
    """Compare two answers to one batch, row by row. An output that only one of them has, or of another shape, differs.

    >>> one, other = {"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, 2.5])}
    >>> compare(one, other, 0.1)
    Compared(rows=2, differing=1, distance=0.5, failed=0)
    """
    rows = max((len(v) for v in champion.values()), default=0)
    farthest = np.zeros(rows)
    for name, mine in champion.items():
        its = candidate.get(name)
        if its is None or its.shape != mine.shape:
            farthest[:] = np.inf
            break
        apart = np.abs(np.asarray(mine, np.float64) - np.asarray(its, np.float64)).reshape(rows, -1)
        apart = np.where(np.isnan(apart), np.inf, apart)
        farthest = np.maximum(farthest, apart.max(axis=1, initial=0.0))
    told = farthest[np.isfinite(farthest)]
    return Compared(rows=rows, differing=int((farthest > tolerance).sum()), distance=float(told.sum()))
