"""The control: the same trainer, the same number of optimiser steps, the data of generation 0 alone.

It runs in a process of its own beside the loop, and makes one model per generation; the report takes the one whose
chain is as long as the champion's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from fleetmill import lines
from fleetmill.core.line import Metrics, TrainJob
from fleetmill.home import open_home
from fleetmill.refine import run as refine
from fleetmill.seams.files import write_whole
from fleetmill.seams.processes import be_child_of
from fleetmill.settings import read_settings
from fleetmill.train import command, trainer


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


def model(folder: Path, generation: int) -> bytes:
    """The control's model.onnx after as many trainings as the champion's chain has."""
    return (folder / f"control-{generation}.onnx").read_bytes()


def train(home: Path, line_name: str, folder: Path, generations: int) -> None:
    """Wait for generation 0's dataset, then train the chain; generation 0 is the fleet's own model."""
    line = lines.find(line_name)
    with open_home(read_settings(home=home), own=False) as opened:
        while not (ended := [f for f in opened.ledger.read(kind="turn_ended") if f.key == f"{line_name}/0"]):
            time.sleep(0.5)
        run = next(f for f in opened.ledger.read(kind="run") if f.record["model"] == ended[0].record["candidate"])
        files = {
            name: opened.blobs.get(digest)
            for name, digest in opened.ledger.get("model", ended[0].record["candidate"]).record["files"].items()
        }
        data = refine.open_data(opened.ledger, opened.blobs, ended[0].record["dataset"])
        tables = command.tables(opened.ledger, opened.blobs, ended[0].record["dataset"])
        write_whole(folder / "control-0.onnx", files["model.onnx"])
        for generation in range(1, generations):
            job = TrainJob(data=data, parent=files, seed=run.record["seed"], settings=run.record["settings"])
            files = dict(trainer.fit(line, job, Quiet(), tables=lambda: tables, folder=folder / f"run-{generation}"))
            write_whole(folder / f"control-{generation}.onnx", files["model.onnx"])


if __name__ == "__main__":
    be_child_of(int(sys.argv[5]))
    train(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
