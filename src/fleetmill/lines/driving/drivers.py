"""Who steers besides the model: the expert that labels every instant, and the safety driver that takes over.

Both are privileged: they know the road, not the picture. Steering is -1 (full left) to 1 (full right).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fleetmill.lines.driving.road import HALF_WIDTH_M, OBSTACLE_LENGTH_M, OBSTACLE_WIDTH_M, Place, Road

FULL_LOCK_RAD = 0.4  # Source: gymnasium car_dynamics, joint limits of the front wheels
CRUISE_MPS = 18.0
_WHEELBASE_M = 162 * 0.02  # Source: gymnasium car_dynamics, WHEELPOS x SIZE
_LOOK_AHEAD_M = 8.0
_CAR_HALF_LENGTH_M, _CAR_HALF_WIDTH_M = 2.0, 0.9
_TOO_FAR_M, _TOO_CROOKED_RAD = 4.5, 1.0
_TOO_CLOSE_M, _BESIDE_M = 7.0, 2.6
_STUCK_MPS, _STUCK_STEPS = 1.0, 25
_CALM_M, _CALM_RAD, _CALM_STEPS = 1.5, 0.2, 6


def expert(road: Road, place: Place, x_m: float, y_m: float, heading_rad: float) -> float:
    """Pure pursuit of the expert's line.

    Source: R. C. Coulter, Implementation of the Pure Pursuit Path Tracking Algorithm, CMU-RI-TR-92-01, 1992.
    """
    target = place.along_m + _LOOK_AHEAD_M
    tx, ty = road.point(target, road.line_m(target))
    dx, dy = tx - x_m, ty - y_m
    left = -dx * math.cos(heading_rad) - dy * math.sin(heading_rad)
    wheel_rad = math.atan(2 * _WHEELBASE_M * left / (dx * dx + dy * dy))
    return max(-1.0, min(1.0, -wheel_rad / FULL_LOCK_RAD))


def cruise(speed_mps: float) -> tuple[float, float]:
    """Gas and brake, 0 to 1 each, that hold the cruising speed."""
    return max(0.0, min(0.5, 0.1 * (CRUISE_MPS - speed_mps))), max(0.0, min(0.5, 0.1 * (speed_mps - CRUISE_MPS - 0.2)))


def is_off_road(place: Place) -> bool:
    """The car's centre has left the road."""
    return abs(place.side_m) > HALF_WIDTH_M


def is_touching(road: Road, place: Place) -> bool:
    """The car overlaps an obstacle, both taken as boxes along the road."""
    return any(
        abs(road.past_m(place.along_m, o)) < OBSTACLE_LENGTH_M / 2 + _CAR_HALF_LENGTH_M
        and abs(place.side_m - o.side_m) < OBSTACLE_WIDTH_M / 2 + _CAR_HALF_WIDTH_M
        for o in road.obstacles
    )


@dataclass(kw_only=True, slots=True)
class SafetyDriver:
    """Takes the wheel before it is too late, and gives it back when the car has been calm for half a second."""

    road: Road
    holds: bool = False
    _calm_steps: int = 0
    _slow_steps: int = 0

    def watch(self, place: Place, speed_mps: float) -> bool:
        """Look at one instant (12.5 Hz); true when the wheel was taken just now."""
        self._slow_steps = self._slow_steps + 1 if speed_mps < _STUCK_MPS else 0
        danger = self._sees_danger(place)
        if not self.holds:
            self.holds, self._calm_steps = danger, 0
            return danger
        calm = abs(place.side_m - self.road.line_m(place.along_m)) < _CALM_M and abs(place.turn_rad) < _CALM_RAD
        self._calm_steps = self._calm_steps + 1 if calm and not danger else 0
        self.holds = self._calm_steps < _CALM_STEPS
        return False

    def _sees_danger(self, place: Place) -> bool:
        return (
            abs(place.side_m) > _TOO_FAR_M
            or abs(place.turn_rad) > _TOO_CROOKED_RAD
            or self._slow_steps >= _STUCK_STEPS
            or any(
                -_TOO_CLOSE_M < self.road.past_m(place.along_m, o) < 0 and abs(place.side_m - o.side_m) < _BESIDE_M
                for o in self.road.obstacles
            )
        )
