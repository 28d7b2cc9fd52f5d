"""What a driver is worth: counted alive in a world, or compared with the expert on recorded episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleetmill.core.line import Array, Data, Episode, Frame, Memory, Metrics, Policy, Step, Tally

_EVENTS = ("seconds", "distance_m", "model_m", "takeovers", "off_road")


def live(steps: Sequence[Step], sent: Sequence[Frame]) -> Tally:
    """Events of one drive, summed."""
    del sent
    return {name: np.array(sum(step.events.get(name, 0.0) for step in steps)) for name in _EVENTS}


def score(policy: Policy, episode: Episode) -> Tally:
    """Distance from the expert's steering, summed over the rows that have a label."""
    policy.reset()
    label = episode.columns["label.steer"]
    wrong = []
    for row in range(len(episode.times_ns)):
        observation = {name: episode.columns[name][row] for name in ("camera", "speed")}
        steer = float(policy.step(observation)["steer"])
        if np.isfinite(label[row]):
            wrong.append(abs(steer - float(label[row])))
    return {"frames": np.array(float(len(wrong))), "error": np.array(float(sum(wrong)))}


def metrics(tallies: Sequence[Tally]) -> Metrics:
    """Pooled numbers. What cannot be told from these tallies is left out, never guessed.

    `takeovers_per_km` counts kilometres that the model drove, `off_road_per_km` all kilometres. `autonomy` is the share
    of all kilometres that the model drove.
    """
    names = {name for tally in tallies for name in tally}
    total = {name: float(sum(float(tally[name]) for tally in tallies if name in tally)) for name in sorted(names)}
    found: dict[str, float] = {}
    if total.get("frames", 0.0) > 0:
        found["steer_mae"] = total["error"] / total["frames"]
    if total.get("seconds", 0.0) > 0:
        found |= _driven(total)
    return found


def _driven(total: dict[str, float]) -> dict[str, float]:
    found = {
        "km": total["distance_m"] / 1000,
        "model_km": total["model_m"] / 1000,
        "mean_speed": total["distance_m"] / total["seconds"],
    }
    if total["model_m"] > 0:
        found["takeovers_per_km"] = 1000 * total["takeovers"] / total["model_m"]
    if total["distance_m"] > 0:
        found["autonomy"] = total["model_m"] / total["distance_m"]
        found["off_road_per_km"] = 1000 * total["off_road"] / total["distance_m"]
    return found


class StraightOn:
    """The baseline: whatever comes, the wheel stays in the middle. `core.line.Policy`."""

    def reset(self) -> None:
        """Nothing to forget."""

    def step(self, observation: Frame) -> Frame:
        """Straight on."""
        del observation
        return {"steer": np.zeros((), dtype=np.float32)}

    def ask(self, inputs: Frame) -> Frame:
        """Straight on, once per row."""
        return {"steer": np.zeros(len(inputs["speed"]), dtype=np.float32)}


def baseline(data: Data) -> Policy:
    """It learns nothing from the data."""
    del data
    return StraightOn()


def guard(action: Frame, observation: Frame, memory: Memory) -> tuple[Frame, Memory]:
    """Steering stays within the wheel's range, and a command that is no number keeps the wheel where it was."""
    del observation
    before: Array = memory.get("steer", np.zeros((), dtype=np.float32))
    wanted = np.asarray(action["steer"], dtype=np.float32)
    steer = np.clip(wanted, np.float32(-1), np.float32(1)) if np.isfinite(wanted) else before
    return {**action, "steer": np.asarray(steer)}, {"steer": np.asarray(steer)}
