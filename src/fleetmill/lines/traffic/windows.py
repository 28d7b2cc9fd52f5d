"""What lies before and after an hour of a session: two weeks back, a day ahead; NaN beyond its ends."""

from __future__ import annotations

import numpy as np

from fleetmill.core.line import Array

AHEAD = 24  # hours that are told
WEEK = 168
HISTORY = 2 * WEEK  # hours that the model sees, the one just counted included


def before(volume: Array, rows: Array) -> Array:
    """(N, 336): the hours up to and with each of `rows`, oldest first.

    >>> before(np.array([5.0, 6.0], np.float32), np.array([1]))[0, -3:]
    array([nan,  5.,  6.], dtype=float32)
    """
    filled = np.concatenate([np.full(HISTORY, np.nan, np.float32), np.asarray(volume, np.float32)])
    return filled[np.asarray(rows)[:, np.newaxis] + 1 + np.arange(HISTORY)]


def after(volume: Array, rows: Array) -> Array:
    """(N, 24): the hours that follow each of `rows`."""
    filled = np.concatenate([np.asarray(volume, np.float32), np.full(AHEAD, np.nan, np.float32)])
    return filled[np.asarray(rows)[:, np.newaxis] + 1 + np.arange(AHEAD)]
