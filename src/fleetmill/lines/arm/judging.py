"""How an arm's model is scored: alive by attempts that needed no rescue, replayed by its distance to the expert."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleetmill.core.line import Array, Data, Episode, Frame, Metrics, Policy, Step, Tally

_EVENTS = ("attempts", "success", "takeovers", "seconds")


def live(steps: Sequence[Step], sent: Sequence[Frame]) -> Tally:  # noqa: ARG001 - the contract's shape
    """The sums of an attempt's events."""
    return {name: np.array(sum(step.events.get(name, 0.0) for step in steps)) for name in _EVENTS}


def score(policy: Policy, episode: Episode) -> Tally:
    """Step the policy through recorded states: absolute distances to the expert's action, and how many."""
    policy.reset()
    answers = [policy.step({"state": state})["move"] for state in episode.columns["state"]]
    apart = np.abs(np.asarray(answers, dtype=np.float64) - episode.columns["label.move"])
    return {"move_abs": apart.sum(axis=0), "rows": np.array(float(len(answers)))}


def metrics(tallies: Sequence[Tally]) -> Metrics:
    """Pooled over attempts and replayed rows; NaN for what these tallies cannot say."""
    attempts, rows = _total("attempts", tallies), _total("rows", tallies)
    return {
        "success": _share(_total("success", tallies), attempts),
        "takeovers_per_attempt": _share(_total("takeovers", tallies), attempts),
        "seconds_per_attempt": _share(_total("seconds", tallies), attempts),
        "move_mae": _share(_total("move_abs", tallies), 4.0 * rows),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _total(name: str, tallies: Sequence[Tally]) -> float:
    # sorted: a sum of floats must not depend on the order of the trials
    found = (tally[name] for tally in tallies if name in tally)
    return float(sum(sorted(float(value.sum() if value.ndim else value) for value in found)))


class Constant:
    """The mean action of the training rows, whatever is seen; implements `core.line.Policy`."""

    def __init__(self, move: Array) -> None:
        self._move = move.astype(np.float32)

    def reset(self) -> None:
        """Nothing to forget."""

    def step(self, observation: Frame) -> Frame:  # noqa: ARG002
        """The mean action."""
        return {"move": self._move}

    def ask(self, inputs: Frame) -> Frame:
        """The mean action for each row of the batch."""
        return {"move": np.repeat(self._move[np.newaxis], len(inputs["state"]), axis=0)}


def baseline(data: Data) -> Policy:
    """What must be beaten: the expert's mean action."""
    labels = data.split("train").column("label.move")
    return Constant(np.asarray(labels, dtype=np.float64).mean(axis=0))
