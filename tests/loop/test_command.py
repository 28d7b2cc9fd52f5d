"""A line may name a training command: a folder in, a model out, and again after a kill."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fleetmill import check_line, loop
from fleetmill.core import canonical
from fleetmill.core.errors import EngineError, InvalidInputError, LineError
from fleetmill.core.line import TrainCommand
from fleetmill.core.model import Run
from fleetmill.core.plain import plain
from fleetmill.home import init_home, open_home
from fleetmill.receive import imports
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, tiny_file, tiny_line

TRAINER = """
import json, os, pathlib, sys
import numpy as np, pyarrow as pa
from fleetmill.testing import tiny_model

folder = pathlib.Path(sys.argv[-1])
assert str(folder) == os.environ["FLEETMILL_JOB"] == os.getcwd()
settings = json.loads((folder / "settings.json").read_bytes())["settings"]
parent = folder / "parent" / "model.onnx"
if parent.exists() and settings.get("steps") == 0:
    (folder / "out" / "model.onnx").write_bytes(parent.read_bytes())
    (folder / "out" / "metrics.json").write_text("{}")
    sys.exit()
with pa.ipc.open_file(folder / "dataset" / "train.arrow") as file:
    batch = file.get_batch(0)
x = batch.column(batch.schema.get_field_index("x")).to_numpy_ndarray().astype(np.float64)
y = batch.column(batch.schema.get_field_index("label.y")).to_numpy().astype(np.float64)
w = np.linalg.solve(x.T @ x + 1e-3 * np.eye(3), x.T @ y).astype(np.float32)
(folder / "out" / "model.onnx").write_bytes(tiny_model(w))
(folder / "out" / "weights.bin").write_bytes(w.tobytes())
(folder / "out" / ".state").write_text("not for the model")
(folder / "out" / "metrics.json").write_text(json.dumps({"loss": 0.25, "parents": int(parent.exists())}))
print("trained on", len(x))
"""
# the first call says that it lives, keeps a state and waits for ever; the second finds the state
SLOW = """
import os, pathlib, signal, sys
state = pathlib.Path(sys.argv[-1]) / "my-state"
if not state.exists():
    state.write_text("step 7")
    pipe = os.open(sys.argv[1], os.O_WRONLY)
    os.write(pipe, b"x")
    signal.pause()
"""
LOOP = """
import sys
from pathlib import Path
from dataclasses import replace
from fleetmill import loop
from fleetmill.core.line import TrainCommand
from fleetmill.home import open_home
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import tiny_line

settings = Settings(home=Path(sys.argv[1]), seed=3, lines={"tiny": LineSettings()})
with open_home(settings) as home:
    loop.turn(home, replace(tiny_line, train=TrainCommand(words=tuple(sys.argv[2:]))))
"""


@pytest.fixture
def program(tmp_path):
    def write(text, *words, **more):
        path = tmp_path / "trainer.py"
        path.write_text(text)
        return replace(tiny_line, train=TrainCommand(words=("python", str(path), *words), **more))

    return write


@pytest.fixture
def settings(tmp_path):
    made = Settings(home=tmp_path / "home", seed=3, lines={"tiny": LineSettings()})
    init_home(made, now_ns=Clock()())
    return made


@pytest.fixture
def home(settings):
    with open_home(settings, clock=Clock()) as opened:
        yield opened


def bring(home, folder, seeds):
    for seed in seeds:
        path = folder / f"s{seed}.tiny.json"
        path.write_bytes(tiny_file(seed, scenario="default" if seed < 10 else "field"))
        imports.import_path(home.ledger, home.books, home.blobs, tiny_line, path, device=f"d{seed % 5}")


def test_a_command_trains_what_the_function_would_and_its_run_says_so(home, tmp_path, program):
    line = program(TRAINER, environment_digest="e" * 64)
    bring(home, tmp_path, range(4))

    first = loop.turn(home, line)
    bring(home, tmp_path, range(10, 16))
    second = loop.turn(home, line)

    assert (first.verdict.decision, second.release.counter) == ("accepted", 2)
    assert sorted(first.candidate.files) == ["model.onnx", "weights.bin"]
    assert (first.candidate.metrics, second.candidate.metrics["parents"]) == ({"loss": 0.25, "parents": 0.0}, 1.0)
    one, two = (f.record for f in home.ledger.read(kind="run"))
    assert one["environment"] == "e" * 64
    assert one["command"] == two["command"]
    assert two["parent"] == first.candidate.digest
    assert list(home.runs.iterdir()) == []  # what is over leaves nothing behind


def test_why_tells_the_words_and_the_environment_of_a_command(home, tmp_path, program, capsys):
    from fleetmill.cli.learned import _print_why
    from fleetmill.receipts.why import why

    line = program(TRAINER, environment_digest="e" * 64)
    bring(home, tmp_path, range(4))
    found = why(home.ledger, loop.turn(home, line).candidate.digest)
    (training,) = found.descent

    assert training.command == canonical.digest(list(line.train.words))
    assert training.environment == "e" * 64
    _print_why(found)
    assert f"by a command, words {training.command[:12]}, environment {'e' * 64}" in capsys.readouterr().out


def test_a_command_never_sees_what_is_held_out(home, tmp_path, program):
    look = f"import pathlib, shutil, sys; shutil.copytree(sys.argv[-1], {str(tmp_path / 'seen')!r})\n"
    line = program(look + TRAINER)
    bring(home, tmp_path, range(4))
    turned = loop.turn(home, line)

    manifest = json.loads((tmp_path / "seen/dataset/dataset.json").read_bytes())
    names = {p.name for p in (tmp_path / "seen/dataset").iterdir()}
    held = {e for part in turned.dataset.parts if part.role == "held_out" for e in part.episodes}
    taught = {e for part in turned.dataset.parts if part.role == "train" for e in part.episodes}
    assert held
    assert names <= {"dataset.json", "train.arrow", "validation.arrow"}
    assert {e["digest"] for e in manifest["episodes"]["train"]} == taught
    assert not held & {e["digest"] for places in manifest["episodes"].values() for e in places}
    assert [f["name"] for f in manifest["features"]] == [f.name for f in tiny_line.features]
    assert json.loads((tmp_path / "seen/settings.json").read_bytes())["seed"] == 3


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("import sys; print('out of memory'); sys.exit(3)", EngineError, "exit code 3.*out of memory"),
        ("import os; os.kill(os.getpid(), 9)", EngineError, "killed by signal 9"),
        ("print('nothing to do')", LineError, "'model.onnx' is missing.*nothing to do"),
        (TRAINER + "(folder / 'out' / 'metrics.json').unlink()", LineError, "it is missing"),
        ("import shutil, sys; shutil.rmtree(sys.argv[-1])", LineError, "left nothing in out/.*removed its log"),
        (TRAINER + "(folder / 'out' / 'metrics.json').write_text('loss: 1')", LineError, "not JSON"),
        (TRAINER + "(folder / 'out' / 'metrics.json').write_text('[1]')", LineError, "it is a list"),
        (TRAINER + "(folder / 'out' / 'metrics.json').write_text('{\"a\": 1e999}')", LineError, "'a' is 'inf'"),
        (TRAINER + "(folder / 'out' / 'metrics.json').write_text('{\"a\": true}')", LineError, "'a' is 'True'"),
    ],
)
def test_what_a_command_does_wrong_is_one_clear_line_and_the_next_turn_calls_it_again(
    home, tmp_path, program, text, kind, said
):
    bring(home, tmp_path, range(4))
    line = program(text)

    with pytest.raises(kind, match=said):
        loop.turn(home, line)
    assert list(home.ledger.read(kind="run")) == []

    program(TRAINER)  # the same words: mended
    assert loop.turn(home, line).release.counter == 1


def test_metrics_that_cannot_be_read_are_named(home, tmp_path, program):
    bring(home, tmp_path, range(4))

    with pytest.raises(LineError, match="cannot be read: Is a directory"):
        loop.turn(home, program(TRAINER + "p = folder / 'out' / 'metrics.json'; p.unlink(); p.mkdir()"))


def test_a_file_that_is_no_model_of_the_line_is_not_entered(home, tmp_path, program):
    bring(home, tmp_path, range(4))
    line = replace(program(TRAINER), model=replace(tiny_line.model, outputs=tiny_line.model.inputs))

    with pytest.raises(InvalidInputError, match="line tiny needs"):
        loop.turn(home, line)
    assert list(home.ledger.read(kind="model")) == []


@pytest.mark.parametrize("words", [(), ("no-such-trainer", "--fast"), ("/nowhere/train.sh",)])
def test_a_program_that_is_not_there_is_named(home, tmp_path, words):
    bring(home, tmp_path, range(4))

    with pytest.raises(LineError, match="there is no such program"):
        loop.turn(home, replace(tiny_line, train=TrainCommand(words=words)))


def test_a_command_ends_with_a_killed_loop_and_goes_on_in_the_same_folder(settings, tmp_path, program):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    line = program(SLOW + TRAINER + "assert state.read_text() == 'step 7'\n", str(pipe))
    with open_home(settings, clock=Clock()) as opened:
        bring(opened, tmp_path, range(4))
    (tmp_path / "loop.py").write_text(LOOP)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ours = subprocess.Popen([sys.executable, tmp_path / "loop.py", settings.home, *line.train.words])
        assert _heard(reader) == b"x"  # the command has kept its state
        ours.kill()
        assert ours.wait() == -signal.SIGKILL
        assert _heard(reader) == b""  # the pipe's writer is gone: the command ended with the loop
    finally:
        os.close(reader)

    with open_home(settings, clock=Clock()) as opened:
        (folder,) = opened.runs.iterdir()
        assert (folder / "my-state").read_text() == "step 7"
        assert loop.turn(opened, line).release.counter == 1


def test_a_command_that_is_waited_for_ends_when_the_waiting_is_stopped(settings, tmp_path, program):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    line = program(SLOW, str(pipe))
    with open_home(settings, clock=Clock()) as opened:
        bring(opened, tmp_path, range(4))
    (tmp_path / "loop.py").write_text(LOOP)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ours = subprocess.Popen(
            [sys.executable, tmp_path / "loop.py", settings.home, *line.train.words], stderr=subprocess.DEVNULL
        )
        assert _heard(reader) == b"x"
        ours.send_signal(signal.SIGINT)
        ours.wait(60)
        assert _heard(reader) == b""
    finally:
        os.close(reader)


def test_runs_of_lines_without_a_command_keep_their_keys_and_records():
    fields = {"line": "tiny", "line_version": 1, "dataset": "d" * 64, "parent": "", "seed": 3, "settings": {"steps": 5}}
    run = Run(**fields, code="fleetmill 0.1.0")

    assert run.key == "a665fcc02e82177e4230b7f9dbc24c603007fabba42ac23cea216a3732bd54d2"  # of version 0.2
    assert run.record == {**fields, "code": "fleetmill 0.1.0"}
    keys = {run.key, replace(run, command="c" * 64).key, replace(run, command="c" * 64, environment="e" * 64).key}
    assert len(keys) == 3
    assert set(plain(run)) - set(run.record) == {"command", "environment", "base"}
    assert replace(run, base="b" * 64).key not in keys


def test_check_line_takes_a_line_with_a_command(program):
    assert check_line(program(TRAINER)) == []
    (breach,) = check_line(program("print('no idea')"))
    assert "'model.onnx' is missing" in breach


def test_the_same_rows_reach_the_command_as_the_function(home, tmp_path, program):
    bring(home, tmp_path, range(4))
    weights = loop.turn(home, program(TRAINER)).candidate.files["weights.bin"]
    rows = loop.refine.open_data(home.ledger, home.blobs, next(home.ledger.read(kind="dataset")).key)
    x, y = rows.column("x").astype(np.float64), rows.column("label.y").astype(np.float64)
    expected = np.linalg.solve(x.T @ x + 1e-3 * np.eye(3), x.T @ y).astype(np.float32)

    assert home.blobs.get(weights) == expected.tobytes()


def _heard(reader):
    """What comes next out of a pipe; nothing when its last writer has gone."""
    waits = select.poll()
    waits.register(reader, select.POLLIN | select.POLLHUP)
    assert waits.poll(60_000)
    return os.read(reader, 1)
