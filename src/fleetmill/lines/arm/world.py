"""A robot arm that picks a thing up and carries it to a goal, with an operator who rescues it.

Source: gymnasium-robotics FetchPickAndPlace-v4 on MuJoCo 3.3.5, reward and goals unchanged. MuJoCo is loaded when an
attempt begins, not on import. An attempt is a function of (scenario, seed, actions): a simulator that was used before
gives the same bytes as a new one (a test holds it to that), so idle ones are used again.
"""

from __future__ import annotations

import warnings
from contextlib import redirect_stderr
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np

from fleetmill.core.errors import LineError
from fleetmill.core.line import Array, Frame, Step
from fleetmill.lines.arm.expert import act

PERIOD_NS = 40_000_000  # 20 substeps of 2 ms
ALONE_STEPS = 50  # the model's time: twice the slowest expert attempt of 100
RESCUE_STEPS = 40  # the operator's time after it
REACHED_M = 0.05  # Source: distance_threshold of the environment
RESCUED = {"default": False, "field": True}  # scenario -> is an operator there?

_IDLE: list[Any] = []  # simulators that nobody uses: a new one costs as much as 20 steps
_IDLE_MOST = 4


class Attempt:
    """One attempt; implements `core.line.World`.

    It is done when the thing is at the goal (also when it lay there from the start: 3 of 100 seeds) or time is up. With
    an operator, "up" is `RESCUE_STEPS` after he has taken over, else `ALONE_STEPS`.
    """

    def __init__(self, scenario: str, seed: int) -> None:
        if scenario not in RESCUED:
            raise LineError(f"arm knows the scenarios {sorted(RESCUED)}, not {scenario!r}")
        self._rescued, self._seed = RESCUED[scenario], seed
        self._arm: Any = None
        self._count = 0

    def begin(self) -> Step:
        """The first instant: thing and goal lie where the seed says."""
        if self._arm is None:
            self._arm = _idle_arm() or _open_arm()
        self._count = 0
        return self._look(self._arm.reset(seed=self._seed)[0])

    def act(self, action: Frame) -> Step:
        """Send ``move`` (float32 (4,), each within -1..1) and live 40 ms."""
        self._count += 1
        return self._look(self._arm.step(np.asarray(action["move"], dtype=np.float32))[0])

    def close(self) -> None:
        """Let the simulator go; the attempt is over."""
        if self._arm is not None and len(_IDLE) < _IDLE_MOST:
            _IDLE.append(self._arm)
        self._arm = None

    def _look(self, seen: dict[str, Array]) -> Step:
        state = np.concatenate([seen["observation"], seen["desired_goal"]]).astype(np.float32)
        reached = bool(np.linalg.norm(seen["achieved_goal"] - seen["desired_goal"]) < REACHED_M)
        alone = self._count < ALONE_STEPS
        right = act(state)
        takeover = self._rescued and not alone and not reached
        return Step(
            time_ns=self._count * PERIOD_NS,
            observation={"state": state},
            label={"label.move": right},
            takeover={"move": right} if takeover else None,
            events={
                "attempts": float(self._count == 0),
                "success": float(reached and self._count <= ALONE_STEPS),
                "takeovers": float(takeover and self._count == ALONE_STEPS),
                "seconds": PERIOD_NS / 1e9,
            },
            done=reached or self._count >= ALONE_STEPS + (RESCUE_STEPS if self._rescued else 0),
        )


def _idle_arm() -> Any:
    try:
        return _IDLE.pop()  # asking first would race: attempts may run in threads
    except IndexError:
        return None


def _open_arm() -> Any:
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")  # on its first import the package warns, and prints, of its other environments
        from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv

        arm = MujocoFetchPickAndPlaceEnv(reward_type="sparse")
    # each observation looks up all 15 joints by name and uses the last two, the fingers: a quarter of a step's time
    every = arm._model_names
    fingers = tuple(name for name in every.joint_names if "gripper_finger" in name)
    arm._model_names = SimpleNamespace(joint_names=fingers, body_name2id=every.body_name2id)
    return arm
