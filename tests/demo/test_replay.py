"""A fleet that replays: what was recorded is dealt once, lived as it was, and asked about later or elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from fleetmill import lines
from fleetmill.core.drive import drive
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.fleet import Campaign, session_seed
from fleetmill.core.line import Message
from fleetmill.core.recording import RecordingInfo
from fleetmill.demo import stock
from fleetmill.device.replay import Recordings, instants
from fleetmill.home import open_home
from fleetmill.seams.recordings import encode, write_recording
from fleetmill.settings import read_settings
from fleetmill.testing import tiny_line

HOUR = 3_600_000_000_000
TRAFFIC, LIFE = lines.find("traffic"), lines.find("machine_life")


def message(topic, at, value=1.0):
    return Message(topic=topic, log_time_ns=at, publish_time_ns=at, value={"data": np.asarray(value, np.float32)})


def hours(folder, name, days, *, start="2024-01-01", silent=()):
    at = np.datetime64(f"{start}T00", "h") + np.arange(24 * days)
    rows = [f"{str(t).replace('T', ' ')}:00,{n % 24}" for n, t in enumerate(at) if n // 24 not in silent]
    (folder / f"{name}.csv").write_text("\n".join(["date_time,count", *rows, ""]))


def engines(folder, lives):
    rows = [
        [engine, cycle, *np.round(np.sin(np.arange(24) + cycle), 3)]
        for engine, length in enumerate(lives, start=1)
        for cycle in range(1, length + 1)
    ]
    np.savetxt(folder / "train.txt", rows, fmt="%g")


def held(run):
    return run.machine, run.session, run.messages[0].log_time_ns


def test_a_run_ends_at_a_hole_and_at_the_longest_session(tmp_path):
    hours(tmp_path, "street", 31, silent=range(10, 14))

    runs = stock.read_runs(TRAFFIC, tmp_path, seconds=8 * 86_400.0)

    assert [run.instants for run in runs] == [8 * 24, 2 * 24, 8 * 24, 8 * 24, 24]
    assert len({run.session for run in runs}) == 5
    assert sum(len(run.messages) for run in runs) == 2 * 27 * 24


def test_where_time_is_held_out_each_device_goes_on_with_one_machine_and_the_report_asks_about_what_is_later(tmp_path):
    for street in range(4):
        hours(tmp_path, f"street-{street}", 200)
    runs = stock.read_runs(TRAFFIC, tmp_path, seconds=31 * 86_400.0)

    dealt = stock.deal(TRAFFIC, runs, names=["a", "b", "c"], each=4, report=2, seed=3)

    for given in dealt.devices.values():
        (machine,) = {run.machine for run in given}
        starts = [run.messages[0].log_time_ns for run in given]
        asked = [run.messages[0].log_time_ns for run in dealt.report if run.machine == machine]
        assert starts == sorted(starts)
        assert len(asked) == 2
        assert max(starts) < min(asked)
    given = [held(run) for found in (*dealt.devices.values(), dealt.report) for run in found]
    assert len(given) == len(set(given)) == 3 * 4 + 3 * 2
    assert dealt.told()["spare_sessions"] == len(runs) - len(given) - dealt.short


def test_elsewhere_devices_get_whole_machines_and_the_report_asks_about_others(tmp_path):
    engines(tmp_path, [40 + n for n in range(20)])
    runs = stock.read_runs(LIFE, tmp_path, seconds=400 * 3600.0)

    one, other = (stock.deal(LIFE, runs, names=["a", "b"], each=5, report=6, seed=s) for s in (0, 1))

    machines = [{run.machine for run in found} for found in (*one.devices.values(), one.report)]
    assert [len(found) for found in machines] == [5, 5, 6]
    assert not machines[0] & machines[1]
    assert not (machines[0] | machines[1]) & machines[2]
    assert [held(run) for run in one.report] == [held(run) for run in other.report]
    assert [held(run) for run in one.devices["a"]] != [held(run) for run in other.devices["a"]]


def test_too_few_recordings_are_refused_with_what_is_there(tmp_path):
    engines(tmp_path, [40] * 8)
    runs = stock.read_runs(LIFE, tmp_path, seconds=400 * 3600.0)

    with pytest.raises(InvalidInputError, match=r"8 recorded machines are not enough for 3 devices with 4 sessions"):
        stock.deal(LIFE, runs, names=["a", "b", "c"], each=4, report=2, seed=0)


def test_a_machine_that_ticks_at_another_rate_is_left_out_and_told(tmp_path):
    hours(tmp_path, "street", 100)
    slow = [f"2024-01-{d:02d} 00:00,1" for d in range(1, 29, 3)]
    (tmp_path / "slow.csv").write_text("\n".join(["date_time,count", *slow, ""]))
    runs = stock.read_runs(TRAFFIC, tmp_path, seconds=31 * 86_400.0)

    dealt = stock.deal(TRAFFIC, runs, names=["a"], each=2, report=1, seed=0)

    assert {run.machine for run in (*dealt.devices["a"], *dealt.report)} == {"street"}
    assert dealt.short == len([run for run in runs if run.machine == "slow"]) == 10


def campaign():
    return Campaign(
        line="traffic", number=0, scenario="replay", sessions=1, seconds=1e9, budget_ratio=1.0, triggers=(), seed=10_000
    )


def recording(folder, name, values):
    folder.mkdir(exist_ok=True)
    found = [
        m
        for n, v in enumerate(values)
        for m in (message("volume", n * HOUR, v), message("calendar", n * HOUR, [n, 0, 0, 0]))
    ]
    features = {f.name: f for f in TRAFFIC.features}
    info = RecordingInfo(device="street", session=name, line="traffic", start_ns=0, end_ns=len(values) * HOUR)
    data = write_recording(info, TRAFFIC.features, [encode(features[m.topic], m) for m in found])
    (folder / f"{name}.mcap").write_bytes(data)


def test_a_device_lives_its_nth_recording_as_it_was_and_nobody_acts(tmp_path):
    recording(tmp_path / "r", "000", [5.0, 6.0])
    recording(tmp_path / "r", "001", [7.0, 8.0, 9.0])
    open_world = Recordings(line=TRAFFIC, folder=tmp_path / "r")

    world = open_world("replay", session_seed(campaign(), device=4, number=1))
    lived = list(drive(world, None, steps=10))

    assert [float(m.step.observation["volume"]) for m in lived] == [7.0, 8.0, 9.0]
    assert [m.step.time_ns for m in lived] == [0, HOUR, 2 * HOUR]
    assert all(m.sent == {} and m.proposed is None for m in lived)
    assert world.tags == {"recorded_by": "street", "recorded_as": "001", "recorded_at": "1970-01-01T00:00:00"}
    with pytest.raises(NotFoundError, match="all 2 recordings were replayed"):
        open_world("replay", session_seed(campaign(), device=4, number=2))


def test_an_observation_holds_its_last_value_and_a_label_none():
    x, label = tiny_line.features[0].name, "label.y"
    found = [message(x, 0, [1, 2, 3]), message(label, 0, 7.0), message(x, 10, [4, 5, 6]), message(x, 20, [7, 8, 9])]

    lived = list(instants(tiny_line, iter(found), "here"))

    assert [frame[0][x].tolist() for frame in lived] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [sorted(frame[1]) for frame in lived] == [[label], [], []]


def test_a_recording_without_what_the_model_observes_is_refused():
    with pytest.raises(InvalidInputError, match="nothing was recorded of volume"):
        list(instants(TRAFFIC, iter([message("calendar", 0, [0, 0, 0, 0])]), "here"))


@pytest.mark.slow
def test_a_demo_replays_made_up_recordings_and_its_report_follows_from_facts(tmp_path):
    words = ["demo", "--line", "traffic", "--generations", "2", "--devices", "2", "--sessions", "3", "--seed", "86"]
    command = [sys.executable, "-m", "fleetmill.cli"]
    out = tmp_path / "out"
    run = subprocess.run([*command, *words, "--calm", "--out", str(out)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

    checked = subprocess.run(
        [*command, "report", "--verify", str(out / "report.html"), "--json"], capture_output=True, text=True
    )
    told = json.loads(checked.stdout)
    assert (checked.returncode, told["faults"]) == (0, [])

    report = json.loads((out / "report.json").read_text())
    assert report["balanced"]
    assert report["audit"]["exit_code"] == 0
    assert report["replayed"]["fleet_sessions"] == 12
    assert report["report_worlds"] == report["replayed"]["report_sessions"] == 6
    assert report["baseline"]["mase"] > 0
    assert any("made up" in said for said in report["shows_not"])
    with open_home(read_settings(home=out / "home"), own=False) as home:
        sessions = [f.record["manifest"] for f in home.ledger.read(kind="session")]
        assert {m["tags"]["recorded_by"] for m in sessions} == {"street-0", "street-1"}
        asked = [path.name for path in sorted((out / "recordings" / "report").iterdir())]
        assert len(asked) == 6
