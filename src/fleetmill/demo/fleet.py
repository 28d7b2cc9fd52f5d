"""The demo's processes: one factory and many devices on loopback, started, watched, ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetmill.core.errors import EngineError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Line, Recipe
from fleetmill.device.enrolment import Token
from fleetmill.home import Home
from fleetmill.receive import roll

_QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TOML = """# Written by `fleetmill demo`.
seed = {seed}
port = 0

[lines.{line}]
turns = {generations}
turn_when = {{ hours = 0.1 }}

[lines.{line}.train]
{train}

[lines.{line}.first_campaign]
{first}

[lines.{line}.campaign]
{then}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the demo was asked for."""

    line: Line
    recipe: Recipe
    generations: int
    devices: int
    seed: int
    labels: str
    folder: Path

    @property
    def home(self) -> Path:
        """The factory's home."""
        return self.folder / "home"


class Processes:
    """Children of the demo; their output goes to log files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.factory: subprocess.Popen[str] | None = None
        self.devices: dict[str, subprocess.Popen[bytes]] = {}
        self.address = ""

    def start_factory(self, plan: Plan, *, port: int = 0) -> None:
        """Start `fleetmill up` and wait for its address.

        Raises:
            EngineError: it ended instead; its last words are in the message.
        """
        command = [*_fleetmill(), "up", "--home", str(plan.home), "--port", str(port)]
        with (self._folder / "factory.log").open("a") as log:
            self.factory = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())
        line = self.factory.stdout.readline() if self.factory.stdout else ""
        if not line.startswith("factory "):
            raise EngineError(f"the factory did not start: {(self._folder / 'factory.log').read_text()[-500:]}")
        self.address = line.split()[1]

    def start_device(self, plan: Plan, name: str, token: str) -> None:
        """Start one device agent; a device that ran before goes on from its folder."""
        folder = self._folder / "devices" / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *_fleetmill(),
            *("device", "run", "--factory", self.address, "--line", plan.line.name),
            *("--device-home", str(folder), "--token", token, "--simulator-log", str(folder / "simulator.log")),
        ]
        with (folder / "agent.log").open("ab") as log:
            self.devices[name] = subprocess.Popen(command, stdout=log, stderr=log, env=_environment())

    def ended(self) -> list[str]:
        """Children that ended by themselves, which none should."""
        found = [f"device {n} (exit {p.returncode})" for n, p in self.devices.items() if p.poll() is not None]
        if self.factory is not None and self.factory.poll() is not None:
            found.append(f"the factory (exit {self.factory.returncode})")
        return found

    def stop(self) -> None:
        """End all children and wait for them."""
        running: list[subprocess.Popen[Any]] = [*self.devices.values(), *([self.factory] if self.factory else [])]
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        if self.factory is not None and self.factory.stdout is not None:
            self.factory.stdout.close()


@contextmanager
def open_processes(folder: Path) -> Iterator[Processes]:
    """Children that are ended however this ends."""
    processes = Processes(folder)
    try:
        yield processes
    finally:
        processes.stop()


def write_settings(plan: Plan) -> None:
    """The home's fleetmill.toml for this demo."""
    text = _TOML.format(
        seed=plan.seed,
        line=plan.line.name,
        generations=plan.generations,
        train=_table({**plan.recipe.train, "labels": plan.labels}),
        first=_table(_round(plan, first=True)),
        then=_table(_round(plan, first=False)),
    )
    plan.home.mkdir(parents=True, exist_ok=True)
    (plan.home / "fleetmill.toml").write_text(text)


def invite(plan: Plan, home: Home) -> dict[str, str]:
    """A token per device, numbers in the order of names."""
    root = sha256(home.repository.root())
    names = [f"{plan.line.name}-{n:02d}" for n in range(plan.devices)]
    return {
        n: Token(name=n, secret=roll.invite(home.ledger, n, line=plan.line.name), root_sha256=root).text()
        for n in names
    }


def _round(plan: Plan, *, first: bool) -> Mapping[str, object]:
    asked = plan.recipe.first if first else plan.recipe.then
    return {
        "scenario": asked.scenario,
        "sessions": asked.sessions,
        "seconds": asked.seconds,
        "budget_ratio": asked.budget_ratio,
    }


def _table(values: Mapping[str, object]) -> str:
    return "\n".join(f"{key} = {_value(value)}" for key, value in values.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _fleetmill() -> list[str]:
    return [sys.executable, "-m", "fleetmill.cli"]


def _environment() -> dict[str, str]:
    return {**os.environ, **_QUIET}
