"""The demo's processes: one factory and many devices on loopback, started, watched, ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
from fleetmill.seams import processes

_QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TOML = """# Written by `fleetmill demo`.
seed = {seed}
port = 0
poll_seconds = 10.0

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
    calm: bool = False  # no accidents
    data: Path | None = None  # recordings to replay, where the line has no world; None: the line makes some up

    @property
    def home(self) -> Path:
        """The factory's home."""
        return self.folder / "home"

    @property
    def names(self) -> list[str]:
        """Its devices."""
        return [f"{self.line.name}-{n:02d}" for n in range(self.devices)]

    @property
    def recordings(self) -> Path | None:
        """Where what is replayed lies, a folder per device; None: the fleet lives in the line's world."""
        return self.folder / "recordings" if self.line.world is None else None

    @property
    def training(self) -> Mapping[str, object]:
        """Settings that the fleet's models train with."""
        learner = self.recipe.asking.learner if self.recipe.asking else {}
        return {**self.recipe.train, **self.recipe.demo_train, **learner}

    @property
    def controls(self) -> Path:
        """Where the control's models lie."""
        return self.folder / "control"


class Processes:
    """Children of the demo; their output goes to log files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.factory: subprocess.Popen[str] | None = None
        self.devices: dict[str, subprocess.Popen[bytes]] = {}
        self.servers: dict[str, subprocess.Popen[str]] = {}  # where people ask: the larger model's engine, the gateway
        self.address = ""
        self.gateway, self.key = "", ""

    def start_factory(self, plan: Plan, *, port: int = 0) -> None:
        """Start `fleetmill up` and wait for its address.

        Raises:
            EngineError: it ended instead; its last words are in the message.
        """
        words = [*command(), "up", "--home", str(plan.home), "--port", str(port)]
        with (self._folder / "factory.log").open("a") as log:
            self.factory = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())
        line = self.factory.stdout.readline() if self.factory.stdout else ""
        if not line.startswith("factory "):
            raise EngineError(f"the factory did not start: {(self._folder / 'factory.log').read_text()[-500:]}")
        self.address = line.split()[1]

    def start_server(self, name: str, words: Sequence[str]) -> str:
        """Start a server that says its address in the first line, as ``name address``; the address.

        Raises:
            EngineError: it ended instead; its last words are in the message.
        """
        with (self._folder / f"{name}.log").open("a") as log:
            child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())
        self.servers[name] = child
        said = (child.stdout.readline() if child.stdout else "").split()
        if len(said) < 2:
            raise EngineError(f"{name} did not start: {(self._folder / f'{name}.log').read_text()[-500:]}")
        return said[1]

    def kill_factory(self) -> float:
        """SIGKILL; CPU seconds that it had used. When this returns its loop is gone too."""
        assert self.factory is not None
        family = processes.family(self.factory.pid)
        used = sum(map(processes.cpu_seconds, family[1:]))  # nobody waits for these: their time would be lost
        self.factory.kill()
        self.factory.wait()
        if self.factory.stdout is not None:
            self.factory.stdout.close()
        while any(map(processes.is_alive, family)):
            time.sleep(0.01)
        return used

    def kill_device(self, name: str) -> None:
        """SIGKILL."""
        self.devices[name].kill()
        self.devices[name].wait()

    def start_device(self, plan: Plan, name: str, token: str, *, factory: str = "") -> None:
        """Start one device agent; a device that ran before goes on from its folder."""
        folder = self._folder / "devices" / name
        folder.mkdir(parents=True, exist_ok=True)
        words = [
            *command(),
            *("device", "run", "--factory", factory or self.address, "--line", plan.line.name),
            *("--device-home", str(folder), "--token", token, "--simulator-log", str(folder / "simulator.log")),
            *(("--replay", str(plan.recordings / name)) if plan.recordings else ()),
            *(("--gateway", self.gateway) if self.gateway else ()),
        ]
        with (folder / "agent.log").open("ab") as log:
            environment = {**_environment(), **({"FLEETMILL_KEY": self.key} if self.key else {})}
            self.devices[name] = subprocess.Popen(words, stdout=log, stderr=log, env=environment)

    def ended(self) -> list[str]:
        """Children that ended by themselves, which none should."""
        found = [f"device {n} (exit {p.returncode})" for n, p in self.devices.items() if p.poll() is not None]
        if self.factory is not None and self.factory.poll() is not None:
            found.append(f"the factory (exit {self.factory.returncode})")
        found += [f"the {n} (exit {p.returncode})" for n, p in self.servers.items() if p.poll() is not None]
        return found

    def stop(self) -> None:
        """End all children and wait for them."""
        running: list[subprocess.Popen[Any]] = [
            *self.devices.values(),
            *([self.factory] if self.factory else []),
            *reversed(self.servers.values()),
        ]
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def open_processes(folder: Path) -> Iterator[Processes]:
    """Children that are ended however this ends."""
    children = Processes(folder)
    try:
        yield children
    finally:
        children.stop()


def write_settings(plan: Plan, *, more: str = "") -> None:
    """The home's fleetmill.toml for this demo; `more` stands at its end."""
    text = _TOML.format(
        seed=plan.seed,
        line=plan.line.name,
        generations=plan.generations,
        train=_table({**plan.training, "labels": plan.labels}),
        first=_table(_round(plan, first=True)),
        then=_table(_round(plan, first=False)),
    )
    plan.home.mkdir(parents=True, exist_ok=True)
    (plan.home / "fleetmill.toml").write_text(text + more)


def invite(plan: Plan, home: Home) -> dict[str, str]:
    """A token per device, numbers in the order of names."""
    root = sha256(home.repository.root())
    return {
        n: Token(name=n, secret=roll.invite(home.ledger, n, line=plan.line.name), root_sha256=root).text()
        for n in plan.names
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


def command() -> list[str]:
    """What starts this very installation's command line."""
    return [sys.executable, "-m", "fleetmill.cli"]


def _environment() -> dict[str, str]:
    return {**os.environ, **_QUIET}
