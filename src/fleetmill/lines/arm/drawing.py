"""One instant of an attempt for a person's eyes: from above (left) and from the side (right), drawn from the state."""

from __future__ import annotations

import numpy as np

from fleetmill.core.line import Array, Step
from fleetmill.lines.arm.expert import FINGERS, GOAL, GRIP, THING

Colour = tuple[int, int, int]
SIDE = 132  # pixels of each view
_CENTRE_M, _REACH_M = np.array([1.34, 0.75, 0.58]), 0.26  # the part of the table that attempts use
_TABLE, _PAPER, _EDGE = (236, 232, 222), (250, 250, 248), (200, 196, 188)
_THING, _GOAL, _GRIP, _ARM = (60, 60, 60), (200, 60, 50), (20, 110, 160), (150, 180, 200)


def draw(step: Step) -> Array:
    """uint8 (132, 264, 3). The goal is a red ring, the thing a dark square, the gripper two blue fingers."""
    state = np.asarray(step.observation["state"], np.float64)
    views = [_view(state, across=(1, 0), flip=(True, True)), _view(state, across=(1, 2), flip=(True, True))]
    return np.concatenate(views, axis=1)


def _view(state: Array, *, across: tuple[int, int], flip: tuple[bool, bool]) -> Array:
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[:] = _TABLE if across[1] == 0 else _PAPER
    if across[1] == 2:
        row = _place(np.array([0.0, 0.0, 0.4]), across, flip)[1]
        picture[max(row, 0) :] = _TABLE
    picture[:, 0] = picture[:, -1] = picture[0] = picture[-1] = _EDGE
    goal, thing, grip = (_place(state[part], across, flip) for part in (GOAL, THING, GRIP))
    _ring(picture, goal, 9, 6, _GOAL)
    _block(picture, thing, 6, 6, _THING)
    gap = 3 + int(state[FINGERS].sum() / 0.1 * 7)
    if across[1] == 2:
        _block(picture, (grip[0], grip[1] // 2 - 4), 2, max(grip[1] // 2, 1), _ARM)
    _block(picture, (grip[0] - gap, grip[1]), 1, 6, _GRIP)
    _block(picture, (grip[0] + gap, grip[1]), 1, 6, _GRIP)
    return picture


def _place(point: Array, across: tuple[int, int], flip: tuple[bool, bool]) -> tuple[int, int]:
    """Column and row of a point in metres."""
    found = []
    for axis, mirrored in zip(across, flip):
        share = (float(point[axis]) - _CENTRE_M[axis]) / (2 * _REACH_M) + 0.5
        found.append(int((1 - share if mirrored else share) * SIDE))
    return found[0], found[1]


def _block(
    picture: Array, at: tuple[int, int], half_width: int, half_height: int, colour: tuple[int, int, int]
) -> None:
    x, y = at
    rows = slice(max(y - half_height, 0), max(y + half_height, 0))
    picture[rows, max(x - half_width, 0) : max(x + half_width, 0)] = colour


def _ring(picture: Array, at: tuple[int, int], outer: int, inner: int, colour: Colour) -> None:
    y, x = np.ogrid[:SIDE, :SIDE]
    away = (x - at[0]) ** 2 + (y - at[1]) ** 2
    picture[(away <= outer**2) & (away >= inner**2)] = colour
