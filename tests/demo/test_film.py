"""Pictures by rule: the worlds are chosen by figures, the film shows what was lived and fits its size."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from fleetmill.demo import film, measure
from fleetmill.demo.film import MOST_BYTES, Take, animation
from fleetmill.lines import find
from fleetmill.lines.arm.drawing import draw
from fleetmill.testing import tiny_line


def a_take(length, *, held=(), noise=False, size=24):
    chance = np.random.default_rng(1)
    pictures = [
        chance.integers(0, 256, (size, size, 3), dtype=np.uint8) if noise else np.full((size, size, 3), n, np.uint8)
        for n in range(length)
    ]
    return Take(title="t", pictures=pictures, held=[n in held for n in range(length)])


def frames_of(data):
    picture = Image.open(io.BytesIO(data))
    found = []
    for n in range(picture.n_frames):
        picture.seek(n)
        found.append(np.asarray(picture.convert("RGB")))
    return picture, found


def test_both_sides_run_in_their_own_time_and_the_shorter_one_stays_at_its_end():
    picture, frames = frames_of(animation([a_take(12), a_take(5)], rate_hz=12.5))

    assert len(frames) == 12
    assert picture.info["duration"] == 80
    middle = frames[11].shape[1] // 2
    assert abs(int(frames[11][60, middle // 2, 0]) - 11) <= 2
    assert abs(int(frames[11][60, middle + middle // 2, 0]) - 4) <= 2


def test_a_held_instant_has_a_red_frame():
    _, frames = frames_of(animation([a_take(4, held={2})], rate_hz=10.0))

    edges = [tuple(int(v) for v in f[-1, 5]) for f in frames]
    assert edges[2][0] > 150 > edges[1][0]
    assert edges[1] == edges[3]


def test_a_film_that_is_too_large_leaves_instants_out_evenly():
    data = animation([a_take(48, noise=True, size=60)], rate_hz=10.0, most_bytes=400_000)

    picture, frames = frames_of(data)
    assert len(data) <= 400_000 < MOST_BYTES
    assert 1 < len(frames) < 48
    assert picture.info["duration"] == 100 * round(48 / len(frames))


def test_median_and_worst_are_picked_by_figures_and_ties_by_the_lower_seed():
    def side(*wrong):
        return [[{"wrong": np.asarray(w), "takeovers": np.asarray(0.0), "steps": np.asarray(1.0)}] for w in wrong]

    assert measure.world(tiny_line, side(5, 1, 3, 9, 2), 100, "worst") == 103
    assert measure.world(tiny_line, side(5, 1, 3, 9, 2), 100, "median") == 102
    assert measure.world(tiny_line, side(9, 1, 9, 9, 2), 100, "worst") == 100


def test_a_line_without_camera_and_drawing_has_no_film_and_others_have():
    assert film.drawn(tiny_line) is None
    assert film.drawn(find("driving")) is not None
    assert film.drawn(find("arm")) is draw


def test_an_attempt_is_drawn_with_goal_thing_and_gripper():
    world = find("arm").world("field", 5)
    try:
        one, two = draw(world.begin()), draw(world.begin())
    finally:
        world.close()

    np.testing.assert_array_equal(one, two)
    assert (one.dtype, one.shape) == (np.uint8, (132, 264, 3))
    colours = {tuple(int(v) for v in c) for c in np.unique(one.reshape(-1, 3), axis=0)}
    assert {(60, 60, 60), (200, 60, 50), (20, 110, 160)} <= colours
