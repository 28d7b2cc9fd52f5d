"""A line of one's own, from a table, a recording or another line: written, installed, and through the whole loop."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fleetmill import cli, lines
from fleetmill.api.door import make_app
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Check, Feature, Message, Stretch
from fleetmill.core.recording import RecordingInfo
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol
from fleetmill.device.replay import Recordings
from fleetmill.home import open_home
from fleetmill.lines.installed import in_words
from fleetmill.lines.tabular import Clock, csv_rows, latest_of
from fleetmill.receive import roll
from fleetmill.receive.imports import Single
from fleetmill.scaffold.found import in_table
from fleetmill.score import find_model
from fleetmill.seams import recordings
from fleetmill.settings import Settings
from fleetmill.testing import check_line, in_process

START_S = 1_700_000_040  # begins a minute
NS = 10**9
CLOCK = Clock(column="time", tick_ns=NS, period_ns=NS, gap_ns=10 * NS, session_ns=60 * NS)


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command of ours in this process, as a shell without a terminal would: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FLEETMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.chdir(tmp_path)

    def ran(*words):
        monkeypatch.setattr(sys, "argv", ["fleetmill", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return ran


@pytest.fixture
def done(run):
    """Runs a command that must succeed; what it printed."""

    def ran(*words):
        code, out, err = run(*words)
        assert code == 0, err
        return out

    return ran


@pytest.fixture
def refused(run):
    """Runs a command that must be refused as bad input; its one line."""

    def ran(*words):
        code, out, err = run(*words)
        assert code == 2, out
        (line,) = err.strip().splitlines()
        assert line.startswith("fleetmill: ")
        return line

    return ran


@pytest.fixture
def install(monkeypatch):
    """Makes a package's entry point known, as pip would, here and in processes that are started."""
    taken = []

    def put(folder, name):
        info = folder / f"{name}_line-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-line\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[{lines.GROUP}]\n{name} = {name}_line:line\n")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        taken.append(f"{name}_line")

    yield put
    for module in taken:
        sys.modules.pop(module, None)


class Terminal(io.StringIO):
    """A person who types."""

    def isatty(self):
        return True


def a_table(path, *, minutes=range(20), without=(), columns=("Load (kg)", "wind", "note", "sway"), seed=0):
    """A row for each second of these minutes of a crane: its sway follows from load and wind."""
    chance = np.random.default_rng([seed, minutes[0]])
    rows = [",".join(("Time", *columns))]
    for i in range(60 * minutes[0], 60 * (minutes[-1] + 1)):
        load, wind = chance.normal(size=2)
        held = {"Load (kg)": load, "wind": wind, "note": "calm", "sway": 3 * load - wind + 5 + 0.01 * chance.normal()}
        if i not in without:
            rows.append(",".join([str(START_S + i), *(str(held[c]) for c in columns)]))
    path.write_text("\n".join(rows))
    return path


def a_recording(path, seed, *, told=True):
    """A robot that pushes by what it sees: one recording, its channels with or without our metadata."""
    chance, start = np.random.default_rng(seed), (START_S + 1000 * seed) * NS
    features = {
        "range": Feature(name="range", kind="observation", dtype="float32", shape=(2,), unit="m", hold_ns=NS // 10),
        "push": Feature(name="push", kind="action", dtype="float32", shape=(1,), unit="N", hold_ns=NS // 10),
    }
    messages = []
    for i in range(60):
        seen = chance.normal(size=2).astype(np.float32)
        for name, value in (("range", seen), ("push", (seen @ [2.0, -1.0] + 1.0)[np.newaxis].astype(np.float32))):
            at = start + i * NS // 10
            message = Message(topic=name, log_time_ns=at, publish_time_ns=at, value={"data": value})
            messages.append(recordings.encode(features[name], message))
    info = RecordingInfo(device="robot", session=f"s{seed}", line="other", start_ns=start, end_ns=start + 6 * NS)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(recordings.write_recording(info, features.values() if told else [], messages))
    return path


def on_a_device(home, name, observation):
    """What the champion answers in a process that only runs it, and the heavy libraries that were loaded."""
    with open_home(Settings(home=home), own=False) as opened:
        version = find_model(opened, lines.find(name), "champion")
        file = home.parent / "model.onnx"
        file.write_bytes(opened.blobs.get(version.files["model.onnx"]))
    code = (
        "import sys, json, numpy as np; from pathlib import Path; from fleetmill.lines import find;"
        "from fleetmill.engines.runtime_onnx import OnnxRuntime; from fleetmill.seams.runtime import policies;"
        "files = {'model.onnx': Path(sys.argv[2]).read_bytes()};"
        "policy = policies(find(sys.argv[1]), OnnxRuntime(), files);"
        "seen = {k: np.asarray(v, np.float32) for k, v in json.loads(sys.argv[3]).items()};"
        "said = {k: np.asarray(v).tolist() for k, v in policy.step(seen).items()};"
        "heavy = [m for m in ('torch', 'onnx', 'pyarrow', 'sqlalchemy') if m in sys.modules];"
        "print(json.dumps([said, heavy]))"
    )
    words = [sys.executable, "-c", code, name, str(file), json.dumps(observation)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def confirmed_by(home, folder, line):
    """What a device reports that is enrolled over HTTP, asked for nothing, and runs once: (state, release)."""
    with open_home(Settings(home=home), own=False) as opened, in_process(make_app(opened)) as client:
        secret = roll.invite(opened.ledger, "joined", line=line.name)
        token = Token(name="joined", secret=secret, root_sha256=sha256(opened.repository.root()))
        enrol(folder, token, factory="http://factory", hardware="cpu", client=client)
        replayed = Recordings(line=line, folder=folder)
        with open_agent(folder, line, world=replayed, client=client, clock=opened.clock) as agent:
            agent.once()
        told = [f.record["report"] for f in opened.ledger.read(kind="deployment")]
        return [(r["state"], r["release_counter"]) for r in told if r["device"] == "joined"]


# -- through the loop -------------------------------------------------------------------------------------------------


def test_a_table_becomes_a_line_that_goes_through_the_whole_loop(tmp_path, done, install):
    first = a_table(tmp_path / "first.csv", without=[*range(130, 160), 200])
    out = done(
        *("line", "new", "swaying", "--from-csv", first, "--observe", "load (kg)"),
        *("--observe", "wind", "--label", "sway", "--out", tmp_path / "package"),
    )
    assert "swaying_line.py" in out
    assert len((tmp_path / "package/swaying_line.py").read_text().splitlines()) < 120
    install(tmp_path / "package", "swaying")
    line = lines.find("swaying")
    assert check_line(line, files={first.name: first.read_bytes()}) == []
    (told,) = [found for found in json.loads(done("lines", "--json")) if found["name"] == "swaying"]
    assert (told["distribution"], told["version"], told["module"]) == ("swaying-line", "0.1.0", "swaying_line:line")
    assert told["observes"] == ["load float32 kg", "wind float32 1"]
    assert (told["does"], told["lives"], told["importers"]) == (["sway float32 1"], "replay", ["csv", "mcap"])

    done("init")
    sessions = json.loads(done("import", first, "--line", "swaying", "--device", "crane-0", "--json"))
    assert len(sessions) == 21  # a minute each, and the silence of half a minute ended one
    assert json.loads(done("turn", "--line", "swaying", "--json"))["verdict"]["decision"] == "accepted"
    later = a_table(tmp_path / "later.csv", minutes=range(20, 30))
    done("import", later, "--line", "swaying", "--device", "crane-0")
    assert json.loads(done("turn", "--line", "swaying", "--json"))["number"] == 1
    unseen = a_table(
        tmp_path / "unseen.csv", minutes=range(40, 43), without=[7], columns=("sway", "wind", "Load (kg)"), seed=1
    )
    scored = json.loads(done("score", "champion", unseen, "--line", "swaying", "--json"))
    assert scored["unseen"]["mae"] < 0.02
    assert "balanced" in done("books", "--verify")

    said, heavy = on_a_device(tmp_path / "home", "swaying", {"load": 1.0, "wind": 2.0})
    assert said["sway"] == pytest.approx(6.0, abs=0.02)
    assert heavy == []


def test_a_recording_becomes_a_line_that_goes_through_the_whole_loop(tmp_path, done, install):
    recorded = [a_recording(tmp_path / "drives" / f"{seed}.mcap", seed) for seed in range(12)]
    done(
        *("line", "new", "pushing", "--from-recording", recorded[0], "--observe", "range", "--act", "push"),
        *("--out", tmp_path / "package"),
    )
    install(tmp_path / "package", "pushing")
    line = lines.find("pushing")
    assert {f.name: (f.kind, f.shape, f.unit) for f in line.features} == {
        "range": ("observation", (2,), "m"),
        "push": ("action", (1,), "N"),
    }
    assert line.model.rate_hz == 10.0

    done("init")
    done("import", tmp_path / "drives", "--line", "pushing", "--device", "robot")
    assert json.loads(done("turn", "--line", "pushing", "--json"))["verdict"]["decision"] == "accepted"
    more = [a_recording(tmp_path / "more" / f"{seed}.mcap", seed) for seed in range(12, 16)]
    done("import", tmp_path / "more", "--line", "pushing", "--device", "robot")
    assert json.loads(done("turn", "--line", "pushing", "--json"))["number"] == 1
    scored = json.loads(done("score", "champion", more[0], "--line", "pushing", "--json"))
    assert scored["total"]["mae"] < 1e-3

    assert confirmed_by(tmp_path / "home", tmp_path / "joined", line) == [("confirmed", 2)]
    said, heavy = on_a_device(tmp_path / "home", "pushing", {"range": [1.0, 2.0]})
    assert said["push"] == pytest.approx([1.0], abs=1e-3)
    assert heavy == []


def test_a_foreign_recording_and_an_installed_line_become_lines_that_keep_the_contract(tmp_path, done, install):
    foreign = a_recording(tmp_path / "foreign.mcap", 0, told=False)
    done("line", "new", "foreign", "--from-recording", foreign, "--observe", "range", "--label", "push")
    machine = next(n for n in lines.names() if lines.find(n).features[0].shape == (28,))
    done("line", "new", "copied", "--from", machine, "--observe", "state", "--label", "label.move")
    for name in ("foreign", "copied"):
        install(tmp_path / name, name)
        line = lines.find(name)
        assert check_line(line) == []
    assert [f.name for f in lines.find("foreign").features] == ["range", "estimate.push", "push"]
    assert [f.name for f in lines.find("copied").features] == ["state", "move", "label.move"]


def test_the_test_that_is_written_beside_a_line_passes(tmp_path, done, install):
    done("line", "new", "tested", "--from-csv", a_table(tmp_path / "a.csv"), "--observe", "wind", "--act", "sway")
    install(tmp_path / "tested", "tested")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "tested")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "1 passed" in ran.stdout, ran.stdout


# -- what is installed ------------------------------------------------------------------------------------------------


def test_a_broken_line_is_listed_with_its_error_beside_the_others(tmp_path, done, install):
    (tmp_path / "shattered_line.py").write_text("raise RuntimeError('no\\nsensor')\n")
    (tmp_path / "numeric_line.py").write_text("line = 5\n")
    install(tmp_path, "shattered")
    install(tmp_path, "numeric")

    told = done("lines").splitlines()

    (broken,) = [row for row in told if row.startswith("shattered")]
    assert broken == "shattered: broken (shattered_line:line from shattered-line 0.1.0): RuntimeError: no sensor"
    (number,) = [row for row in told if row.startswith("numeric")]
    assert number.endswith("must be a Line, it is a int")
    assert sum(row.endswith("from fleetmill " + done("--version").split()[1].rstrip(",")) for row in told) >= 3


def test_a_check_is_told_in_words():
    champion = Check(metric="mae", better="lower", against="champion", limit=1.02, slice="night", first=False)
    assert in_words(champion) == "mae (night) at most 1.02 x the champion's, not asked of the first model"
    assert in_words(Check(metric="recall", better="higher", against="limit", limit=0.5)) == "recall at least 0.5"


# -- what is refused --------------------------------------------------------------------------------------------------


def test_without_a_terminal_and_without_flags_the_columns_are_listed(tmp_path, refused):
    table = a_table(tmp_path / "a.csv")
    said = refused("line", "new", "asked", "--from-csv", table)
    assert said.endswith("Found: load (kg), wind, sway")
    assert "--act or --label is missing" in refused("line", "new", "asked", "--from-csv", table, "--observe", "wind")
    assert not (tmp_path / "asked").exists()


def test_on_a_terminal_what_is_not_told_by_flags_is_asked(tmp_path, done, monkeypatch):
    table = a_table(tmp_path / "a.csv")
    monkeypatch.setattr(sys, "stdin", Terminal("wind, load (kg)\nsway\n"))
    said = done("line", "new", "asking", "--from-csv", table)
    assert said.index("What is observed") < said.index("What is acted or predicted")
    assert "observes wind, load and says sway" in (tmp_path / "asking/README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--observe", "rain", "--act", "sway"], "no column or channel 'rain'; found load (kg), wind, sway"),
        (["--observe", "note", "--act", "sway"], "no column or channel 'note'"),
        (["--observe", "sway", "--act", "sway"], "sway is chosen twice"),
        (
            ["--observe", "wind", "--act", "sway", "--time", "clock"],
            "no column with the time; expected one called",
        ),
        (["--observe", "wind", "--act", "sway", "--time", "note"], "must hold a time"),
        (["--observe", "wind", "--act", "sway", "--from", "x"], "give one of --from-recording"),
    ],
)
def test_a_wrong_choice_is_one_clear_line(tmp_path, refused, words, said):
    assert said in refused("line", "new", "wrong", "--from-csv", a_table(tmp_path / "a.csv"), *words)
    assert not (tmp_path / "wrong").exists()


def test_a_name_or_a_folder_that_is_taken_is_one_clear_line(tmp_path, refused):
    words = ["--from-csv", a_table(tmp_path / "a.csv"), "--observe", "wind", "--act", "sway"]
    assert "use a-z, 0-9 and '_'" in refused("line", "new", "My-Line", *words)
    assert "is installed already" in refused("line", "new", lines.names()[0], *words)
    assert "is there already and not empty" in refused("line", "new", "there", *words, "--out", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n2,3\n", "which column is the time? Say it with --time; found a, b"),
        ("time,b\n1,x\n2,y\n", "no column of numbers beside time"),
        ("time,b\n1,2\n1,3\n", "shows a single instant"),
        ("1,2\n3,4\n", "the first line must name the columns"),
        ("time,b\n1,2\n3\n", "1 fields, the first line has 2"),
        ("", "a table without rows"),
    ],
)
def test_a_table_that_tells_too_little_is_one_clear_line(tmp_path, refused, text, said):
    (tmp_path / "poor.csv").write_text(text)
    assert said in refused("line", "new", "poor", "--from-csv", tmp_path / "poor.csv", "--observe", "b", "--act", "a")


def test_what_is_no_recording_is_one_clear_line(tmp_path, refused):
    table = a_table(tmp_path / "a.csv")
    assert "is no MCAP file" in refused("line", "new", "x", "--from-recording", table)
    assert "no such file" in refused("line", "new", "x", "--from-recording", tmp_path / "none.mcap")
    empty = tmp_path / "empty.mcap"
    info = RecordingInfo(device="d", session="s", line="l", start_ns=0, end_ns=1)
    empty.write_bytes(recordings.write_recording(info, [], []))
    assert "no channel of numbers" in refused("line", "new", "x", "--from-recording", empty)


# -- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "times", "tick_ns", "dated"),
    [
        ("time", ["2024-01-01 00:00:00", "2024-01-01 00:00:02"], 0, True),
        ("timestamp", ["1700000000", "1700000002"], NS, True),
        ("ts", ["1700000000000", "1700000002000"], 10**6, True),
        ("time_ms", ["0", "2000"], 10**6, False),
        ("t", ["0", "2"], NS, False),
    ],
)
def test_a_tables_clock_is_understood(tmp_path, column, times, tick_ns, dated):
    path = tmp_path / "a.csv"
    path.write_text(f"x [m],date,{column},words\n" + "".join(f"1,2024-01-01,{t},w\n" for t in times))
    found = in_table(path)
    assert (found.clock.column, found.clock.tick_ns, found.period_ns, found.dated) == (column, tick_ns, 2 * NS, dated)
    assert [(f.name, f.feature.name, f.feature.unit) for f in found.found] == [("x [m]", "x", "m")]


# -- the ready-made parts ---------------------------------------------------------------------------------------------


def read(path, clock=CLOCK, columns=("a",)):
    return [
        (f.device, f.session, [(m.topic, m.log_time_ns, float(m.value["data"])) for m in f.messages])
        for f in csv_rows({c: c for c in columns}, clock).read(Single(path))
    ]


def test_doubled_and_shaken_rows_fall_into_one_place_and_the_last_counts(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"a,time\n1,{START_S}\n2,{START_S + 1.2}\n3,{START_S + 0.9}\n,{START_S + 2}\n5,{START_S + 3}\n")
    ((device, session, messages),) = read(path)
    assert (device, session) == ("", "2023-11-14T22-14-00")
    assert messages == [("a", (START_S + at) * NS, value) for at, value in ((0, 1.0), (1, 3.0), (3, 5.0))]


def test_a_long_silence_and_the_end_of_a_span_end_a_session(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,a\n" + "\n".join(f"{START_S + t},{t}" for t in (0, 10, 21, 59, 60)))
    assert [[v for _, _, v in m] for _, _, m in read(path)] == [[0.0, 10.0], [21.0], [59.0], [60.0]]


def test_a_clock_that_counts_from_nought_makes_each_file_a_device(tmp_path):
    path = tmp_path / "Pump 7.csv"
    path.write_text("time,a\n0,1\n1,2\n")
    ((device, session, messages),) = read(path)
    assert (device, session, len(messages)) == ("pump-7", "from-0s", 2)


def test_a_table_without_a_column_is_refused_by_its_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,b\n0,1\n1,2\n")
    with pytest.raises(InvalidInputError, match=r"a\.csv: no column with feature a; .* found time, b"):
        read(path)
    path.write_text("time,a\n0,1\n,2\n")
    with pytest.raises(InvalidInputError, match=r"a\.csv line 3: column time holds no time"):
        read(path)


def test_channels_that_do_not_tick_together_meet_in_their_latest_values():
    told = [("slow", 0, 1), ("fast", 0, 2), ("fast", 4, 3), ("slow", 5, 4), ("slow", 30, 5), ("fast", 31, 6)]
    messages = [
        Message(topic=n, log_time_ns=at, publish_time_ns=at, value={"data": np.float32(v)}) for n, at, v in told
    ]
    stretch = Stretch(device="d", session="s", index=0, tags={}, messages=messages)
    (episode,) = latest_of("slow", "fast", period_ns=5, within_ns=10)(stretch)
    assert episode.times_ns.tolist() == [0, 5]  # at 30 nothing fast was heard for too long
    assert episode.columns["slow"].tolist() == [1, 4]
    assert episode.columns["fast"].tolist() == [2, 3]
    assert (episode.start_ns, episode.end_ns) == (0, 10)
