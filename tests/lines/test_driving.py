"""The production line `driving`: road, drivers, world, cut, training and scoring."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fleetmill.core.drive import drive
from fleetmill.core.errors import InvalidInputError, LineError
from fleetmill.core.line import Array, Data, Episode, Message, Policy, Step, Stopped, Stretch, TrainJob
from fleetmill.core.trigger import parse
from fleetmill.lines.driving import is_sharp, line, scoring, stands_still, was_held, was_surprised
from fleetmill.lines.driving.drivers import SafetyDriver, cruise, expert, is_off_road, is_touching
from fleetmill.lines.driving.road import TILE_M, Obstacle, Place, Road
from fleetmill.lines.driving.shape import STEP_NS
from fleetmill.testing import Notes, Rows

CIRCLE = Road(
    tiles=[
        (math.pi / 2 + a, 100 * math.cos(a + math.pi / 2), 100 * math.sin(a + math.pi / 2))
        for a in np.arange(180) * 2 * math.pi / 180
    ]
)  # counter-clockwise, 3.49 m from tile to tile
CONE = Obstacle(along_m=200.0, side_m=2.0, colour=(255, 255, 255))


def some_rows(count: int = 40, held: Sequence[int] = (), proposed: float = np.nan) -> Rows:
    chance = np.random.default_rng(1)
    takeover = np.zeros(count, dtype=np.float32)
    takeover[list(held)] = 1
    steer = chance.uniform(-1, 1, count).astype(np.float32)
    return Rows(
        {
            "camera": chance.integers(0, 256, (count, 42, 48, 3), dtype=np.uint8),
            "speed": np.full(count, 18, dtype=np.float32),
            "steer": steer,
            "label.steer": steer,
            "model.steer": np.full(count, proposed, dtype=np.float32),
            "takeover": takeover,
        }
    )


def job(data: Data, parent: Mapping[str, bytes] | None = None, **settings: Any) -> TrainJob:
    return TrainJob(data=data, parent=parent, seed=3, settings={"batch": 8, **settings})


def lived(scenario: str, seed: int, policy: Policy | None, steps: int) -> list[Step]:
    assert line.world is not None
    world = line.world(scenario, seed)
    try:
        return [moment.step for moment in drive(world, policy, steps=steps)]
    finally:
        world.close()


def tally(steps: Sequence[Step]) -> dict[str, float]:
    assert line.judging.live is not None
    return {name: float(value) for name, value in line.judging.live(steps, []).items()}


# the road


@pytest.mark.parametrize("along_m", [0.0, 1.2, 100.0, 629.0])
@pytest.mark.parametrize("side_m", [-5.0, 0.0, 3.0])
def test_a_point_on_the_road_is_found_at_its_own_place(along_m: float, side_m: float) -> None:
    x, y = CIRCLE.point(along_m, side_m)
    place = CIRCLE.place(x, y, 1.0, near_m=along_m + 5.0)
    assert math.remainder(place.along_m - along_m, CIRCLE.length_m) == pytest.approx(0, abs=0.2)
    assert place.side_m == pytest.approx(side_m, abs=0.1)


def test_a_car_along_the_road_is_not_turned_between_tiles_either() -> None:
    x, y = CIRCLE.point(10.4 * TILE_M, 0.0)
    place = CIRCLE.place(x, y, math.pi / 2 + 10.4 * 2 * math.pi / 180, near_m=35.0)
    assert place.turn_rad == pytest.approx(0, abs=1e-3)


def test_the_expert_keeps_its_distance_from_an_obstacle_and_is_back_behind_it() -> None:
    road = replace(CIRCLE, obstacles=[CONE])
    assert road.line_m(CONE.along_m) == pytest.approx(CONE.side_m - 4.6)
    assert road.line_m(CONE.along_m - 30) == road.line_m(CONE.along_m + 20) == 0


def test_past_an_obstacle_goes_the_short_way_round_the_loop() -> None:
    near_start = replace(CONE, along_m=2.0)
    assert CIRCLE.past_m(CIRCLE.length_m - 3.0, near_start) == pytest.approx(-5.0)


# the drivers


def test_the_expert_steers_back_to_the_middle() -> None:
    poses = {side: (*CIRCLE.point(50.0, side), CIRCLE.heading_rad(50.0)) for side in (-3.0, 3.0)}
    steer = {side: expert(CIRCLE, Place(along_m=50.0, side_m=side, turn_rad=0.0), *p) for side, p in poses.items()}
    assert steer[-3.0] < 0 < steer[3.0]  # too far right: steer left, which is negative


def test_cruise_control_never_asks_for_gas_and_brake_at_once() -> None:
    pedals = [cruise(speed) for speed in (0.0, 17.0, 18.0, 19.0, 30.0)]
    assert all(gas == 0 or brake == 0 for gas, brake in pedals)
    assert pedals[0][0] > 0
    assert pedals[-1][1] > 0


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (Place(along_m=50.0, side_m=4.6, turn_rad=0.0), "too far out"),
        (Place(along_m=50.0, side_m=0.0, turn_rad=-1.1), "across the road"),
        (Place(along_m=194.0, side_m=0.0, turn_rad=0.0), "an obstacle ahead"),
    ],
)
def test_the_safety_driver_takes_over_when(place: Place, why: str) -> None:
    driver = SafetyDriver(road=replace(CIRCLE, obstacles=[CONE]))
    assert not driver.watch(Place(along_m=50.0, side_m=0.0, turn_rad=0.0), 18.0)
    assert driver.watch(place, 18.0), why
    assert driver.holds


def test_a_takeover_is_announced_once_and_ends_after_six_calm_steps() -> None:
    driver = SafetyDriver(road=CIRCLE)
    assert driver.watch(Place(along_m=50.0, side_m=4.6, turn_rad=0.0), 18.0)
    calm = Place(along_m=50.0, side_m=1.0, turn_rad=0.0)
    assert [driver.watch(calm, 18.0) or driver.holds for _ in range(6)] == [True] * 5 + [False]


def test_a_car_that_does_not_move_for_two_seconds_is_taken_over() -> None:
    driver = SafetyDriver(road=CIRCLE)
    taken = [driver.watch(Place(along_m=50.0, side_m=0.0, turn_rad=0.0), 0.0) for _ in range(25)]
    assert taken == [False] * 24 + [True]


def test_off_road_and_touching_are_told_from_the_place() -> None:
    road = replace(CIRCLE, obstacles=[CONE])
    beside = Place(along_m=CONE.along_m, side_m=CONE.side_m - 4.6, turn_rad=0.0)
    assert not is_touching(road, beside)
    assert is_touching(road, replace(beside, side_m=0.0))
    assert is_off_road(replace(beside, side_m=-6.7))
    assert not is_off_road(beside)


# the world


def test_what_the_world_shows_is_what_the_line_declares() -> None:
    features = {feature.name: feature for feature in line.features}
    for step in lived("field", 50_000_001, None, 3):
        for name, value in {**step.observation, **step.label}.items():
            assert (value.shape, str(value.dtype)) == (features[name].shape, features[name].dtype)
        assert set(step.observation) == {f.name for f in line.features if f.kind == "observation"}
        assert step.time_ns % STEP_NS == 0


def test_a_drive_is_a_function_of_scenario_and_seed_in_any_process() -> None:
    program = (
        "import hashlib, sys\nfrom fleetmill.core.drive import drive\nfrom fleetmill.lines.driving import line\n"
        "w = line.world('field', int(sys.argv[1])); h = hashlib.sha256()\n"
        "for m in drive(w, None, steps=30):\n"
        "    h.update(m.step.observation['camera'].tobytes() + m.sent['steer'].tobytes())\n"
        "print(h.hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program, "50000002"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == drive_digest(50_000_002) != drive_digest(50_000_003)


def drive_digest(seed: int) -> str:
    digest = hashlib.sha256()
    for step in lived("field", seed, None, 30):
        digest.update(step.observation["camera"].tobytes() + step.label["label.steer"].tobytes())
    return digest.hexdigest()


def test_a_world_begun_again_gives_the_same_first_picture() -> None:
    assert line.world is not None
    world = line.world("field", 50_000_004)
    first = world.begin()
    world.act({"steer": np.float32(1)})  # type: ignore[dict-item]  # a scalar is an array of no axes too
    again = world.begin()
    world.close()
    world.close()
    assert again.time_ns == 0
    assert np.array_equal(first.observation["camera"], again.observation["camera"])


@pytest.mark.parametrize("scenario", ["default", "field", "rare"])
def test_the_expert_needs_no_safety_driver(scenario: str) -> None:
    told = tally(lived(scenario, 50_000_005, None, 250))
    assert told["takeovers"] == told["off_road"] == 0
    assert told["model_m"] == told["distance_m"] > 250
    assert told["seconds"] == pytest.approx(249 * 0.08)


def test_driving_straight_on_costs_takeovers_and_their_metres_are_not_the_models() -> None:
    steps = lived("field", 50_000_006, scoring.StraightOn(), 250)
    told = tally(steps)
    onsets = [b.takeover is not None and a.takeover is None for a, b in pairwise(steps)]
    assert told["takeovers"] == sum(onsets) > 0
    held_m = sum(b.events["distance_m"] for a, b in pairwise(steps) if a.takeover is not None)
    assert told["distance_m"] - told["model_m"] == pytest.approx(held_m)


def test_only_the_field_has_colours_and_obstacles_of_its_own() -> None:
    grass = [tuple(lived(s, 50_000_007, None, 1)[0].observation["camera"][20, 0]) for s in ("default", "field")]
    assert grass[0] in ((102, 204, 102), (102, 230, 102))
    assert grass[1] not in ((102, 204, 102), (102, 230, 102))


def test_rare_roadworks_are_the_field_with_a_fifth_of_the_obstacles() -> None:
    from fleetmill.lines.driving.world import DrivingWorld

    found: dict[str, list[Road]] = {"field": [], "rare": []}
    for seed in range(50_000_010, 50_000_018):
        worlds = {scenario: DrivingWorld(scenario, seed) for scenario in found}
        first = {scenario: world.begin().observation["camera"] for scenario, world in worlds.items()}
        assert np.array_equal(first["field"][20, 0], first["rare"][20, 0])  # the same colours
        for scenario, world in worlds.items():
            found[scenario].append(world._road)
            world.close()
    assert [road.tiles for road in found["field"]] == [road.tiles for road in found["rare"]]
    frequent, rare = (sum(len(road.obstacles) for road in roads) for roads in found.values())
    assert 4 <= frequent / rare <= 6


def test_an_unknown_scenario_is_refused_by_name() -> None:
    assert line.world is not None
    with pytest.raises(InvalidInputError, match="'moon'"):
        line.world("moon", 1)


def test_every_trigger_is_in_the_grammar_and_speaks_of_recorded_features() -> None:
    declared = {feature.name for feature in line.features}
    for trigger in line.triggers:
        assert parse(trigger.when).terms <= declared


# cut


def messages(frames: int, leave_out: Sequence[tuple[str, int]] = (), jitter_ns: int = 0) -> list[Message]:
    values: dict[str, Array] = {
        "camera": np.zeros((42, 48, 3), dtype=np.uint8),
        **{name: np.array(0.25, dtype=np.float32) for name in ("speed", "steer", "label.steer", "model.steer")},
        "takeover": np.array(1.0, dtype=np.float32),
    }
    found = []
    for row in range(frames):
        for topic, value in values.items():
            late = 0 if topic == "camera" else jitter_ns
            if (topic, row) not in leave_out and (topic, -1) not in leave_out:
                at = 10**18 + row * STEP_NS + late
                found.append(Message(topic=topic, log_time_ns=at, publish_time_ns=at, value={"data": value}))
    return found


def episodes(found: Sequence[Message]) -> list[Episode]:
    return list(line.cut(Stretch(device="car-1", session="s", index=0, tags={"room": "a"}, messages=found)))


def test_a_stretch_becomes_one_episode_with_a_column_per_feature() -> None:
    (episode,) = episodes(messages(6))
    for feature in line.features:
        column = episode.columns[feature.name]
        assert (column.shape, str(column.dtype)) == ((6, *feature.shape), feature.dtype)
    assert episode.end_ns - episode.start_ns == 6 * STEP_NS
    assert (episode.device, episode.session, episode.tags) == ("car-1", "s", {"room": "a"})


def test_what_was_not_recorded_is_nan_and_nobody_took_over() -> None:
    optional = [(topic, -1) for topic in ("model.steer", "label.steer", "takeover")]
    (episode,) = episodes(messages(6, leave_out=optional))
    assert np.isnan(episode.columns["model.steer"]).all()
    assert np.isnan(episode.columns["label.steer"]).all()
    assert not episode.columns["takeover"].any()


def test_a_picture_without_steering_is_no_row() -> None:
    (episode,) = episodes(messages(6, leave_out=[("steer", 0)]))
    assert len(episode.times_ns) == 5


def test_topics_meet_within_half_a_period_and_not_beyond() -> None:
    assert len(episodes(messages(6, jitter_ns=30_000_000))[0].times_ns) == 6
    assert len(episodes(messages(6, jitter_ns=50_000_000))[0].times_ns) == 5  # only the rows with an earlier neighbour


@pytest.mark.parametrize("found", [messages(3), messages(9, leave_out=[("camera", -1)]), []], ids=len)
def test_too_little_to_learn_from_gives_nothing(found: Sequence[Message]) -> None:
    assert episodes(found) == []


# training


def test_one_seed_gives_the_same_bytes_twice_and_another_seed_others() -> None:
    first, again = (line.train(job(some_rows(), steps_first=3), Notes()) for _ in range(2))
    other = line.train(replace(job(some_rows(), steps_first=3), seed=4), Notes())
    assert first == again
    assert set(first) == {"model.onnx", "weights.safetensors"}
    assert first["model.onnx"] != other["model.onnx"]


def test_a_run_that_was_stopped_and_resumed_gives_the_bytes_of_one_that_was_not() -> None:
    whole, notes = Notes(), Notes(stop_at=100)
    expected = line.train(job(some_rows(), steps_first=104, batch=2), whole)
    with pytest.raises(Stopped):
        line.train(job(some_rows(), steps_first=104, batch=2), notes)
    assert notes.states == {100: whole.states[100]}
    resumed = line.train(job(some_rows(), steps_first=104, batch=2), Notes(saved=(100, notes.states[100])))
    assert resumed == expected


def test_no_steps_from_a_parent_give_the_parent() -> None:
    parent = line.train(job(some_rows(), steps_first=2), Notes())
    assert line.train(job(some_rows(), parent, steps_next=0), Notes()) == parent
    assert line.train(job(some_rows(), parent, steps=0), Notes()) == parent


def test_training_goes_on_from_the_parent() -> None:
    parent = line.train(job(some_rows(), steps_first=2), Notes())
    child = line.train(job(some_rows(), parent, steps_next=2, lr=1e-9), Notes())
    assert distance(parent, child) < 1e-4 < distance(parent, line.train(job(some_rows(), steps_first=1), Notes()))


def distance(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> float:
    from fleetmill.engines.runtime_onnx import OnnxRuntime

    rows = some_rows()
    inputs = {"camera": rows.column("camera"), "speed": rows.column("speed")}
    answers = [OnnxRuntime().load(files["model.onnx"]).ask(inputs)["steer"] for files in (one, other)]
    return float(np.abs(answers[0] - answers[1]).max())


def test_the_driver_labels_only_where_he_steered() -> None:
    notes = Notes()
    line.train(job(some_rows(held=[3, 4, 5], proposed=0.1), steps_first=1, labels="driver"), notes)
    assert notes.metrics[-1]["rows.driver"] == 3
    with pytest.raises(InvalidInputError, match="none of 40 rows"):
        line.train(job(some_rows(proposed=0.1), steps_first=1, labels="driver"), Notes())


def test_before_there_was_a_model_a_person_drove_all_the_time() -> None:
    notes = Notes()
    line.train(job(some_rows(), steps_first=1, labels="driver"), notes)
    assert notes.metrics[-1]["rows.driver"] == 40


@pytest.mark.parametrize("settings", [{"labels": "crowd"}, {"steps": -1}, {"lr": 0.0}, {"batch": 1}])
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        line.train(job(some_rows(), **settings), Notes())


def test_another_networks_weights_are_refused() -> None:
    from safetensors.numpy import save

    with pytest.raises(LineError):
        line.train(job(some_rows(), {"weights.safetensors": save({"w": np.zeros(3)})}), Notes())


def test_training_leaves_torch_as_it_was() -> None:
    import torch

    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(2)
    try:
        line.train(job(some_rows(), steps_first=1), Notes())
        assert torch.get_num_threads() == 2
        assert torch.equal(state, torch.random.get_rng_state())
    finally:
        torch.set_num_threads(before)


def test_the_model_file_steers_as_the_training_code_does() -> None:
    import torch

    from fleetmill.engines.runtime_onnx import OnnxRuntime
    from fleetmill.lines.driving.net import SteeringNet
    from fleetmill.lines.fit import take_over

    files, net, rows = line.train(job(some_rows(), steps_first=1), Notes()), SteeringNet(), some_rows(5)
    take_over(net, files)
    assert sum(p.numel() for p in net.parameters()) < 50_000
    camera, speed = rows.column("camera"), rows.column("speed")
    there = OnnxRuntime().load(files["model.onnx"]).ask({"camera": camera, "speed": speed})["steer"]
    with torch.no_grad():
        here = net(torch.from_numpy(camera), torch.from_numpy(speed)).numpy()
    assert np.abs(here - there).max() < line.model.tolerance


def test_new_colours_stay_colours_and_differ_from_picture_to_picture() -> None:
    import torch

    from fleetmill.lines.driving.jitter import recolour

    picture = torch.from_numpy(some_rows(1).column("camera")).float().repeat(64, 1, 1, 1)
    found = recolour(picture, torch.Generator().manual_seed(1))
    assert found.min() >= 0
    assert found.max() <= 255
    untouched = int((found == picture).flatten(1).all(dim=1).sum())
    assert 0 < untouched < 20
    assert len({image.numpy().tobytes() for image in found}) == 64 - untouched + 1


def test_a_taught_model_learns_what_it_is_taught() -> None:
    rows = some_rows(16)
    left = np.arange(16) % 2 == 0
    stripe = np.full((42, 48, 3), 40, dtype=np.uint8)
    stripe[:, 6:12] = 200
    rows.column("camera")[:] = np.where(left[:, None, None, None], stripe, stripe[:, ::-1])
    rows.column("label.steer")[:] = np.where(left, -0.6, 0.6)
    notes = Notes()
    line.train(job(rows, steps_first=150, batch=16, lr=3e-3), notes)
    assert notes.metrics[-1]["loss"] < 0.5 * notes.metrics[0]["loss"]


def test_rows_where_the_model_of_that_day_was_wrong_are_drawn_more_often() -> None:
    from fleetmill.lines.driving.training import _weights

    proposed = np.array([np.nan, 0.2, 0.45, 1.0], dtype=np.float32)
    assert _weights(proposed, np.full(4, 0.2, dtype=np.float32), 8.0) == pytest.approx([1.0, 1.0, 5.0, 9.0])


# judging


def told(**events: float) -> dict[str, Array]:
    return {name: np.array(value) for name, value in events.items()}


DRIVES = [
    told(seconds=10.0, distance_m=180.0, model_m=160.0, takeovers=2.0, off_road=1.0),
    told(seconds=10.0, distance_m=180.0, model_m=40.0, takeovers=0.0, off_road=0.0),
    told(seconds=20.0, distance_m=340.0, model_m=300.0, takeovers=3.0, off_road=2.0),
]


def test_takeovers_count_per_kilometre_of_the_model_and_departures_per_kilometre_of_all() -> None:
    pooled = line.judging.metrics(DRIVES)
    assert pooled["takeovers_per_km"] == pytest.approx(10.0)
    assert pooled["off_road_per_km"] == pytest.approx(3000 / 700)
    assert pooled["autonomy"] == pytest.approx(500 / 700)
    assert pooled["mean_speed"] == pytest.approx(17.5)
    assert pooled == line.judging.metrics(DRIVES[::-1])


def test_what_cannot_be_told_is_left_out() -> None:
    assert line.judging.metrics([]) == {}
    nobody = line.judging.metrics([told(seconds=1.0, distance_m=0.0, model_m=0.0, takeovers=0.0, off_road=0.0)])
    assert "takeovers_per_km" not in nobody
    assert set(line.judging.metrics([told(frames=4.0, error=2.0)])) == {"steer_mae"}


def test_replay_compares_with_the_expert_where_there_is_one() -> None:
    (episode,) = episodes(messages(6))
    episode.columns["label.steer"][0] = np.nan
    assert line.judging.baseline is not None
    policy = line.judging.baseline(some_rows())
    found = [line.judging.score(policy, episode)] * 2
    assert line.judging.metrics(found)["steer_mae"] == pytest.approx(0.25)
    assert float(found[0]["frames"]) == 5


def test_the_baseline_answers_both_ways() -> None:
    policy = scoring.StraightOn()
    policy.reset()
    assert policy.step({})["steer"].shape == ()
    assert policy.ask({"speed": np.zeros(4)})["steer"].shape == (4,)


def test_the_guard_keeps_the_wheel_in_range_and_holds_it_when_there_is_no_number() -> None:
    sent, memory = line.guard({"steer": np.array(-7.0, dtype=np.float32)}, {}, {})
    assert sent["steer"] == -1
    held, _ = line.guard({"steer": np.array(np.nan, dtype=np.float32)}, {}, memory)
    assert held["steer"] == -1
    assert held["steer"].dtype == np.float32


def test_slices_are_read_from_the_recording() -> None:
    (episode,) = episodes(messages(6))
    assert was_held(episode)
    assert not was_surprised(episode)
    assert not is_sharp(episode)
    episode.columns["model.steer"][2], episode.columns["label.steer"][4] = 0.9, -0.8
    assert was_surprised(episode)
    assert is_sharp(episode)


def test_a_model_is_put_in_only_while_the_car_stands() -> None:
    first, *_, last = lived("default", 50_000_008, None, 20)
    assert stands_still(first.observation)
    assert not stands_still(last.observation)


def test_importing_the_line_loads_no_heavy_library() -> None:
    heavy = ("torch", "gymnasium", "Box2D", "pygame", "onnx", "onnxruntime", "safetensors")
    program = f"import sys, fleetmill.lines.driving; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
