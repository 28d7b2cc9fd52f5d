"""What the car sees: the road from above, turned with the car, 42 x 48 pixels.

The view is CarRacing-v3's (61.7 m wide, 37 m ahead, 6 m behind, the dashboard cut off); the drawing is our own, at four
times the camera's resolution and averaged down, which costs a tenth of the stock renderer's 1000 x 800 canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pygame

from fleetmill.core.line import Array
from fleetmill.lines.driving.drivers import FULL_LOCK_RAD

if TYPE_CHECKING:
    from fleetmill.lines.driving.road import Obstacle, Road

HEIGHT, WIDTH = 42, 48
_FINER = 4  # the canvas has this many pixels per camera pixel, each way
_VIEW_WIDTH_M, _AHEAD_M, _BEHIND_M = 1000 / 16.2, 600 / 16.2, 100 / 16.2  # Source: car_racing, WINDOW_W, ZOOM x SCALE
_SCALE = np.array([WIDTH * _FINER / _VIEW_WIDTH_M, HEIGHT * _FINER / (_AHEAD_M + _BEHIND_M)])
_UP = _SCALE * (1, -1)  # rows count downwards
_ORIGIN = np.array([WIDTH * _FINER / 2, HEIGHT * _FINER * _AHEAD_M / (_AHEAD_M + _BEHIND_M)])
_REACH_M = 16.0  # a polygon whose centre is farther out of view than this cannot be seen

Colour = tuple[int, int, int]
Quad = Sequence[tuple[float, float]]  # corners in metres

_WHEEL = np.array([(-0.28, 0.54), (0.28, 0.54), (0.28, -0.54), (-0.28, -0.54)])
_FRONT, _REAR = ((-1.1, 1.6), (1.1, 1.6)), ((-1.1, -1.64), (1.1, -1.64))
_HULL = [
    np.array(part) * 0.02
    for part in (
        [(-60, 130), (60, 130), (60, 110), (-60, 110)],
        [(-15, 120), (15, 120), (20, 20), (-20, 20)],
        [(25, 20), (50, -10), (50, -40), (20, -90), (-20, -90), (-50, -40), (-50, -10), (-25, 20)],
        [(-50, -120), (50, -120), (50, -90), (-50, -90)],
    )
]  # Source: gymnasium car_dynamics, HULL_POLY1..4, WHEELPOS, SIZE


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenery:
    """Everything that does not move, in the order in which it is painted."""

    ground: Colour
    corners_m: Array  # (N, 4, 2)
    colours: Sequence[Colour]


def scenery(ground: Colour, painted: Sequence[tuple[Quad, Colour]]) -> Scenery:
    """Quads in painting order on a ground colour."""
    corners = np.array([quad for quad, _ in painted], dtype=np.float64).reshape(-1, 4, 2)
    return Scenery(ground=ground, corners_m=corners, colours=[colour for _, colour in painted])


def painted(road: Road, obstacle: Obstacle, length_m: float, width_m: float) -> list[tuple[Quad, Colour]]:
    """An obstacle as two quads: a box in its colour with a black band across."""
    x, y = road.point(obstacle.along_m, obstacle.side_m)
    heading = road.heading_rad(obstacle.along_m)
    return [
        (_box(x, y, heading, length_m, width_m), obstacle.colour),
        (_box(x, y, heading, length_m / 3, width_m), (0, 0, 0)),
    ]


class Camera:
    """Draws pictures of one scenery; keeps its canvas between pictures."""

    def __init__(self, scene: Scenery) -> None:
        self._scene = scene
        self._centres = scene.corners_m.mean(axis=1)
        self._canvas = pygame.Surface((WIDTH * _FINER, HEIGHT * _FINER), 0, 24)
        self._small = pygame.Surface((WIDTH, HEIGHT), 0, 24)

    def picture(self, x_m: float, y_m: float, heading_rad: float, steer: float) -> Array:
        """uint8 (42, 48, 3), forward is up; `steer` turns the front wheels."""
        cos, sin = math.cos(heading_rad), math.sin(heading_rad)
        turn = np.array([(cos, -sin), (sin, cos)])  # metres of the world -> metres right and ahead of the car
        seen = self._seen(x_m, y_m, turn)
        corners = _pixels((self._scene.corners_m[seen] - (x_m, y_m)) @ turn).tolist()
        self._canvas.fill(self._scene.ground)
        for index, quad in zip(seen.tolist(), corners, strict=True):
            pygame.draw.polygon(self._canvas, self._scene.colours[index], quad)
        self._draw_car(steer)
        pygame.transform.smoothscale(self._canvas, (WIDTH, HEIGHT), self._small)
        return np.ascontiguousarray(pygame.surfarray.array3d(self._small).transpose(1, 0, 2))

    def _seen(self, x_m: float, y_m: float, turn: Array) -> Array:
        place = (self._centres - (x_m, y_m)) @ turn
        wide, ahead = np.abs(place[:, 0]) < _VIEW_WIDTH_M / 2 + _REACH_M, place[:, 1]
        return np.flatnonzero(wide & (ahead > -_BEHIND_M - _REACH_M) & (ahead < _AHEAD_M + _REACH_M))

    def _draw_car(self, steer: float) -> None:
        angle = -steer * FULL_LOCK_RAD
        spin = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
        for place in _FRONT:
            pygame.draw.polygon(self._canvas, (0, 0, 0), _pixels(_WHEEL @ spin + place).tolist())
        for colour, corners in _FIXED_PARTS:
            pygame.draw.polygon(self._canvas, colour, corners)


def _pixels(points_m: Array) -> Array:
    pixels: Array = points_m * _UP + _ORIGIN
    return pixels


_FIXED_PARTS = [
    *(((0, 0, 0), _pixels(_WHEEL + place).tolist()) for place in _REAR),
    *(((204, 0, 0), _pixels(part).tolist()) for part in _HULL),
]


def _box(x_m: float, y_m: float, heading_rad: float, length_m: float, width_m: float) -> Quad:
    ahead = np.array((-math.sin(heading_rad), math.cos(heading_rad))) * length_m / 2
    left = np.array((-math.cos(heading_rad), -math.sin(heading_rad))) * width_m / 2
    centre = np.array((x_m, y_m))
    return [
        (float(p[0]), float(p[1]))
        for p in (centre + ahead + left, centre + ahead - left, centre - ahead - left, centre - ahead + left)
    ]
