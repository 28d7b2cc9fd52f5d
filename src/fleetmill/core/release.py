"""Releases, and what a device says became of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fleetmill.core.canonical import digest
from fleetmill.core.line import Line
from fleetmill.core.plain import plain

State = Literal["confirmed", "refused", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """An admitted model on its way out; `counter` only grows per line."""

    line: str
    counter: int
    model: str
    model_file: str  # digest of model.onnx
    golden: str  # digest of golden.npz
    dataset: str
    verdict: str  # key of the verdict
    hardware: tuple[str, ...]
    io_contract: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a device says, signed by its key: only ``confirmed`` from the running slot makes a deployment a success."""

    device: str
    line: str
    state: State
    release_counter: int
    model_file: str  # digest of the file that runs now (confirmed) or that was turned away
    running: str  # digest of the file that runs now; "": none
    reason: str = ""


def io_contract(line: Line) -> str:
    """Digest of what a model of this line takes and gives: a device installs nothing with another."""
    return digest({"inputs": plain(line.model.inputs), "outputs": plain(line.model.outputs)})
