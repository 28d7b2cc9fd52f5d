"""What a person does wrong, or a disk: one line that says what, where and what to do, an exit code, nothing lost."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
import simplejpeg
from onnx import TensorProto, helper, numpy_helper

from fleetmill import cli, lines
from fleetmill.core.line import Message
from fleetmill.core.model import ModelVersion
from fleetmill.core.plain import plain
from fleetmill.core.recording import RecordingInfo
from fleetmill.home import open_home
from fleetmill.lines import find
from fleetmill.seams import recordings
from fleetmill.seams.ledger import Draft
from fleetmill.settings import Settings

DONE, UNBALANCED, BAD_INPUT, INTEGRITY, UNAVAILABLE, CTRL_C = 0, 1, 2, 3, 4, 130
START_MS = 1_639_711_765_876


class Ran:
    """How a command ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def line(self):
        """The one line of a refusal."""
        (line,) = self.err.strip().splitlines()
        assert line.startswith("fleetmill: ")
        assert "Traceback" not in self.out + self.err
        assert "internal error" not in line
        return line


@pytest.fixture
def home(tmp_path):
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def run(home, monkeypatch, capsys):
    """Runs a command of ours in this process, as a shell would; `--home` is given."""
    for name in [n for n in os.environ if n.startswith("FLEETMILL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLEETMILL_HOME", str(home))

    def ran(*words):
        monkeypatch.setattr(sys, "argv", ["fleetmill", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Ran(ended.value.code or 0, said.out, said.err)

    return ran


@pytest.fixture
def made(run, home):
    assert run("init").code == DONE
    return home


def head(home):
    with open_home(Settings(home=home), own=False) as opened:
        return opened.ledger.head()


def a_tub(folder, times_ms):
    """A Donkeycar tub with a record at each time."""
    (folder / "images").mkdir(parents=True)
    records = [
        {
            "_index": i,
            "_session_id": "21-12-17_0",
            "_timestamp_ms": START_MS + t,
            "cam/image_array": f"{i}_cam.jpg",
            "user/angle": 0.25,
            "user/mode": "user",
            "user/throttle": 0.5,
        }
        for i, t in enumerate(times_ms)
    ]
    for i, record in enumerate(records):
        picture = simplejpeg.encode_jpeg(np.full((120, 160, 3), i, np.uint8))
        (folder / "images" / record["cam/image_array"]).write_bytes(picture)
    (folder / "catalog_0.catalog").write_text("".join(json.dumps(r) + "\n" for r in records))
    manifest = [[], [], {}, {}, {"paths": ["catalog_0.catalog"], "deleted_indexes": []}]
    (folder / "manifest.json").write_text("\n".join(map(json.dumps, manifest)))
    return folder


def an_mcap(rows=30):
    """A recording of the arm, as another tool would hand it in."""
    line = find("arm")
    times = [1_700_000_000_000_000_000 + i * 40_000_000 for i in range(rows)]
    messages = [
        recordings.encode(
            f, Message(topic=f.name, log_time_ns=t, publish_time_ns=t, value={"data": np.zeros(f.shape, f.dtype)})
        )
        for t in times
        for f in line.features
        if f.name in ("state", "move", "label.move")
    ]
    info = RecordingInfo(device="d", session="s", line="arm", start_ns=times[0], end_ns=times[-1] + 40_000_000)
    return recordings.write_recording(info, line.features, messages)


# Homes


@pytest.mark.parametrize(
    "words", [["status"], ["books"], ["turn", "--line", "arm"], ["up"], ["score", "x", ".", "--line", "arm"]]
)
def test_without_a_home_it_says_how_to_make_one(run, home, words):
    ran = run(*words)

    assert (ran.code, ran.line) == (BAD_INPUT, f"fleetmill: {home}: no home here. Run: fleetmill init --home {home}")


def test_a_home_of_a_newer_version_is_left_alone(run, made):
    (made / "home.json").write_text('{"format":3}')

    for words in (["init"], ["status"], ["up"]):
        ran = run(*words)
        assert ran.code == BAD_INPUT
        assert "home.json: format 3, this version reads up to 2. Update fleetmill" in ran.line
    assert (made / "home.json").read_text() == '{"format":3}'


@pytest.mark.parametrize("mark", ["", "{}", "[]", '{"format":"1"}', '{"format":0}', "\0"])
def test_a_damaged_home_says_how_to_restore_it(run, made, mark):
    (made / "home.json").write_text(mark)

    ran = run("status")

    assert ran.code == BAD_INPUT
    assert 'Restore it: {"format": 2}' in ran.line


def test_a_folder_that_holds_something_else_is_no_place_for_a_home(run, home):
    (home / "thesis.txt").write_text("mine")

    ran = run("init")

    assert ran.code == BAD_INPUT
    assert "holds thesis.txt. Choose an empty folder" in ran.line
    assert [p.name for p in home.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("words", [["up"], ["turn", "--line", "arm"]])
def test_two_factories_on_one_home_are_one_too_many(run, made, words):
    with open_home(Settings(home=made)):
        ran = run(*words)

    assert ran.code == BAD_INPUT
    assert f"another factory runs on this home (process {os.getpid()}). Stop it, or choose another --home" in ran.line


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("seed = ", "fleetmill.toml: Invalid value"),
        ("sede = 1", "no such setting: sede. See docs/settings.md"),
        ("seed = 'one'", "fleetmill.toml.seed: must be int, is str 'one'"),
        ("port = 70000", "port 70000: must be from 0"),
        ("workers = 0", "workers 0: must be at least 1"),
        ("lines = 3", "lines must be tables [lines.NAME], is 3"),
        ("[lines]\narm = 3", "[lines.arm]: must be a table, is 3"),
        ("[lines.arm]\nturn = 3", "[lines.arm]: no such setting: turn"),
        ("[lines.arm.campaign]\nsesions = 3", "[lines.arm]: campaign: no such setting: sesions"),
        ("[lines.arm]\nturns = true", "lines.arm.turns: must be int, is bool"),
        ("\0", "fleetmill.toml: "),
    ],
)
def test_a_malformed_settings_file_is_named_with_the_setting(run, made, toml, says):
    (made / "fleetmill.toml").write_text(toml)

    ran = run("status")

    assert ran.code == BAD_INPUT
    assert says in ran.line


def test_a_malformed_environment_is_named(run, made, monkeypatch):
    monkeypatch.setenv("FLEETMILL_PORT", "eighty")

    ran = run("status")

    assert (ran.code, ran.line) == (BAD_INPUT, "fleetmill: FLEETMILL_PORT='eighty': must be int")


# Lines, ports, devices


@pytest.mark.parametrize(
    "words",
    [
        ["turn", "--line", "arn"],
        ["import", ".", "--line", "arn", "--device", "d"],
        ["score", "champion", ".", "--line", "arn"],
        ["device", "enrol", "d", "--line", "arn"],
        ["device", "run", "--factory", "http://127.0.0.1:1", "--line", "arn", "--device-home", "."],
        ["demo", "--line", "arn"],
    ],
)
def test_an_unknown_line_lists_the_known_ones(run, made, words):
    before = head(made)

    ran = run(*words)

    assert ran.code == BAD_INPUT
    assert f"no line 'arn': installed are {', '.join(lines.names())}" in ran.line
    assert head(made) == before


def test_an_unknown_line_in_the_settings_stops_the_factory_before_it_serves(run, made):
    (made / "fleetmill.toml").write_text("port = 0\n[lines.arn]\n")

    ran = run("up")

    assert ran.code == BAD_INPUT
    assert "no line 'arn'" in ran.line
    assert ran.out == ""


def test_a_busy_port_is_named(run, made):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]

        ran = run("up", "--port", port)

    assert ran.code == UNAVAILABLE
    assert f"127.0.0.1:{port}: Address already in use. Stop what listens there, or choose another --port" in ran.line


def test_enrolling_from_a_list_that_is_not_there_is_bad_input(run, made):
    ran = run("device", "enrol", "@names.txt", "--line", "arm")

    assert ran.code == BAD_INPUT
    assert "names.txt: no list of names here" in ran.line


def test_a_name_is_given_once(run, made):
    assert run("device", "enrol", "d0", "--line", "arm").code == DONE

    again, bad = run("device", "enrol", "d0", "--line", "arm"), run("device", "enrol", "D 0", "--line", "arm")

    assert (again.code, bad.code) == (BAD_INPUT, BAD_INPUT)
    assert "d0: is enrolled or invited already. Choose another name" in again.line
    assert "use 1 to 63 of a-z" in bad.line


def test_a_device_without_a_good_token_address_or_factory_says_which(run, made, tmp_path):
    token = run("device", "enrol", "d0", "--line", "arm").out.strip()
    place = ["--line", "arm", "--device-home", tmp_path / "device"]

    nowhere = run("device", "run", "--factory", "http://127.0.0.1:1", *place)
    torn = run("device", "run", "--factory", "http://127.0.0.1:1", "--token", token[:-5], *place)
    silent = run("device", "run", "--factory", "http://127.0.0.1:1", "--token", token, *place)
    mistyped = run("device", "run", "--factory", "127.0.0.1:8787", "--token", token, *place)

    assert [r.code for r in (nowhere, torn, silent, mistyped)] == [BAD_INPUT, BAD_INPUT, UNAVAILABLE, BAD_INPUT]
    assert "not enrolled. Give the token that `fleetmill device enrol NAME` printed" in nowhere.line
    assert "not a token of `fleetmill device enrol`; copy the whole word" in torn.line
    assert "http://127.0.0.1:1: ConnectError: does not answer. Is it up?" in silent.line
    assert "must be an address like http://127.0.0.1:8787" in mistyped.line


# Recordings


def test_a_tub_with_a_missing_picture_enters_nothing_and_names_it(run, made, tmp_path):
    tub = a_tub(tmp_path / "tub", range(0, 500, 50))
    (tub / "images" / "3_cam.jpg").unlink()
    before = head(made)

    ran = run("import", tub, "--line", "rccar", "--device", "car")

    assert ran.code == BAD_INPUT
    assert re.search(r"tub: catalog_0.catalog line 4 \(record 3\): picture images/3_cam.jpg is missing", ran.line)
    assert "--skip-broken" in ran.line
    assert head(made) == before


def test_broken_records_are_passed_over_when_asked_and_their_time_is_in_the_books(run, made, tmp_path):
    tub = a_tub(tmp_path / "tub", [*range(0, 1000, 50), *range(9000, 9500, 50)])
    for gone in (0, 3, 4, 19):  # the first, two in a row, and the first drive's last
        (tub / "images" / f"{gone}_cam.jpg").unlink()
    catalog = tub / "catalog_0.catalog"
    catalog.write_text(catalog.read_text().replace('{"_index": 22,', '{"_ind'))  # no time is known of it

    ran = run("import", tub, "--line", "rccar", "--device", "car", "--skip-broken")
    again = run("import", tub, "--line", "rccar", "--device", "car", "--skip-broken", "--json")
    books = run("books", "--verify", "--json")

    assert (ran.code, again.code, books.code) == (DONE, DONE, DONE)
    seconds = {(r["account"], r["reason"]): r["ns"] for r in json.loads(books.out)["rows"]}
    assert seconds == {("dropped", "unreadable"): 250_000_000, ("landed", ""): 1_250_000_000}
    assert [len(s["recordings"]) for s in json.loads(again.out)] == [2, 2]


def test_the_same_name_with_other_content_is_refused(run, made, tmp_path):
    tub = a_tub(tmp_path / "tub", range(0, 500, 50))
    assert run("import", tub, "--line", "rccar", "--device", "car").code == DONE
    (tub / "images" / "3_cam.jpg").unlink()
    before = head(made)

    ran = run("import", tub, "--line", "rccar", "--device", "car", "--skip-broken")

    assert ran.code == BAD_INPUT
    assert "came in before with other content or tags, from " in ran.line
    assert head(made) == before


def test_a_truncated_recording_enters_nothing(run, made, tmp_path):
    whole, before = an_mcap(), head(made)

    for size in (len(whole) - 1, len(whole) // 2, 5, 0):
        (tmp_path / "a.mcap").write_bytes(whole[:size])
        ran = run("import", tmp_path / "a.mcap", "--line", "arm", "--device", "d")
        assert ran.code == INTEGRITY
        assert "a.mcap: not a whole MCAP file" in ran.line
        assert "Copy it again from its source" in ran.line

    assert head(made) == before


def test_what_is_no_recording_at_all_is_named(run, made, tmp_path):
    (tmp_path / "a.mcap").write_bytes(b"GIF89a, renamed")
    (tmp_path / "b.bag").write_bytes(b"#ROSBAG V2.0")

    gif = run("import", tmp_path / "a.mcap", "--line", "arm", "--device", "d")
    bag = run("import", tmp_path / "b.bag", "--line", "arm", "--device", "d")
    gone = run("import", tmp_path / "c.mcap", "--line", "arm", "--device", "d")
    skip = run("import", tmp_path / "a.mcap", "--line", "arm", "--device", "d", "--skip-broken")

    assert [r.code for r in (gif, bag, gone, skip)] == [BAD_INPUT] * 4
    assert "a.mcap: is no MCAP file, it begins with b'GIF89a, '" in gif.line
    assert "no importer knows these files; line arm reads mcap" in bag.line
    assert "no such file or folder" in gone.line
    assert "mcap files cannot be read past what is broken" in skip.line


def test_a_damaged_archive_is_named(run, made, tmp_path):
    tub, archive = a_tub(tmp_path / "tub", range(0, 500, 50)), tmp_path / "tub.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(p for p in tub.rglob("*") if p.is_file()):
            packed.write(path, path.relative_to(tub))
    assert run("import", archive, "--line", "rccar", "--device", "car").code == DONE
    data = bytearray(archive.read_bytes())
    data[data.index(b"\xff\xd8") + 20] ^= 1
    archive.write_bytes(data)

    ran = run("import", archive, "--line", "rccar", "--device", "other")

    assert ran.code == INTEGRITY
    assert "damaged in the archive" in ran.line


# Models


def an_arm(width):
    """An ONNX that answers `width` numbers with four."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["state", "w"], ["move"])],
        "arm",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("move", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.full((width, 4), 0.1, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def bring_model(home, data):
    with open_home(Settings(home=home)) as opened:
        model = ModelVersion(line="arm", files={"model.onnx": opened.blobs.put(data)})
        opened.ledger.append([Draft(kind="model", key=model.digest, record=plain(model))])
        return model.digest


def test_a_model_of_the_wrong_shape_is_refused_by_its_port(run, made, tmp_path):
    (tmp_path / "a.mcap").write_bytes(an_mcap())
    wrong, right, junk = (bring_model(made, data) for data in (an_arm(27), an_arm(28), b"no model"))

    refused = run("score", wrong[:12], tmp_path / "a.mcap", "--line", "arm")
    scored = run("score", right, tmp_path / "a.mcap", "--line", "arm", "--json")
    damaged = run("score", junk, tmp_path / "a.mcap", "--line", "arm")

    assert (refused.code, scored.code, damaged.code) == (BAD_INPUT, DONE, INTEGRITY)
    assert (
        f"model {wrong[:12]}: input 'state' is float32 (27,), line arm says float32 (28,). Train it on this line"
        in refused.line
    )
    assert json.loads(scored.out)["total"] == {"move_mae": 0.0}
    assert "model file of 8 bytes does not load" in damaged.line


def test_a_model_that_is_not_there_is_not_scored(run, made, tmp_path):
    (tmp_path / "a.mcap").write_bytes(an_mcap())

    champion = run("score", "champion", tmp_path / "a.mcap", "--line", "arm")
    unknown = run("score", "abcdef123", tmp_path / "a.mcap", "--line", "arm")

    assert (champion.code, unknown.code) == (BAD_INPUT, BAD_INPUT)
    assert "has no champion yet. Run: fleetmill turn --line arm" in champion.line
    assert "0 found. See: fleetmill status" in unknown.line


def test_a_turn_with_nothing_to_do_does_nothing(run, made):
    before = head(made)

    told, as_json = run("turn", "--line", "arm"), run("turn", "--line", "arm", "--json")

    assert (told.code, as_json.code) == (DONE, DONE)
    assert told.out == "nothing to turn: waits for 1 more closed session\n"
    assert json.loads(as_json.out)["waiting_for_sessions"] == 1
    assert head(made) == before


# Books


@pytest.fixture
def kept(run, made, tmp_path):
    """A home with a recording in its books."""
    (tmp_path / "a.mcap").write_bytes(an_mcap())
    assert run("import", tmp_path / "a.mcap", "--line", "arm", "--device", "d").code == DONE
    return made


def tamper(home, statement):
    with sqlite3.connect(home / "ledger.db") as table:
        assert table.execute(statement).rowcount == 1
    table.close()


def test_whole_books_balance(run, kept):
    ran = run("books", "--verify")

    assert ran.code == DONE
    assert "balanced: 1.200 s lived, every one in exactly one account" in ran.out


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE fact SET record = replace(record, 'landed', 'forgotten') WHERE kind = 'moved'", "does not follow"),
        ("UPDATE fact SET record = '{' WHERE kind = 'moved'", "does not follow"),
        ("DELETE FROM fact WHERE kind = 'moved'", "does not follow"),
        ("UPDATE fact SET record = '{' WHERE kind = 'device'", "is damaged: not JSON"),
    ],
)
def test_changed_facts_are_named_by_number(run, kept, statement, says):
    tamper(kept, statement)

    ran = run("books", "--verify")

    assert ran.code == INTEGRITY
    assert re.search(rf"ledger: fact \d+ \(\w+ .*\) {says}", ran.line)
    assert "Restore the home from a copy" in ran.line


def test_changed_books_do_not_balance_and_are_named_row_by_row(run, kept):
    tamper(kept, "UPDATE balance SET ns = ns + 1 WHERE account = 'landed'")

    ran = run("books", "--verify")

    assert ran.code == UNBALANCED
    assert re.search(r"NOT BALANCED: device 0, day \d+: accounts differ by 1 ns and 0 bytes", ran.out)
    assert "stands in the books, not in the facts" in ran.out


def test_a_ledger_that_is_none_is_an_integrity_error(run, kept):
    for path in kept.glob("ledger.db*"):
        path.unlink()
    (kept / "ledger.db").write_bytes(b"not a database at all, and long enough to be read as one" * 100)

    ran = run("books")

    assert ran.code == INTEGRITY
    assert "Restore the home from a copy" in ran.line


# A full disk


@contextmanager
def files_of_at_most(size):
    """Every file of this process ends there: the kernel refuses what goes beyond, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 1000, 5_000])
def test_a_full_disk_keeps_a_recording_out_and_harms_nothing(run, made, tmp_path, size):
    (tmp_path / "a.mcap").write_bytes(an_mcap(200))
    before = head(made)

    with files_of_at_most(size):
        ran = run("import", tmp_path / "a.mcap", "--line", "arm", "--device", "d")

    assert ran.code == UNAVAILABLE
    assert re.search("space|File too large", ran.line)
    assert head(made)[0] <= before[0] + 2  # at most that the device is known
    assert run("import", tmp_path / "a.mcap", "--line", "arm", "--device", "d").code == DONE
    assert run("books", "--verify").code == DONE
    assert [p for p in (made / "blobs").rglob(".*") if p.is_file()] == []


def test_a_full_disk_stops_the_ledger_between_facts_never_inside_one(run, made, tmp_path):
    (tmp_path / "a.mcap").write_bytes(an_mcap(20))
    codes = set()

    for size in range(20_000, 400_000, 20_000):
        with files_of_at_most(size):
            ran = run("import", tmp_path / "a.mcap", "--line", "arm", "--device", "d")
        codes.add(ran.code)
        assert ran.code == DONE or "Check the disk's free space" in ran.line or "Free some space" in ran.line
        assert run("books", "--verify").code == DONE

    assert codes == {DONE, UNAVAILABLE}


# Ctrl-C


def until(condition, what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_ends_factory_and_device_without_a_traceback(made, run, tmp_path):
    token = run("device", "enrol", "d0", "--line", "arm").out.strip()
    (made / "fleetmill.toml").write_text("port = 0\n[lines.arm]\n")
    factory = start(tmp_path / "factory.log", "up", "--home", made)
    address = said(factory, tmp_path / "factory.log", r"factory (\S+)")
    device = start(
        tmp_path / "device.log", "device", "run", "--factory", address, "--line", "arm", "--device-home",
        tmp_path / "device", "--token", token,
    )  # fmt: skip
    until((tmp_path / "device" / "tuf" / "timestamp.json").exists, "the device's first look")

    for process in (device, factory):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.wait(30) == CTRL_C

    assert "Traceback" not in (tmp_path / "factory.log").read_text()
    told = [json.loads(line)["event"] for line in (tmp_path / "device.log").read_text().splitlines()]
    assert [event for event in told if "asks nothing of line arm" not in event] == []
    assert run("books", "--verify").code == DONE


def start(log, *words):
    with log.open("wb") as out:
        command = [sys.executable, "-m", "fleetmill.cli", *map(str, words)]
        return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)


def said(process, log, pattern):
    until(lambda: re.search(pattern, log.read_text()) or process.poll() is not None, pattern)
    return re.search(pattern, log.read_text())[1]
