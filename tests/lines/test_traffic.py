"""The production line `traffic`: what comes in, what is learned, how it is scored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleetmill import loop, score
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Episode, Stopped, Stretch, TrainJob
from fleetmill.core.split import in_time
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import init_home, open_home
from fleetmill.lines.traffic import guard, line
from fleetmill.lines.traffic.judging import OUTPUTS, answers, tally
from fleetmill.lines.traffic.windows import HISTORY, after, before
from fleetmill.receive import imports
from fleetmill.seams.runtime import policies
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, Notes
from fleetmill.testing.kit import Held

HOUR_NS = 3_600_000_000_000
MONDAY = datetime(2024, 1, 1)


class Memory:
    """Files in memory."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def names(self) -> Sequence[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return self._files[name].encode()


def read(text: str, name: str = "counts.csv") -> list[Stretch]:
    files = Memory({name: text})
    assert line.importers[0].detects(files)
    return [
        Stretch(device=f.device, session=f.session, index=0, tags={}, messages=list(f.messages))
        for f in line.importers[0].read(files)
    ]


def cut(text: str) -> list[Episode]:
    return [e for s in read(text) for e in line.cut(s)]


def table(rows: Sequence[tuple[datetime, float]], header: str = "date_time,volume") -> str:
    return "\n".join([header, *(f"{at},{value}" for at, value in rows)])


def hours(number: int, *, start: datetime = MONDAY, without: Sequence[int] = ()) -> list[tuple[datetime, float]]:
    return [(start + timedelta(hours=i), float(i)) for i in range(number) if i not in without]


def city(weeks: int = 12, *, seed: int = 0, silent: float = 0.05) -> Held:
    """A street with a day and a week and much chance, as months of four weeks."""
    chance, found = np.random.default_rng(seed), []
    at = np.arange(weeks * 168)
    level = 1000.0 * (1 + 0.01 * (at // 168))
    volume = level * (1.2 + np.sin(at * np.pi / 12)) * np.where(at // 24 % 7 < 5, 1.0, 0.5) + 250 * chance.normal(
        size=len(at)
    )
    volume[chance.random(len(at)) < silent] = np.nan
    calendar = np.stack([at % 24, at // 24 % 7, 0 * at, 0 * at], axis=1).astype(np.float32)
    for first in range(0, len(at), 672):
        rows = slice(first, first + 672)
        found.append(episode(volume[rows].astype(np.float32), calendar[rows], first))
    return Held(found)


def episode(volume: Array, calendar: Array, first: int = 0) -> Episode:
    times = (first + np.arange(len(volume), dtype=np.int64)) * HOUR_NS
    columns = {"volume": volume, "calendar": calendar}
    end = int(times[-1]) + HOUR_NS
    return Episode(device="d", session=f"{first}", start_ns=int(times[0]), end_ns=end, times_ns=times, columns=columns)


def job(data: Held, parent: Mapping[str, bytes] | None = None, **settings: Any) -> TrainJob:
    return TrainJob(data=data, parent=parent, seed=3, settings=settings)


def test_importing_the_line_loads_no_torch() -> None:
    code = "import sys, fleetmill.lines.traffic; print([m for m in ('torch', 'onnx') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# what comes in


def test_a_month_is_a_session_and_knows_its_calendar() -> None:
    found = read(table(hours(24 * 40)))
    assert [s.session for s in found] == ["2024-01-01T00", "2024-02-01T00"]
    (january,) = line.cut(found[0])
    assert january.columns["volume"].tolist() == list(range(744))
    assert january.columns["calendar"][25].tolist() == [1.0, 1.0, 0.0, 0.0]  # Tuesday, one o'clock


def test_a_missing_hour_is_one_in_which_the_sensor_said_nothing() -> None:
    (found,) = cut(table(hours(100, without=[10, 11, 50])))
    assert np.flatnonzero(np.isnan(found.columns["volume"])).tolist() == [10, 11, 50]
    assert found.columns["calendar"][10, 0] == 10.0


def test_a_silence_of_more_than_two_days_ends_the_session() -> None:
    found = read(table(hours(200, without=range(50, 97))))
    assert len(found) == 1
    assert [s.session for s in read(table(hours(200, without=range(50, 98))))] == ["2024-01-01T00", "2024-01-05T02"]


def test_doubled_rows_another_order_of_rows_and_columns_and_other_separators_give_the_same() -> None:
    rows = hours(100, without=[30])
    plain = cut(table(rows))
    chance = np.random.default_rng(0)
    mixed = [rows[i] for i in chance.permutation(len(rows))] + rows[:7]
    text = "\n".join(["sky;Traffic_Volume;date_time", *(f"grey;{value};{at}" for at, value in mixed)])
    (other,) = cut(text)
    assert np.array_equal(plain[0].columns["volume"], other.columns["volume"], equal_nan=True)
    assert np.array_equal(plain[0].times_ns, other.times_ns)


def test_clocks_that_are_set_forward_leave_an_hour_out_and_set_back_double_one() -> None:
    spring = hours(48, start=datetime(2024, 3, 10), without=[2])
    (found,) = cut(table(spring))
    assert np.isnan(found.columns["volume"][2])
    assert len(found.times_ns) == 48
    autumn = hours(24, start=datetime(2024, 11, 3))
    (found,) = cut(table([*autumn[:2], (datetime(2024, 11, 3, 1), 5.0), *autumn[2:]]))
    assert found.columns["volume"][:3].tolist() == [0.0, 3.0, 2.0]  # (1 + 5) / 2: an hour counted twice
    assert (np.diff(found.times_ns) == HOUR_NS).all()


def test_a_gauge_that_is_read_every_half_hour_is_averaged() -> None:
    rows = [(MONDAY + timedelta(minutes=29 * i), float(i)) for i in range(5)]  # 00:00 00:29 00:58 01:27 01:56
    (found,) = cut(table(rows, "LastUpdated,Occupancy"))
    assert found.columns["volume"].tolist() == [1.0, 3.5]


def test_each_sensor_of_a_file_is_a_device() -> None:
    text = "SystemCodeNumber,Occupancy,LastUpdated\n" + "\n".join(
        f"{name},{i},{MONDAY + timedelta(hours=i)}" for name in ("Car Park 2", "B1") for i in range(3)
    )
    assert [s.device for s in read(text)] == ["b1", "car-park-2"]


def test_a_holiday_is_known_the_day_before() -> None:
    rows = [f"{at},{value},{'Epiphany' if at.day == 6 and at.hour == 0 else 'None'}" for at, value in hours(24 * 8)]
    (found,) = cut("\n".join(["date_time,volume,holiday", *rows]))
    days = found.columns["calendar"][::24, 2:].tolist()
    assert days[3:7] == [[0, 0], [0, 1], [1, 0], [0, 0]]


REFUSED = {
    "a missing column": (
        "date_time,temp\n2024-01-01 00:00:00,5",
        "no column with what was counted.*found date_time, temp",
    ),
    "no time": ("when,volume\n2024-01-01 00:00:00,5", "no column with the time.*found when, volume"),
    "no header": ("2024-01-01 00:00:00,5\n2024-01-01 01:00:00,5", "no column with the time"),
    "a time that is none": ("ts,y\n2024-01-01 00:00:00,5\nnoon,5", "line 3.*ts.*'noon'"),
    "a number that is none": ("ts,y\n2024-01-01 00:00:00,many", "line 2.*y must hold a number.*'many'"),
    "a row too long": ("ts,y\n2024-01-01 00:00:00,5\n2024-01-01 01:00:00,5,6", "line 3: 3 fields"),
    "a column twice": ("ts,y,y\n2024-01-01 00:00:00,5,6", "stands twice"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_a_table_that_is_not_as_expected_is_refused_by_name(what: str) -> None:
    text, said = REFUSED[what]
    with pytest.raises(InvalidInputError, match=said):
        read(text)


def test_notes_beside_the_tables_are_passed_over() -> None:
    files = {"LICENSE.txt": "Copyright, all of it\n\nYou may", "a.csv": table(hours(30)), "b.csv": table(hours(30))}
    found = list(line.importers[0].read(Memory(files)))
    assert [f.device for f in found] == ["a", "b"]


# what is learned


def test_the_forecast_beats_last_week_where_chance_has_its_part_and_its_intervals_hold() -> None:
    held, later = city(20), city(24)
    policy = policies(line, OnnxRuntime(), line.train(job(held, steps=200), Notes()))
    assert line.judging.baseline is not None
    asked = later.episode(5)  # weeks 21 to 24
    ours, weekly = (line.judging.metrics([line.judging.score(p, asked)]) for p in (policy, line.judging.baseline(held)))
    assert ours["mae_24h"] < 0.9 * weekly["mae_24h"]
    assert 0.6 < ours["coverage"] < 0.97
    assert ours["pinball"] < weekly["pinball"]


def test_hour_by_hour_on_a_device_gives_what_the_training_code_gives_also_with_gaps_and_after_a_fresh_start() -> None:
    import torch
    from safetensors.torch import load

    from fleetmill.lines.traffic.learning import Forecaster

    held = city(8)
    files = line.train(job(held, steps=25), Notes())
    policy, asked, net = policies(line, OnnxRuntime(), files), held.episode(0), Forecaster()
    net.load_state_dict(load(files["weights.safetensors"]))
    net.eval()
    volume, calendar = asked.columns["volume"][:400], asked.columns["calendar"][:400]
    steps = [policy.step({"volume": v, "calendar": c}) for v, c in zip(volume, calendar, strict=True)]
    with torch.no_grad():
        past = torch.from_numpy(before(volume, np.arange(400)))
        whole = torch.stack(net(past, torch.from_numpy(calendar)), 1).numpy()
    stepped = np.array([[step[name] for name in OUTPUTS] for step in steps])
    assert stepped == pytest.approx(whole, abs=line.model.tolerance)
    part = episode(volume, calendar)
    assert answers(policy, part) == pytest.approx(stepped, abs=line.model.tolerance)


def test_a_sensor_that_never_said_anything_gets_numbers_all_the_same() -> None:
    policy = policies(line, OnnxRuntime(), line.train(job(city(4), steps=2), Notes()))
    sent = policy.step({"volume": np.array(np.nan, np.float32), "calendar": np.zeros(4, np.float32)})
    assert all(np.isfinite(sent[name]).all() for name in OUTPUTS)


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes() -> None:
    held, stopped = city(4), Notes(stop_at=200)
    whole = line.train(job(held, steps=225), Notes())
    with pytest.raises(Stopped):
        line.train(job(held, steps=225), stopped)
    assert line.train(job(held, steps=225), Notes(saved=(200, stopped.states[200]))) == whole


def test_no_steps_from_a_parent_give_the_parent() -> None:
    parent = line.train(job(city(4), steps=5), Notes())
    assert line.train(job(city(4), parent, steps=0), Notes()) == parent


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(InvalidInputError, match="no hour to learn from; import"):
        line.train(job(Held([]), steps=5), Notes())


# how it is scored


def test_what_lies_before_and_after_an_hour_is_what_it_says() -> None:
    volume = np.arange(500, dtype=np.float32)
    assert before(volume, np.array([400]))[0, [0, -1]].tolist() == [400 - HISTORY + 1, 400]
    assert after(volume, np.array([400]))[0, [0, -1]].tolist() == [401, 424]
    assert np.isnan(after(volume, np.array([499]))).all()


def test_metrics_are_pooled_in_any_order_and_only_hours_that_were_counted_count() -> None:
    volume = np.arange(60, dtype=np.float32)
    volume[30] = np.nan
    told = np.stack([volume[:, None] + np.arange(1, 25) + off for off in (-2.0, 3.0, 4.0)], axis=1)
    told[29:31] = 1e6  # asked at 29 and 30; 30 itself is not counted
    whole = line.judging.metrics([tally(volume, told, start=31)])
    assert whole["mae_1h"] == pytest.approx(3.0)
    assert whole["coverage"] == 1.0
    assert whole["coverage_error"] == pytest.approx(0.2)
    assert whole["width"] == pytest.approx(6.0)
    parts = [tally(volume, told, start=31, stop=40), tally(volume, told, start=40)]
    for order in (parts, parts[::-1]):
        assert line.judging.metrics(order) == pytest.approx(whole)
    assert all(np.isnan(value) for value in line.judging.metrics([]).values())


def test_a_forecast_that_is_always_right_has_no_loss_and_an_interval_too_low_covers_nothing() -> None:
    volume = np.arange(400, dtype=np.float32)
    right = np.stack([volume[:, None] + np.arange(1, 25)] * 3, axis=1)
    found = line.judging.metrics([tally(volume, right)])
    assert (found["mae"], found["pinball"], found["mase"]) == (0.0, 0.0, 0.0)
    assert line.judging.metrics([tally(volume, right - 5)])["coverage"] == 0.0


def test_the_baseline_says_last_week_and_what_stands_in_for_it() -> None:
    assert line.judging.baseline is not None
    policy = line.judging.baseline(city(4))
    past = np.arange(HISTORY, dtype=np.float32)[np.newaxis]
    assert policy.ask({"volume": past})["forecast"][0].tolist() == list(range(168, 192))
    past[0, 168] = np.nan
    assert policy.ask({"volume": past})["forecast"][0, 0] == 0.0  # two weeks ago
    past[0, 0] = np.nan
    assert policy.ask({"volume": past})["forecast"][0, 0] == HISTORY - 24  # yesterday


def test_the_guard_puts_intervals_right_and_falls_back_on_the_forecast_of_an_hour_ago() -> None:
    def told(low: float, middle: float, high: float) -> dict[str, Array]:
        return {name: value + np.arange(24.0) for name, value in zip(OUTPUTS, (low, middle, high), strict=True)}

    nothing, memory = guard(told(np.nan, 1.0, 2.0), {}, {})
    assert np.isnan(nothing["forecast"]).all()
    sent, memory = guard(told(9.0, 5.0, 1.0), {}, memory)
    assert [float(sent[name][0]) for name in OUTPUTS] == [1.0, 5.0, 9.0]
    sent, memory = guard(told(1.0, np.nan, 9.0), {}, memory)
    assert sent["forecast"].tolist() == [*np.arange(6.0, 29.0), 28.0]


@pytest.mark.data
def test_the_real_counts_come_in_with_their_gaps(data: Path) -> None:
    from fleetmill.receive.imports import open_files

    found = [
        list(f.messages) for f in line.importers[0].read(open_files(data / "city-hourly/hourly_traffic_volume.csv"))
    ]
    values = np.concatenate([[m.value["data"] for m in part if m.topic == "volume"] for part in found]).astype(float)
    assert int(np.isfinite(values).sum()) == 40_575  # distinct hours; 7,629 of 48,204 rows are doubled
    assert len(values) < 52_551 - 7_386  # ten months of silence are nobody's time
    assert len(found) == 66


# what is held out


def test_nothing_that_trains_is_later_than_anything_that_is_held_out_and_more_sessions_move_the_cut_off() -> None:
    def edges(number: int) -> dict[str, tuple[int, int]]:
        return {f"{device}{n}": (10 * n, 10 * n + 10) for device in "ab" for n in range(number)}

    for number in range(4, 20):
        roles = in_time(edges(number))
        ends = [end for name, (_, end) in edges(number).items() if roles[name] == "train"]
        starts = [start for name, (start, _) in edges(number).items() if roles[name] == "held_out"]
        assert max(ends) <= min(starts)
        assert 0 < len(starts) <= 2 * number / 3
    assert in_time(edges(8))["a6"] == "held_out"
    assert in_time(edges(12))["a6"] == "train"


def test_a_session_that_the_cut_off_divides_is_held_out_whole() -> None:
    assert in_time({"a": (0, 10), "long": (5, 45), "c": (20, 30), "d": (40, 50)}) == {
        "a": "train",
        "long": "held_out",
        "c": "train",
        "d": "held_out",
    }


def test_too_few_sessions_all_train() -> None:
    assert in_time({}) == {}
    assert set(in_time({name: (at, at + 1) for at, name in enumerate("abc")}).values()) == {"train"}


def test_a_home_trains_on_earlier_months_judges_on_later_ones_and_scores_a_file_that_it_never_saw(
    tmp_path: Path,
) -> None:
    rows = [
        (MONDAY + timedelta(hours=i), round(1000 + 500 * np.sin(i * np.pi / 12) + 100 * np.sin(i * 1.7), 1))
        for i in range(24 * 30 * 8)
        if i % 50
    ]
    (tmp_path / "street.csv").write_text(table(rows))
    (tmp_path / "other.csv").write_text(table([(at + timedelta(days=400), value + 7) for at, value in rows[:1500]]))
    settings = Settings(home=tmp_path / "home", lines={"traffic": LineSettings(train={"steps": 20})})
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as home:
        imports.import_path(home.ledger, home.books, home.blobs, line, tmp_path / "street.csv", device="i94")
        turned = loop.turn(home, line)
        assert turned is not None
        held = [p.session for p in turned.dataset.parts if p.role == "held_out"]
        assert held == ["i94/2024-07-01T00", "i94/2024-08-01T00"]
        assert turned.verdict.pairs == 2
        found = score.score(home, line, turned.candidate.digest, tmp_path / "other.csv")
    assert found.total["mae"] > 0
    assert not any(s.known_source for s in found.sessions)
