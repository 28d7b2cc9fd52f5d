"""The road as an arc length and a side: where a car is, where the obstacles are, where the expert would drive.

Pure geometry in metres and radians; left is positive. The centre line is the simulator's list of tiles, one every
3.5 m, closed to a loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

TILE_M = 3.5
HALF_WIDTH_M = 40 / 6  # Source: gymnasium car_racing, TRACK_WIDTH
OBSTACLE_LENGTH_M, OBSTACLE_WIDTH_M = 3.0, 3.4
_PASS_AT_M = 4.6  # from the obstacle's centre to the expert's path
_DETOUR = ((-24.0, 0.0), (-7.0, 1.0), (5.0, 1.0), (14.0, 0.0))  # metres past the obstacle -> share of the detour
_SEARCH_TILES = 8  # how far a car can get from its last tile: roads pass close to themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """Something standing on the road: its centre, metres along and to the left of the centre line."""

    along_m: float
    side_m: float
    colour: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a car is on the road."""

    along_m: float
    side_m: float
    turn_rad: float  # heading relative to the road's, left positive


@dataclass(frozen=True, kw_only=True, slots=True)
class Road:
    """A closed centre line `(heading_rad, x_m, y_m)` per tile, and what stands on it."""

    tiles: Sequence[tuple[float, float, float]]
    obstacles: Sequence[Obstacle] = ()

    @property
    def length_m(self) -> float:
        """Once round."""
        return len(self.tiles) * TILE_M

    def place(self, x_m: float, y_m: float, heading_rad: float, near_m: float) -> Place:
        """Where a car at this pose is, given that it was at `near_m` along the road a moment ago."""
        count, start = len(self.tiles), round(near_m / TILE_M)
        reach = range(start - _SEARCH_TILES, start + _SEARCH_TILES + 1)
        tile = min(reach, key=lambda i: _squared(self.tiles[i % count], x_m, y_m))
        heading, x0, y0 = self.tiles[tile % count]
        dx, dy = x_m - x0, y_m - y0
        ahead = -dx * math.sin(heading) + dy * math.cos(heading)
        bend = _wrapped(self.tiles[(tile + (1 if ahead > 0 else -1)) % count][0] - heading)
        return Place(
            along_m=(tile % count) * TILE_M + ahead,
            side_m=-dx * math.cos(heading) - dy * math.sin(heading),
            turn_rad=_wrapped(heading_rad - heading - bend * abs(ahead) / TILE_M),
        )

    def point(self, along_m: float, side_m: float) -> tuple[float, float]:
        """The point (x, y) in metres at this arc length and side."""
        tile = math.floor(along_m / TILE_M)
        part = along_m / TILE_M - tile
        points = [
            (x - side_m * math.cos(heading), y - side_m * math.sin(heading))
            for heading, x, y in (self.tiles[tile % len(self.tiles)], self.tiles[(tile + 1) % len(self.tiles)])
        ]
        (x0, y0), (x1, y1) = points
        return x0 + part * (x1 - x0), y0 + part * (y1 - y0)

    def heading_rad(self, along_m: float) -> float:
        """The heading of the tile nearest to this arc length."""
        return self.tiles[round(along_m / TILE_M) % len(self.tiles)][0]

    def past_m(self, along_m: float, obstacle: Obstacle) -> float:
        """How far `along_m` lies past the obstacle, the short way round; negative: still ahead."""
        half = self.length_m / 2
        return (along_m - obstacle.along_m + half) % self.length_m - half

    def line_m(self, along_m: float) -> float:
        """The expert's side at this arc length: the centre line, or round an obstacle."""
        return sum(self._detour_m(along_m, obstacle) for obstacle in self.obstacles)

    def _detour_m(self, along_m: float, obstacle: Obstacle) -> float:
        full = obstacle.side_m - math.copysign(_PASS_AT_M, obstacle.side_m)
        past = self.past_m(along_m, obstacle)
        for (from_m, low), (to_m, high) in pairwise(_DETOUR):
            if from_m <= past < to_m:
                return full * (low + (high - low) * (past - from_m) / (to_m - from_m))
        return 0.0


def _squared(tile: tuple[float, float, float], x_m: float, y_m: float) -> float:
    return (tile[1] - x_m) ** 2 + (tile[2] - y_m) ** 2


def _wrapped(angle_rad: float) -> float:
    return (angle_rad + math.pi) % (2 * math.pi) - math.pi
