"""The control: the same trainer, the same number of optimiser steps, the data of generation 0 alone.

It runs in a process of its own beside the loop, a training behind the champion's; the report takes the model whose
chain is as long as the champion's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from fleetmill import lines
from fleetmill.core.errors import EngineError
from fleetmill.core.line import Metrics, TrainJob
from fleetmill.home import Home, open_home
from fleetmill.refine import run as refine
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Fact
from fleetmill.seams.processes import be_child_of
from fleetmill.settings import read_settings
from fleetmill.train import command, trainer

_LOOK_SECONDS = 0.5


class Quiet:
    """A tracker that reports to nobody and keeps nothing: a control that is killed is trained again."""

    def step(self, step: int, of: int, metrics: Metrics) -> None:
        """Nothing."""

    def save(self, step: int, state: bytes) -> None:
        """Nothing."""

    def saved(self) -> tuple[int, bytes] | None:
        """Nothing."""
        return None


def start(home: Path, line: str, folder: Path, generations: int) -> subprocess.Popen[bytes]:
    """Train the control's chain in a child process."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [str(home), line, str(folder), str(generations), str(os.getpid())]
    return subprocess.Popen([sys.executable, "-m", "fleetmill.demo.control", *arguments], start_new_session=True)


def wait(process: subprocess.Popen[bytes], folder: Path, generation: int) -> None:
    """Until the control has that generation's model, if it has not; what it trains beyond that is not needed.

    Raises:
        EngineError: it ended without that model.
    """
    while not _file(folder, generation).exists():
        if process.poll() is not None and not _file(folder, generation).exists():
            raise EngineError(f"training the control ended with exit code {process.returncode}")
        time.sleep(_LOOK_SECONDS)


def model(folder: Path, generation: int) -> bytes:
    """The control's model.onnx after as many trainings as the champion's chain has."""
    return _file(folder, generation).read_bytes()


def train(home: Path, line_name: str, folder: Path, generations: int) -> None:
    """Wait for generation 0's dataset, then train the chain; generation 0 is the fleet's own model.

    A training begins when the champion's chain is as long as the control's, since its next may follow.
    """
    line = lines.find(line_name)
    with open_home(read_settings(home=home), own=False) as opened:
        while not (ended := _ended(opened, line_name)):
            time.sleep(_LOOK_SECONDS)
        run = next(f for f in opened.ledger.read(kind="run") if f.record["model"] == ended[0].record["candidate"])
        files = {
            name: opened.blobs.get(digest)
            for name, digest in opened.ledger.get("model", ended[0].record["candidate"]).record["files"].items()
        }
        data = refine.open_data(opened.ledger, opened.blobs, ended[0].record["dataset"])
        tables = command.tables(opened.ledger, opened.blobs, ended[0].record["dataset"])
        write_whole(_file(folder, 0), files["model.onnx"])
        for generation in range(1, generations):
            if not _may_be_asked(opened, line_name, generation, generations):
                return
            job = TrainJob(data=data, parent=files, seed=run.record["seed"], settings=run.record["settings"])
            files = dict(trainer.fit(line, job, Quiet(), tables=lambda: tables, folder=folder / f"run-{generation}"))
            write_whole(_file(folder, generation), files["model.onnx"])


def _may_be_asked(opened: Home, line: str, generation: int, generations: int) -> bool:
    """Whether the champion's chain may come to be longer than this; waits until it is as long, or all over."""
    while True:
        ended = _ended(opened, line)
        accepted = sum(bool(f.record["release"]) for f in ended)
        if len(ended) == generations:
            return accepted > generation
        if accepted >= generation:
            return True
        time.sleep(_LOOK_SECONDS)


def _ended(opened: Home, line: str) -> list[Fact]:
    """The turns of a line that have ended, the first one first."""
    return [f for f in opened.ledger.read(kind="turn_ended") if f.record["line"] == line]


def _file(folder: Path, generation: int) -> Path:
    return folder / f"control-{generation}.onnx"


if __name__ == "__main__":
    be_child_of(int(sys.argv[5]))
    train(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
