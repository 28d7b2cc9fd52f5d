"""How well a model steers as the driver did: errors pooled over drives it never saw.

Tallies are sums (rows, label, label^2, error^2, |error|), so that R2 is one number over the pool and never a mean of
R2s. R2's mean is the pool's own: a predictor of the training rows' mean scores at most 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleetmill.core.line import Array, Data, Episode, Frame, Metrics, Policy, Tally

_BATCH = 64
_SUMS = ("rows", "label", "label_squared", "error_squared", "error_abs")


def score(policy: Policy, episode: Episode) -> Tally:
    """All of an episode's frames in batches: the net has no state, so stepping would give the same."""
    policy.reset()
    camera, label = episode.columns["camera"], np.asarray(episode.columns["label.steer"], dtype=np.float64)
    answers = [policy.ask({"camera": camera[i : i + _BATCH]})["steer"] for i in range(0, len(camera), _BATCH)]
    steer = np.clip(np.concatenate(answers).astype(np.float64), -1.0, 1.0)  # as the guard does
    return tally(label, steer)


def tally(label: Array, steer: Array) -> Tally:
    """The sums of some frames: labels and answers, (T,) each, as shares of full lock."""
    error = steer - label
    values = (float(len(label)), label.sum(), (label**2).sum(), (error**2).sum(), np.abs(error).sum())
    return {name: np.array(float(value)) for name, value in zip(_SUMS, values, strict=True)}


def metrics(tallies: Sequence[Tally]) -> Metrics:
    """Pooled ``steering_rmse``, ``steering_mae`` (shares of full lock) and ``steering_r2``.

    NaN from no rows; R2 is NaN too where the labels never change.

    >>> rows = tally(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    >>> metrics([rows, rows])["steering_r2"]
    0.0
    """
    rows, label, squared, error, distance = (_total(name, tallies) for name in _SUMS)
    if not rows:
        return dict.fromkeys(("steering_rmse", "steering_mae", "steering_r2"), float("nan"))
    spread = squared - label**2 / rows
    return {
        "steering_rmse": float(np.sqrt(error / rows)),
        "steering_mae": distance / rows,
        "steering_r2": 1.0 - error / spread if spread > 1e-9 * rows else float("nan"),
    }


def _total(name: str, tallies: Sequence[Tally]) -> float:
    # sorted: a sum of floats must not depend on the order of the trials
    return float(sum(sorted(float(tally[name]) for tally in tallies)))


class Constant:
    """The mean of the training labels, whatever is seen; implements `core.line.Policy`."""

    def __init__(self, steer: float) -> None:
        self._steer = np.float32(steer)

    def reset(self) -> None:
        """Nothing to forget."""

    def step(self, observation: Frame) -> Frame:  # noqa: ARG002
        """The mean."""
        return {"steer": np.array(self._steer)}

    def ask(self, inputs: Frame) -> Frame:
        """The mean for each row of the batch."""
        return {"steer": np.full(len(inputs["camera"]), self._steer)}


def baseline(data: Data) -> Policy:
    """What must be beaten: the mean of the training labels."""
    return Constant(float(np.mean(data.split("train").column("label.steer"), dtype=np.float64)))
