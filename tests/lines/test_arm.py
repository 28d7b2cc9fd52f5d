"""The production line `arm`: expert, world, cut, training and scoring. Simulated, seeds from 50,000,000 on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fleetmill.core.drive import drive
from fleetmill.core.errors import InvalidInputError, LineError
from fleetmill.core.line import Data, Episode, Message, Step, Stopped, Stretch, TrainJob
from fleetmill.core.trigger import parse
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.arm import line
from fleetmill.lines.arm.expert import act
from fleetmill.lines.arm.judging import Constant
from fleetmill.lines.arm.world import ALONE_STEPS, PERIOD_NS, RESCUE_STEPS, Attempt
from fleetmill.seams.runtime import policies
from fleetmill.testing import Notes, Rows

SEED = 50_000_000
STILL = Constant(np.zeros(4))


def some_rows(count: int = 60) -> Rows:
    chance = np.random.default_rng(1)
    states = chance.normal(size=(count, 28)).astype(np.float32)
    right = np.stack([act(state) for state in states])
    done = right.copy()
    done[count // 2 :] = 0.0  # half was driven by a model
    taken = np.zeros(count, np.float32)
    taken[-5:] = 1.0
    return Rows({"state": states, "label.move": right, "move": done, "takeover": taken})


def job(parent: Mapping[str, bytes] | None = None, data: Data | None = None, **settings: Any) -> TrainJob:
    return TrainJob(data=some_rows() if data is None else data, parent=parent, seed=3, settings=settings)


def lived(world: Attempt, policy: Constant | None) -> list[Step]:
    try:
        return [moment.step for moment in drive(world, policy, steps=1000)]
    finally:
        world.close()


def tally(steps: list[Step]) -> dict[str, float]:
    assert line.judging.live is not None
    return {name: float(value) for name, value in line.judging.live(steps, []).items()}


def test_importing_the_line_loads_neither_torch_nor_a_simulator() -> None:
    heavy = ("torch", "gymnasium", "mujoco", "onnx")
    code = f"import sys, fleetmill.lines.arm; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert found.stderr == ""


def test_the_expert_brings_the_thing_to_the_goal_alone() -> None:
    for seed in range(SEED, SEED + 8):
        steps = lived(Attempt("default", seed), None)
        assert tally(steps)["success"] == 1
        assert len(steps) <= 30


def test_a_model_that_does_nothing_is_rescued_by_the_operator_and_that_is_no_success() -> None:
    steps = lived(Attempt("field", SEED + 1), STILL)
    assert [s.takeover is not None for s in steps[:ALONE_STEPS]] == [False] * ALONE_STEPS
    assert steps[ALONE_STEPS].takeover is not None
    assert steps[-1].takeover is None  # the thing is at the goal: nothing is left to take over
    assert steps[-1].done
    assert len(steps) < ALONE_STEPS + RESCUE_STEPS
    found = tally(steps)
    assert {k: found[k] for k in ("attempts", "success", "takeovers")} == {
        "attempts": 1, "success": 0, "takeovers": 1
    }  # fmt: skip
    assert found["seconds"] == pytest.approx(len(steps) * 0.04)


def test_without_an_operator_the_attempt_ends_when_the_models_time_is_up() -> None:
    steps = lived(Attempt("default", SEED + 1), STILL)
    assert len(steps) == ALONE_STEPS + 1
    assert tally(steps)["success"] == tally(steps)["takeovers"] == 0


def test_a_used_simulator_gives_the_same_bytes_as_the_package_s_own_new_one() -> None:
    from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv

    lived(Attempt("field", SEED + 2), None)
    world, plain = Attempt("field", SEED + 3), MujocoFetchPickAndPlaceEnv(reward_type="sparse")
    step, seen = world.begin(), plain.reset(seed=SEED + 3)[0]
    for move in np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32):
        state = np.concatenate([seen["observation"], seen["desired_goal"]]).astype(np.float32)
        assert state.tobytes() == step.observation["state"].tobytes()
        step, seen = world.act({"move": move}), plain.step(move)[0]
    world.close()
    plain.close()


def test_what_the_world_shows_is_what_the_line_declares() -> None:
    features = {feature.name: feature for feature in line.features}
    step = lived(Attempt("field", SEED + 1), STILL)[ALONE_STEPS]
    assert step.takeover is not None
    for name, value in {**step.observation, **step.label, **step.takeover}.items():
        assert (str(value.dtype), value.shape) == (features[name].dtype, features[name].shape)
    assert step.time_ns == ALONE_STEPS * PERIOD_NS


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(LineError, match="default"):
        Attempt("moon", 1)


def test_the_trigger_keeps_the_whole_of_an_attempt_that_was_rescued() -> None:
    (trigger,) = line.triggers
    assert list(parse(trigger.when).terms) == ["takeover"]
    assert trigger.before_ns >= ALONE_STEPS * PERIOD_NS
    assert trigger.after_ns >= RESCUE_STEPS * PERIOD_NS


def a_stretch(*, without: str = "") -> Stretch:
    columns = {"state": (28,), "move": (4,), "label.move": (4,), "model.move": (4,), "takeover": ()}
    messages = [
        Message(topic=t, log_time_ns=i * PERIOD_NS, publish_time_ns=i, value={"data": np.full(shape, i, np.float32)})
        for i in range(3)
        for t, shape in columns.items()
        if not (t == without and i == 1)
    ]
    return Stretch(device="d", session="s", index=0, tags={}, messages=messages)


def test_cut_gives_a_row_for_each_complete_instant() -> None:
    (whole,) = line.cut(a_stretch())
    assert whole.times_ns.tolist() == [0, PERIOD_NS, 2 * PERIOD_NS]
    assert whole.end_ns == 3 * PERIOD_NS
    assert sorted(whole.columns) == ["label.move", "move", "state", "takeover"]
    (part,) = line.cut(a_stretch(without="label.move"))
    assert part.columns["state"][:, 0].tolist() == [0, 2]
    assert list(line.cut(Stretch(device="d", session="s", index=0, tags={}, messages=[]))) == []


def test_training_twice_gives_the_same_bytes_and_leaves_torch_as_it_was() -> None:
    import torch

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first, second = (line.train(job(steps=30), Notes()) for _ in range(2))
    assert first == second
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes() -> None:
    whole = line.train(job(steps=250), Notes())
    stopped = Notes(stop_at=225)
    with pytest.raises(Stopped):
        line.train(job(steps=250), stopped)
    ((step, state),) = stopped.states.items()
    assert step == 200
    assert line.train(job(steps=250), Notes(saved=(step, state))) == whole


def test_no_steps_from_a_parent_give_the_parent_and_its_own_scale_stays() -> None:
    parent = line.train(job(steps=25), Notes())
    assert line.train(job(parent, steps=0), Notes()) == parent
    child = line.train(job(parent, data=Rows({k: v * 2 for k, v in some_rows()._columns.items()}), steps=25), Notes())
    assert child["model.onnx"] != parent["model.onnx"]
    from safetensors.numpy import load

    assert np.array_equal(load(child["weights.safetensors"])["mean"], load(parent["weights.safetensors"])["mean"])


def test_the_label_rows_are_reported_by_who_said_so() -> None:
    notes = Notes()
    line.train(job(steps=25), notes)
    assert {k: v for k, v in notes.metrics[-1].items() if k != "loss"} == {
        "rows.operator": 5, "rows.demonstration": 30, "rows.oracle": 25,
    }  # fmt: skip


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(InvalidInputError, match="expert first"):
        line.train(job(data=Rows({"state": np.zeros((0, 28))}), steps=5), Notes())


def test_weights_of_another_net_are_refused() -> None:
    with pytest.raises(LineError, match="do not fit"):
        line.train(job({"weights.safetensors": b"\x02\x00\x00\x00\x00\x00\x00\x00{}"}, steps=0), Notes())


def test_the_onnx_file_runs_and_the_guard_keeps_it_within_what_the_arm_can_do() -> None:
    policy = policies(line, OnnxRuntime(), line.train(job(steps=25), Notes()))
    state = some_rows().column("state")[0]
    assert np.allclose(policy.step({"state": state})["move"], policy.ask({"state": state[np.newaxis]})["move"][0])
    wild = {"move": np.array([np.nan, 7, -np.inf, 0.5], np.float32)}
    assert line.guard(wild, {}, {})[0]["move"].tolist() == [0, 1, 0, 0.5]


def test_a_model_is_not_changed_while_the_arm_holds_something() -> None:
    state = np.zeros(28, np.float32)
    state[5] = 0.425
    assert line.safe({"state": state})
    state[5] = 0.6
    assert not line.safe({"state": state})


def test_metrics_pool_attempts_and_rows_in_any_order() -> None:
    trials = [
        {"attempts": np.array(1.0), "success": np.array(s), "takeovers": np.array(1 - s), "seconds": np.array(2.0)}
        for s in (1.0, 0.0, 1.0)
    ]
    found = line.judging.metrics(trials)
    assert found["success"] == pytest.approx(2 / 3)
    assert found["takeovers_per_attempt"] == pytest.approx(1 / 3)
    assert np.isnan(found["move_mae"])
    assert np.isnan(line.judging.metrics([])["success"])
    rows = some_rows()
    columns = {"state": rows.column("state"), "label.move": rows.column("label.move")}
    times = np.arange(60)
    episode = Episode(device="d", session="s", start_ns=0, end_ns=60, times_ns=times, columns=columns)
    score = line.judging.score(Constant(np.zeros(4)), episode)
    expected = np.abs(columns["label.move"]).mean()
    assert line.judging.metrics([*trials, score])["move_mae"] == pytest.approx(expected, rel=1e-6)


def test_the_baseline_says_the_experts_mean() -> None:
    assert line.judging.baseline is not None
    rows = some_rows()
    move = line.judging.baseline(rows).step({"state": np.zeros(28)})["move"]
    assert np.allclose(move, rows.column("label.move").mean(axis=0), atol=1e-6)


@pytest.mark.slow
def test_a_model_of_a_few_demonstrations_is_better_than_nothing_and_not_perfect() -> None:
    steps = [s for i in range(10) for s in lived(Attempt("default", SEED + 100 + i), None)]
    state = np.stack([s.observation["state"] for s in steps])
    right = np.stack([s.label["label.move"] for s in steps])
    taken = np.zeros(len(steps), np.float32)
    data = Rows({"state": state, "label.move": right, "move": right, "takeover": taken})
    policy = policies(line, OnnxRuntime(), line.train(job(data=data, steps=600), Notes()))
    found = 0.0
    for i in range(40):
        world = Attempt("default", SEED + 200 + i)
        found += tally([m.step for m in drive(world, policy, steps=100)])["success"]
        world.close()
    assert 0.2 < found / 40 < 0.95
