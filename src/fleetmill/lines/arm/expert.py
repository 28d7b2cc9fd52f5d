"""The scripted expert: it reads the exact state, and is memoryless so that it can label any frame.

Lengths in metres in the robot's frame, z up. Actions are the environment's: x, y, z as shares of 5 cm per step, then
the gripper (1 open, -1 closed).
"""

from __future__ import annotations

import numpy as np

from fleetmill.core.line import Array

GRIP, THING, FINGERS, GOAL = slice(0, 3), slice(3, 6), slice(9, 11), slice(25, 28)  # places in the state vector
REACH_M = 0.05  # what an action of 1 asks of one step; Source: gymnasium_robotics fetch_env.py, _set_action
_GAIN = 0.6  # share of the way left that one step asks for: more overshoots
_ABOVE_M = np.array([0.0, 0.0, 0.07])  # clear of the thing (half side 2.5 cm) with open fingers
_OPEN_M = 0.07  # both fingers' travel when the gripper may go down over the thing (0.1 when fully open)
_SHUT_M = 0.052  # both fingers' travel when they hold the thing (its side: 5 cm)


def act(state: Array) -> Array:
    """The expert's action float32 (4,) for a state float32 (28,): reach, open, go down, close, carry."""
    grip, thing, goal = state[GRIP], state[THING], state[GOAL]
    fingers, off = float(state[FINGERS].sum()), thing - grip
    beside, height = float(np.hypot(off[0], off[1])), float(-off[2])
    if np.linalg.norm(off) < 0.02 and fingers < _SHUT_M:
        return _go(goal - thing, -1.0)
    if np.linalg.norm(off) < 0.015:
        return _go(off, -1.0)
    if beside < 0.02 and height < 0.09 and fingers > _OPEN_M:
        return _go(off, 1.0)
    return _go(thing + _ABOVE_M - grip, 1.0)


def _go(way: Array, gripper: float) -> Array:
    move = np.clip(way * (_GAIN / REACH_M), -1.0, 1.0)
    return np.append(move, gripper).astype(np.float32)
