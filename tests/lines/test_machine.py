"""The production lines `machine_life` and `machine_alarm`: what comes in, what is learned, how it is scored."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleetmill import loop, score
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Foreign, Line, Stopped, Stretch, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import init_home, open_home
from fleetmill.lines.machine import alarm, life
from fleetmill.lines.machine.alarm_judging import LEVELS, held_off, threshold
from fleetmill.lines.machine.alarm_judging import tally as alarm_tally
from fleetmill.lines.machine.life_judging import tally as life_tally
from fleetmill.receive import imports
from fleetmill.seams.runtime import policies
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, Notes
from fleetmill.testing.kit import Held

HOUR_NS = 3_600_000_000_000


class Memory:
    """Files in memory."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def names(self) -> Sequence[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return self._files[name].encode()


def read(line: Line, files: Mapping[str, str]) -> list[Foreign]:
    held = Memory(files)
    assert line.importers[0].detects(held)
    return [
        Foreign(device=f.device, session=f.session, time_base=f.time_base, tags=f.tags, messages=iter(list(f.messages)))
        for f in line.importers[0].read(held)
    ]


def stretches(found: Sequence[Foreign]) -> list[Stretch]:
    return [Stretch(device=f.device, session=f.session, index=0, tags={}, messages=list(f.messages)) for f in found]


def engines(number: int = 4, *, cycles: int = 40, seed: int = 0) -> Array:
    """Rows as C-MAPSS has them: two sensors rise towards the failure, the others are noise."""
    chance, rows = np.random.default_rng(seed), []
    for engine in range(1, number + 1):
        life_time = cycles + 3 * engine
        for cycle in range(1, life_time + 1):
            worn = np.exp(-(life_time - cycle) / 15.0)
            sensors = chance.normal(size=21) * 0.1
            sensors[[3, 10]] += 3 * worn
            rows.append([engine, cycle, *chance.normal(size=3), *sensors])
    return np.array(rows)


def as_text(rows: Array) -> str:
    return "\n".join(" ".join(f"{x:.6g}" for x in row) + "  " for row in rows)


def series(hours: float = 160.0, *, wrong: Sequence[tuple[float, float]] = ((100.0, 110.0),), seed: int = 0) -> str:
    """A day's rhythm with a jump in each window; a value every ten minutes."""
    chance, lines = np.random.default_rng(seed), ["timestamp,value,label"]
    for at in np.arange(0.0, hours, 1 / 6):
        inside = any(a <= at <= b for a, b in wrong)
        value = 50 + 10 * np.sin(at * np.pi / 12) + chance.normal() + 40 * inside
        time = np.datetime64("2024-03-01T00:00:00") + np.timedelta64(round(at * 3600), "s")
        lines.append(f"{str(time).replace('T', ' ')},{value:.4f},{int(inside)}")
    return "\n".join(lines)


def several(number: int = 4, **kind: Any) -> dict[str, str]:
    return {f"machine{n}.csv": series(seed=n, **kind) for n in range(number)}


LIVES = {"PM_train.txt": as_text(engines())}


def episodes(line: Line, files: Mapping[str, str]) -> Held:
    return Held([e for s in stretches(read(line, files)) for e in line.cut(s)])


def job(data: Held, parent: Mapping[str, bytes] | None = None, **settings: Any) -> TrainJob:
    return TrainJob(data=data, parent=parent, seed=3, settings=settings)


@pytest.mark.parametrize("module", ["life", "alarm"])
def test_importing_a_line_loads_no_torch(module: str) -> None:
    code = f"import sys, fleetmill.lines.machine.{module}; print([m for m in ('torch', 'onnx') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# engines


def test_each_engine_is_a_device_and_its_cycles_count_down_to_its_failure() -> None:
    found = read(life.line, LIVES)
    assert [f.device for f in found] == ["engine-1", "engine-2", "engine-3", "engine-4"]
    assert {f.time_base for f in found} == {"cycle"}
    (episode,) = life.line.cut(stretches(found)[0])
    assert episode.columns["label.rul"].tolist() == list(range(42, -1, -1))
    assert episode.columns["sensors"].shape == (43, 21)


def test_columns_in_any_order_rows_in_any_order_and_doubled_rows_give_the_same() -> None:
    rows = engines(2)
    header = ["unit", "cycle", *(f"setting{n}" for n in (1, 2, 3)), *(f"s{n}" for n in range(1, 22))]
    chance = np.random.default_rng(1)
    turned, shuffled = chance.permutation(26), chance.permutation(len(rows))
    mixed = np.concatenate([rows[shuffled], rows[:5]])[:, turned]
    text = ",".join(header[i].upper() for i in turned) + "\n"
    text += "\n".join(",".join(f"{x:.6g}" for x in row) for row in mixed)
    plain, other = ([list(life.line.cut(s)) for s in stretches(read(life.line, f))]
                    for f in ({"a.txt": as_text(rows)}, {"a.csv": text}))  # fmt: skip
    for (a,), (b,) in zip(plain, other, strict=True):
        assert np.array_equal(a.times_ns, b.times_ns)
        assert all(np.array_equal(a.columns[name], b.columns[name]) for name in a.columns)


def test_a_missing_cycle_leaves_the_others_counts_as_they_are() -> None:
    rows = engines(1)
    found = stretches(read(life.line, {"a.txt": as_text(np.delete(rows, 10, axis=0))}))[0]
    (episode,) = life.line.cut(found)
    assert episode.columns["label.rul"][:12].tolist() == [*range(42, 32, -1), 31, 30]


def test_a_file_that_ends_before_the_failure_takes_what_was_left_from_the_file_beside_it() -> None:
    rows = as_text(engines(2))
    beside = read(life.line, {"test_FD001.txt": rows, "RUL_FD001.txt": "10\n20\n"})
    last = [list(f.messages)[-1] for f in beside]
    assert [float(m.value["data"]) for m in last if m.topic == "label.rul"] == [10.0, 20.0]  # type: ignore[arg-type]
    alone = list(read(life.line, {"test_FD001.txt": rows})[0].messages)[-1]
    assert np.isnan(float(alone.value["data"]))  # type: ignore[arg-type]


HEADER = "unit,cycle,setting1,setting2,setting3," + ",".join(f"s{n}" for n in range(1, 22))
ROW = ",".join(["1", "1", *["0.5"] * 24])
REFUSED = {
    "a missing column": ({"a.csv": HEADER.replace(",s7,", ",x7,") + "\n" + ROW}, "no column with sensor 7.*s7"),
    "another sensor set": ({"a.csv": "unit,cycle,vibration\n1,1,0.5"}, "no column with setting 1.*vibration"),
    "fewer numbers and no header": ({"a.txt": "1 1 0.5 0.5\n1 2 0.5 0.5"}, "4 numbers a row.*expected 26"),
    "no number": ({"a.csv": HEADER + "\n" + ROW.replace("0.5", "hot", 1)}, "line 2.*setting1.*'hot'"),
    "two rows of a cycle": ({"a.csv": f"{HEADER}\n{ROW}\n{ROW[:-3]}0.6"}, "two rows of cycle 1"),
    "a row too short": ({"a.csv": f"{HEADER}\n{ROW}\n1,2,3"}, "line 3: 3 fields"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_engines_that_are_not_as_expected_are_refused_by_name(what: str) -> None:
    files, said = REFUSED[what]
    with pytest.raises(InvalidInputError, match=said):
        read(life.line, files)


def test_a_device_tells_cycle_by_cycle_what_the_training_code_tells_of_the_whole_life() -> None:
    import torch

    from fleetmill.lines.machine.life_net import LifeNet

    held = episodes(life.line, LIVES)
    files = life.line.train(job(held, steps=25), Notes())
    net, policy = LifeNet(memory=life.MEMORY), policies(life.line, OnnxRuntime(), files)
    from safetensors.torch import load

    net.load_state_dict(load(files["weights.safetensors"]))
    net.eval()
    episode = held.episode(0)
    rows = np.concatenate([episode.columns["settings"], episode.columns["sensors"]], axis=1)
    with torch.no_grad():
        whole = net.lives(torch.from_numpy(rows)[None])[0].numpy().clip(0, 125)
    steps = [policy.step({n: episode.columns[n][i] for n in ("settings", "sensors")}) for i in range(len(rows))]
    assert np.array([float(s["rul"]) for s in steps]) == pytest.approx(whole, abs=life.line.model.tolerance)


def test_a_few_steps_learn_what_wears_better_than_the_mean() -> None:
    held = episodes(life.line, {"a.txt": as_text(engines(8))})
    other = episodes(life.line, {"a.txt": as_text(engines(3, seed=9))})
    policy = policies(life.line, OnnxRuntime(), life.line.train(job(held, steps=150), Notes()))
    ours = [life.line.judging.score(policy, other.episode(i)) for i in range(len(other))]
    mean = float(np.minimum(held.column("label.rul"), 125).mean())
    constant = [life_tally(other.episode(i).columns["label.rul"], np.full(len(other.episode(i).times_ns), mean))
                for i in range(len(other))]  # fmt: skip
    rmse = [life.line.judging.metrics(side)["rul_rmse"] for side in (ours, constant)]
    assert rmse[0] < 0.7 * rmse[1]


def test_a_silent_sensor_is_no_end_of_the_forecast() -> None:
    held = episodes(life.line, LIVES)
    policy = policies(life.line, OnnxRuntime(), life.line.train(job(held, steps=5), Notes()))
    sensors = np.array(held.column("sensors")[0])
    sensors[4] = np.nan
    assert np.isfinite(policy.step({"settings": held.column("settings")[0], "sensors": sensors})["rul"])


def test_a_life_training_that_was_stopped_goes_on_to_the_same_bytes() -> None:
    held = episodes(life.line, LIVES)
    whole, stopped = life.line.train(job(held, steps=225), Notes()), Notes(stop_at=200)
    with pytest.raises(Stopped):
        life.line.train(job(held, steps=225), stopped)
    assert life.line.train(job(held, steps=225), Notes(saved=(200, stopped.states[200]))) == whole


def test_errors_are_of_labels_clipped_at_125_and_phm08_counts_lateness_dearer() -> None:
    found = life.line.judging.metrics([life_tally(np.array([300.0, 125.0, 10.0]), np.array([125.0, 125.0, 20.0]))])
    assert found["rul_rmse"] == pytest.approx(np.sqrt(100 / 3))
    assert found["phm08_mean"] == pytest.approx((np.exp(1.0) - 1) / 3)
    early = life.line.judging.metrics([life_tally(np.array([20.0]), np.array([10.0]))])
    late = life.line.judging.metrics([life_tally(np.array([20.0]), np.array([30.0]))])
    assert early["phm08_mean"] < late["phm08_mean"]
    assert np.isnan(life.line.judging.metrics([])["rul_rmse"])


def test_a_row_that_nobody_labelled_counts_nowhere() -> None:
    some = life_tally(np.array([np.nan, 10.0]), np.array([50.0, 10.0]))
    assert life.line.judging.metrics([some])["rul_rmse"] == 0.0


def test_the_life_guard_counts_down_where_the_model_says_no_number() -> None:
    told, memory = [], {}
    for rul in (200.0, 30.0, np.nan, np.nan, -5.0):
        sent, memory = life.guard({"rul": np.array(rul)}, {}, memory)  # type: ignore[assignment]
        told.append(float(sent["rul"]))
    assert told == [125.0, 30.0, 29.0, 28.0, 0.0]


# alarms


def test_each_series_is_a_device_and_its_windows_are_labels() -> None:
    text = series(60.0, wrong=())
    bare = "\n".join(",".join(row.split(",")[:2]) for row in text.splitlines())
    windows = {"real/pump.csv": [["2024-03-02 00:00:00.000000", "2024-03-02 02:00:00.000000"]], "real/fan.csv": []}
    files = {
        "nab/real/pump.csv": bare,
        "nab/real/fan.csv": bare,
        "nab/labels/combined_windows.json": json.dumps(windows),
    }
    fan, pump = stretches(read(alarm.line, files))
    labels = [next(iter(alarm.line.cut(s))).columns["label.anomaly"] for s in (fan, pump)]
    assert [s.device for s in (fan, pump)] == ["fan", "pump"]
    assert [int(found.sum()) for found in labels] == [0, 13]  # two hours, both ends
    nobody = stretches(read(alarm.line, {"pump.csv": bare}))[0]
    assert np.isnan(next(iter(alarm.line.cut(nobody))).columns["label.anomaly"]).all()


def test_a_clock_that_is_set_back_doubles_an_hour_that_counts_once() -> None:
    text = "time,value\n2024-01-01 00:00:00,1\n2024-01-01 01:00:00,2\n2024-01-01 02:00:00,5\n2024-01-01 01:00:00,4\n"
    (episode,) = alarm.line.cut(stretches(read(alarm.line, {"a.csv": text}))[0])
    assert episode.columns["value"].tolist() == [1.0, 3.0, 5.0]
    assert episode.columns["hour"].tolist() == [0.0, 1.0, 2.0]


def test_a_series_of_something_else_is_refused_by_name() -> None:
    with pytest.raises(
        InvalidInputError, match=r"no column with the value; expected one called value or y, found .*load"
    ):
        read(alarm.line, {"a.csv": "timestamp,load\n2024-01-01 00:00:00,1\n"})
    with pytest.raises(InvalidInputError, match=r"line 3.*'noon'"):
        read(alarm.line, {"a.csv": "timestamp,value\n2024-01-01 00:00:00,1\nnoon,2\n"})
    with pytest.raises(InvalidInputError, match=r"combined_windows\.json"):
        read(alarm.line, {"a.csv": "timestamp,value\n2024-01-01 00:00:00,1\n", "combined_windows.json": '{"a.csv": 3}'})


def test_the_watcher_on_a_device_is_the_one_in_training_and_finds_a_jump_in_a_machine_it_never_saw() -> None:
    import torch
    from safetensors.torch import load

    from fleetmill.lines.machine.alarm_net import Watcher, watched

    files = alarm.line.train(job(episodes(alarm.line, several()), steps=40), Notes())
    other = episodes(alarm.line, {"new.csv": series(seed=9, wrong=((120.0, 125.0),))}).episode(0)
    net, policy = Watcher(), policies(alarm.line, OnnxRuntime(), files)
    net.load_state_dict(load(files["weights.safetensors"]))
    with torch.no_grad():
        whole = (net.logit(torch.from_numpy(watched(net, [other])[0])) - net.level).numpy()
    told = [policy.step({n: other.columns[n][i] for n in ("value", "hour")}) for i in range(len(whole))]
    hours = (other.times_ns - other.times_ns[0]) / HOUR_NS
    late = hours > 49
    assert np.array([float(t["score"]) for t in told])[late] == pytest.approx(whole[late], abs=1e-3)
    rung = hours[[i for i, t in enumerate(told) if t["alarm"] > 0.5]]
    assert any(120 <= hour <= 125 for hour in rung)
    found = alarm.line.judging.metrics([alarm.line.judging.score(policy, other)])
    assert found["recall"] == 1.0
    assert found["recall_at_one_a_week"] == 1.0


def test_a_value_that_is_missing_changes_nothing_that_is_remembered() -> None:
    files = alarm.line.train(job(episodes(alarm.line, several(2)), steps=3), Notes())
    policy = policies(alarm.line, OnnxRuntime(), files)
    memory = np.random.default_rng(0).random((1, alarm.MEMORY)).astype(np.float32)
    asked = {"value": np.array([np.nan], np.float32), "hour": np.array([3.0], np.float32), "memory": memory}
    answer = policy.ask(asked)
    assert np.array_equal(answer["memory_next"], memory)
    assert answer["alarm"][0] == 0.0


def test_without_a_marked_window_the_oddities_count_alike_and_the_level_is_learned() -> None:
    held = episodes(alarm.line, several(2, wrong=()))
    files = alarm.line.train(job(held, steps=5), Notes())
    from safetensors.numpy import load

    kept = load(files["weights.safetensors"])
    assert len(set(kept["weight"].tolist())) == 1
    assert float(kept["level"]) != 0.0


def test_no_steps_from_a_parent_give_the_parent() -> None:
    for line, held in ((alarm.line, episodes(alarm.line, several(2))), (life.line, episodes(life.line, LIVES))):
        parent = line.train(job(held, steps=5), Notes())
        assert line.train(job(held, parent, steps=0), Notes()) == parent


def test_nothing_to_learn_from_is_said() -> None:
    for line in (alarm.line, life.line):
        with pytest.raises(InvalidInputError, match="import"):
            line.train(job(Held([]), steps=5), Notes())


def test_after_an_alarm_there_is_none_for_a_day_also_over_midnight() -> None:
    memory: Mapping[str, Array] = {}
    rung = []
    for at in range(60):
        action = {"alarm": np.array(1.0), "score": np.array(1.0)}
        sent, memory = alarm.guard(action, {"hour": np.array((20 + at) % 24.0)}, memory)
        rung += [at] * int(sent["alarm"] > 0.5)
    assert rung == [0, 24, 48]


def test_an_alarm_in_a_window_finds_it_and_one_outside_is_false() -> None:
    hours = np.arange(0.0, 336.0)
    label = ((hours >= 100) & (hours <= 110)) | ((hours >= 200) & (hours <= 210))
    alarms = np.isin(hours, [10.0, 105.0, 108.0, 250.0]).astype(
        float
    )  # the first is in the two days that count nowhere
    found = alarm.line.judging.metrics([alarm_tally(hours * HOUR_NS, label.astype(float), alarms - 0.5, alarms)])
    assert found["recall"] == 0.5
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["false_alarms_per_week"] == pytest.approx(1 / ((336 - 1 - 48) / 168))
    assert found["recall_at_one_a_week"] == 0.5


def test_the_sweep_finds_the_best_recall_that_costs_one_false_alarm_a_week() -> None:
    hours = np.arange(0.0, 168.0 * 3)
    label = ((hours >= 100) & (hours <= 110)) | ((hours >= 300) & (hours <= 310))
    scores = np.full(len(hours), LEVELS[0] - 1.0)
    scores[105], scores[305] = 3.0, 1.0
    scores[[60, 150, 200, 400]] = 2.0  # between the two: finding both would cost four false alarms in 2.7 weeks
    found = alarm.line.judging.metrics([alarm_tally(hours * HOUR_NS, label * 1.0, scores, np.zeros(len(hours)))])
    assert found["recall_at_one_a_week"] == 0.5
    scores[[60, 150]] = 0.0
    found = alarm.line.judging.metrics([alarm_tally(hours * HOUR_NS, label * 1.0, scores, np.zeros(len(hours)))])
    assert found["recall_at_one_a_week"] == 1.0


def test_without_labels_only_the_number_of_alarms_is_told() -> None:
    hours = np.arange(0.0, 168.0 * 2)
    alarms = np.isin(hours, [60.0, 150.0]).astype(float)
    nobody = np.full(len(hours), np.nan)
    found = alarm.line.judging.metrics([alarm_tally(hours * HOUR_NS, nobody, alarms, alarms)])
    assert found["alarms_per_week"] > 0
    assert np.isnan([found[name] for name in ("recall", "precision", "f1", "false_alarms_per_week")]).all()


def test_the_level_costs_one_false_alarm_a_week_at_most_where_it_was_learned() -> None:
    chance, hours = np.random.default_rng(0), np.arange(0.0, 168.0 * 6)
    scores, label = chance.normal(size=len(hours)), np.zeros(len(hours))
    level = threshold([hours * HOUR_NS], [label], [scores])
    rung = held_off(hours, (scores > level) & (hours >= 48))
    assert 1 <= len(rung) <= 6


@pytest.mark.data
def test_the_real_files_come_in_whole(data: Path) -> None:
    from fleetmill.receive.imports import open_files

    lives = [list(f.messages) for f in life.line.importers[0].read(open_files(data / "engine-cmapss-fd001"))]
    assert (len(lives), sum(len(m) for m in lives)) == (100, 3 * 20_631)
    (pump,) = (
        f for f in alarm.line.importers[0].read(open_files(data / "sensor-nab")) if f.device.startswith("machine_temp")
    )
    (episode, *rest) = alarm.line.cut(stretches([pump])[0])
    assert not rest
    assert int(episode.columns["label.anomaly"].sum()) == pytest.approx(4 * 567, abs=12)


def test_cycles_that_the_factory_had_are_known_again_in_a_file_with_holes(tmp_path: Path) -> None:
    rows = as_text(engines(8)).splitlines()
    (tmp_path / "fleet.txt").write_text("\n".join(rows))
    (tmp_path / "holes.txt").write_text("\n".join(row for n, row in enumerate(rows) if n % 9))
    (tmp_path / "other.txt").write_text(as_text(engines(3, seed=1)))
    (tmp_path / "short.csv").write_text("engine,cycle\n1,1\n")
    settings = Settings(home=tmp_path / "home", lines={"machine_life": LineSettings(train={"steps": 2})})
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as home:
        imports.import_path(home.ledger, home.books, home.blobs, life.line, tmp_path / "fleet.txt", device="plant")
        turned = loop.turn(home, life.line)
        assert turned is not None
        of = {
            name: score.score(home, life.line, turned.candidate.digest, tmp_path / f"{name}.txt")
            for name in ("holes", "other")
        }
        with pytest.raises(InvalidInputError, match=r"^[^:]*/short\.csv: no column with setting 1"):
            score.score(home, life.line, turned.candidate.digest, tmp_path / "short.csv")
    assert all(s.known_frames == s.frames for s in of["holes"].sessions)
    assert not any(s.seen for s in of["other"].sessions)
