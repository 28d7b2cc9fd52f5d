"""CarRacing-v3 as a world of this line: stock physics and tracks, our camera, an expert and a safety driver.

Scenario ``default``: empty roads in the stock colours. Scenario ``field``: roadworks, that is random colours and an
obstacle every 55 to 95 m. Scenario ``rare``: the same with a fifth of the obstacles. A drive is a function of
(scenario, seed) and of the actions, in any process.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on standard output otherwise
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Box2D's SWIG types warn while they load, which crashes where warnings are errors
    import Box2D  # noqa: F401 - named here, so that its absence is an ImportError and not the simulator's own kind
    import pygame  # noqa: F401 - the same
    from gymnasium.envs.box2d.car_dynamics import Car
    from gymnasium.envs.box2d.car_racing import GRASS_DIM, CarRacing

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Frame, Step
from fleetmill.lines.driving import camera, drivers
from fleetmill.lines.driving.road import OBSTACLE_LENGTH_M, OBSTACLE_WIDTH_M, TILE_M, Obstacle, Road
from fleetmill.lines.driving.shape import STEP_NS

_PHYSICS_STEPS = 4  # of 20 ms each
_EDGE_M = 2000 / 6  # of the world. Source: gymnasium car_racing, PLAYFIELD
_ROADWORKS = 0x726F6164  # its own stream of chance beside the track's
_COLOURS = ((255, 140, 0), (255, 255, 255))
_CLEAR_M = 55.0  # of the road after the start, and before it
_GAPS_M = {"default": None, "field": (55.0, 95.0), "rare": (275.0, 475.0)}  # from obstacle to obstacle


class _Simulator(CarRacing):
    """The stock simulator, blind: pictures are drawn by `camera.Camera`, once per control step."""

    def _render(self, mode: str) -> None:
        del mode


class DrivingWorld:
    """One drive. `core.line.World`."""

    def __init__(self, scenario: str, seed: int) -> None:
        if scenario not in _GAPS_M:
            raise InvalidInputError(f"scenario {scenario!r}: the driving world has 'default', 'field' and 'rare'")
        self._seed, self._gaps_m = seed, _GAPS_M[scenario]
        self._simulator: Any = None

    def begin(self) -> Step:
        """The first instant: at rest in the middle of the road, somewhere on the track."""
        self.close()
        chance = np.random.default_rng([_ROADWORKS, self._seed])
        self._simulator = _Simulator(domain_randomize=self._gaps_m is not None)
        self._simulator.reset(seed=self._seed)
        tiles = [(float(beta), float(x), float(y)) for _, beta, x, y in self._simulator.track]
        start = int(chance.integers(len(tiles)))
        self._put_car(tiles[start])
        obstacles = _obstacles(chance, len(tiles), start, self._gaps_m) if self._gaps_m else ()
        self._road = Road(tiles=tiles, obstacles=obstacles)
        self._camera = camera.Camera(_scenery(self._simulator, self._road))
        self._driver = drivers.SafetyDriver(road=self._road)
        self._at_m, self._time_ns, self._steer = start * TILE_M, 0, 0.0
        self._was_off = self._was_touching = False
        return self._step(held=False)

    def act(self, action: Frame) -> Step:
        """Steer for 80 ms; cruise control does the rest."""
        steer = float(np.clip(action["steer"], -1.0, 1.0))
        for _ in range(_PHYSICS_STEPS):
            self._simulator.step(np.array([steer * drivers.FULL_LOCK_RAD, *drivers.cruise(self._speed())]))
        self._steer, held = steer, self._driver.holds
        self._time_ns += STEP_NS
        return self._step(held=held)

    def close(self) -> None:
        """Give the simulator back; may be called again."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None

    def _put_car(self, tile: tuple[float, float, float]) -> None:
        self._simulator.car.destroy()
        self._simulator.car = Car(self._simulator.world, *tile)  # type: ignore[no-untyped-call]

    def _speed(self) -> float:
        velocity = self._simulator.car.hull.linearVelocity
        return float(np.hypot(velocity[0], velocity[1]))

    def _step(self, *, held: bool) -> Step:
        hull, speed = self._simulator.car.hull, self._speed()
        pose = (float(hull.position[0]), float(hull.position[1]), float(hull.angle))
        place = self._road.place(*pose, near_m=self._at_m)
        self._at_m = place.along_m
        off, touching = drivers.is_off_road(place), drivers.is_touching(self._road, place)
        taken = self._driver.watch(place, speed)
        label = np.array(drivers.expert(self._road, place, *pose), dtype=np.float32)
        began = self._time_ns == 0
        metres = 0.0 if began else speed * STEP_NS / 1e9
        events = {
            "seconds": 0.0 if began else STEP_NS / 1e9,
            "distance_m": metres,
            "model_m": 0.0 if held else metres,
            "takeovers": float(taken),
            "off_road": float((off and not self._was_off) + (touching and not self._was_touching)),
        }
        self._was_off, self._was_touching = off, touching
        picture = self._camera.picture(*pose, steer=self._steer)
        return Step(
            time_ns=self._time_ns,
            observation={"camera": picture, "speed": np.array(speed, dtype=np.float32)},
            label={"label.steer": label},
            takeover={"steer": label} if self._driver.holds else None,
            events=events,
            done=abs(pose[0]) > _EDGE_M or abs(pose[1]) > _EDGE_M,
        )


def _obstacles(chance: np.random.Generator, tiles: int, start: int, gaps_m: tuple[float, float]) -> list[Obstacle]:
    """One every so many metres, 1.4 to 2.6 m left or right of the middle; none in the first 55 m.

    Where gaps are longer than that, the first begins at a random place behind the start: a short drive meets as many
    as a long one, per metre.
    """
    found: list[Obstacle] = []
    along_m, length_m = 0.0, tiles * TILE_M
    if gaps_m[0] > _CLEAR_M:
        along_m -= chance.uniform(0.0, gaps_m[0] - _CLEAR_M)
    while True:
        along_m += chance.uniform(*gaps_m)
        if along_m > length_m - _CLEAR_M:
            return found
        side_m = float(chance.uniform(1.4, 2.6) * chance.choice((-1.0, 1.0)))
        colour = _COLOURS[int(chance.integers(len(_COLOURS)))]
        found.append(Obstacle(along_m=(start * TILE_M + along_m) % length_m, side_m=side_m, colour=colour))


def _scenery(simulator: Any, road: Road) -> camera.Scenery:
    quads: list[tuple[camera.Quad, camera.Colour]] = []
    for x in range(-20, 20, 2):
        for y in range(-20, 20, 2):
            left, low = GRASS_DIM * x, GRASS_DIM * y
            right, high = left + GRASS_DIM, low + GRASS_DIM
            quads.append((((right, low), (left, low), (left, high), (right, high)), _rgb(simulator.grass_color)))
    quads += [(quad, _rgb(np.asarray(colour))) for quad, colour in simulator.road_poly]
    for obstacle in road.obstacles:
        quads += camera.painted(road, obstacle, OBSTACLE_LENGTH_M, OBSTACLE_WIDTH_M)
    return camera.scenery(_rgb(simulator.bg_color), quads)


def _rgb(colour: Array) -> camera.Colour:
    red, green, blue = (int(c) for c in colour)
    return red, green, blue
