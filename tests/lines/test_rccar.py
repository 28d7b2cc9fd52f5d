"""The production line `rccar`: cut, training and scoring."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Data, Episode, Message, Stopped, Stretch, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.rccar import line
from fleetmill.lines.rccar.cutting import PERIOD_NS, SHAPE
from fleetmill.lines.rccar.judging import Constant
from fleetmill.seams.runtime import policies
from fleetmill.testing import Notes, Rows


def some_rows(count: int = 24) -> Rows:
    """A bright bar to the left or to the right: steer there."""
    chance = np.random.default_rng(1)
    label = np.where(chance.random(count) < 0.5, -1.0, 1.0).astype(np.float32)
    camera = chance.integers(0, 60, (count, *SHAPE), dtype=np.uint8)
    for picture, side in zip(camera, label, strict=True):
        picture[:, slice(0, 60) if side < 0 else slice(100, 160)] += 150
    return Rows({"camera": camera, "label.steer": label})


def job(parent: Mapping[str, bytes] | None = None, data: Data | None = None, **settings: Any) -> TrainJob:
    return TrainJob(data=some_rows() if data is None else data, parent=parent, seed=3, settings=settings)


def a_stretch(
    times: Sequence[int], *, deleted: Sequence[int] = (), unlabelled: Sequence[int] = (), same: Sequence[int] = ()
) -> Stretch:
    """Frames at multiples of the period."""
    messages = []
    for i, t in enumerate(times):
        picture = np.full(SHAPE, i - (i in same), np.uint8)
        values: dict[str, Array] = {"camera": picture, "deleted": np.float32(i in deleted).reshape(())}
        if i not in unlabelled:
            values["label.steer"] = np.array(i / 100, np.float32)
        for topic, data in values.items():
            messages.append(
                Message(topic=topic, log_time_ns=t * PERIOD_NS, publish_time_ns=t, value={"data": np.asarray(data)})
            )
    return Stretch(device="car", session="s", index=0, tags={"room": "b"}, messages=messages)


def lengths(stretch: Stretch) -> list[int]:
    return [len(e.times_ns) for e in line.cut(stretch)]


def test_importing_the_line_loads_no_torch() -> None:
    heavy = ("torch", "gymnasium", "mujoco", "onnx", "simplejpeg")
    code = f"import sys, fleetmill.lines.rccar; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_run_without_a_gap_is_one_episode() -> None:
    (episode,) = line.cut(a_stretch(range(10)))
    assert episode.columns["camera"].shape == (10, *SHAPE)
    assert episode.columns["label.steer"].tolist() == pytest.approx([i / 100 for i in range(10)])
    assert np.isnan(episode.columns["range_cm"]).all()  # this car has no range finder
    assert (episode.start_ns, episode.end_ns) == (0, 10 * PERIOD_NS)
    assert episode.tags == {"room": "b"}


def test_a_run_ends_at_a_gap_of_more_than_three_periods_and_a_short_one_is_left_out() -> None:
    assert lengths(a_stretch([*range(6), *range(8, 14)])) == [12]
    assert lengths(a_stretch([*range(6), *range(9, 15), 30, 31])) == [6, 6]


def test_what_a_human_deleted_or_did_not_steer_is_left_out_and_ends_a_run() -> None:
    assert lengths(a_stretch(range(14), deleted=[6])) == [6, 7]
    assert lengths(a_stretch(range(14), unlabelled=[6, 7])) == [6, 6]


def test_a_picture_that_was_seen_just_before_is_left_out() -> None:
    (episode,) = line.cut(a_stretch(range(8), same=[3]))
    assert episode.times_ns.tolist() == [i * PERIOD_NS for i in range(8) if i != 3]


def test_a_camera_of_another_size_is_refused() -> None:
    stretch = a_stretch(range(8))
    for message in stretch.messages:
        if message.topic == "camera":
            message.value["data"].shape = (160, 120, 3)  # type: ignore[union-attr]
    with pytest.raises(InvalidInputError, match=r"expected uint8 \(120, 160, 3\)"):
        list(line.cut(stretch))


def test_training_twice_gives_the_same_bytes_and_learns_where_the_bar_is() -> None:
    first, second = (line.train(job(steps=60), Notes()) for _ in range(2))
    assert first == second
    policy, rows = policies(line, OnnxRuntime(), first), some_rows()
    answers = policy.ask({"camera": rows.column("camera")})["steer"]
    assert (np.sign(answers) == rows.column("label.steer")).mean() > 0.9
    alone = policy.step({"camera": rows.column("camera")[0]})["steer"]
    assert alone.shape == ()
    assert float(alone) == pytest.approx(float(np.clip(answers[0], -1, 1)), abs=line.model.tolerance)


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes() -> None:
    whole = line.train(job(steps=225), Notes())
    stopped = Notes(stop_at=200)
    with pytest.raises(Stopped):
        line.train(job(steps=225), stopped)
    assert line.train(job(steps=225), Notes(saved=(200, stopped.states[200]))) == whole


def test_no_steps_from_a_parent_give_the_parent() -> None:
    notes = Notes()
    parent = line.train(job(steps=25), notes)
    assert line.train(job(parent, steps=0), Notes()) == parent
    assert notes.metrics[-1]["rows.driver"] == 24
    assert line.train(job(parent, steps=25), Notes())["model.onnx"] != parent["model.onnx"]


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(InvalidInputError, match="import a tub"):
        line.train(job(data=Rows({"label.steer": np.zeros(0)}), steps=5), Notes())


def test_metrics_are_pooled_in_any_order_and_are_no_mean_of_means() -> None:
    label = np.array([0.0, 1.0, 1.0, -1.0, 0.5])
    steer = np.array([0.1, 0.8, 1.0, 0.0, 0.5])
    columns = {"camera": np.zeros((5, *SHAPE), np.uint8), "label.steer": label}
    whole = Episode(device="d", session="s", start_ns=0, end_ns=5, times_ns=np.arange(5), columns=columns)

    class Fixed(Constant):
        def ask(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            return {"steer": steer[: len(inputs["camera"])]}

    found = line.judging.metrics([line.judging.score(Fixed(0.0), whole)])
    assert found["steering_r2"] == pytest.approx(1 - ((label - steer) ** 2).sum() / ((label - 0.3) ** 2).sum())
    assert found["steering_rmse"] == pytest.approx(np.sqrt(((label - steer) ** 2).mean()))
    assert found["steering_mae"] == pytest.approx(np.abs(label - steer).mean())
    from fleetmill.lines.rccar.judging import tally

    parts = [tally(label[:2], steer[:2]), tally(label[2:], steer[2:])]
    for order in (parts, parts[::-1]):
        assert line.judging.metrics(order) == pytest.approx(found)


def test_what_cannot_be_measured_is_not_a_number() -> None:
    assert all(np.isnan(value) for value in line.judging.metrics([]).values())


def test_the_guard_steers_within_full_lock_and_straight_on_when_the_model_says_nothing() -> None:
    sent = [float(line.guard({"steer": np.array(x)}, {}, {})[0]["steer"]) for x in (-3.0, 0.25, np.nan, np.inf)]
    assert sent == [-1.0, 0.25, 0.0, 0.0]


def test_the_baseline_says_the_mean_of_the_training_labels() -> None:
    assert line.judging.baseline is not None
    policy = line.judging.baseline(some_rows())
    mean = float(some_rows().column("label.steer").mean())
    assert float(policy.step({})["steer"]) == pytest.approx(mean)
    assert policy.ask({"camera": np.zeros((3, *SHAPE))})["steer"].tolist() == pytest.approx([mean] * 3)
