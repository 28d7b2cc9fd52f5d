"""Real processes on loopback: a factory and its devices, that a test may kill, and wait for with a deadline."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fleetmill.core.line import Round
from fleetmill.demo.fleet import Plan, invite, open_processes, write_settings
from fleetmill.home import init_home, open_home
from fleetmill.lines import find
from fleetmill.seams.processes import family, is_alive
from fleetmill.settings import read_settings

AUDIT = Path(__file__).parents[2] / "scripts" / "audit.py"
LINE = find("arm")
SECONDS = LINE.recipe.then.seconds
SMALL = replace(
    LINE.recipe,
    devices=3,
    first=Round(scenario="default", sessions=2, seconds=SECONDS, budget_ratio=1.0),
    then=Round(scenario="field", sessions=2, seconds=SECONDS, budget_ratio=0.6),
    train={"steps": 500},
)


def until(condition, what, seconds=240.0, pause=0.01):
    """Poll until `condition` gives something, which is given back; fail at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(pause)
    return found


def children(pid):
    """Process ids of everything that a process started."""
    return family(pid)[1:]


class Town:
    """A factory on the small arm, three devices, and eyes on the ledger."""

    def __init__(self, plan, home, processes, tokens):
        self.plan, self.home, self.processes, self.tokens = plan, home, processes, tokens

    def facts(self, kind):
        return list(self.home.ledger.read(kind=kind))

    def start(self, names=None):
        self.processes.start_factory(self.plan)
        for name in names or self.tokens:
            self.processes.start_device(self.plan, name, self.tokens[name])

    def kill_factory(self):
        """kill -9; when this returns, its loop is gone too."""
        factory = self.processes.factory
        loops = children(factory.pid)
        factory.kill()
        factory.wait()
        factory.stdout.close()
        until(lambda: not any(map(is_alive, loops)), "the loop's end", 5.0)
        return loops

    def restart_factory(self):
        port = int(self.processes.address.rpartition(":")[2])
        self.processes.start_factory(self.plan, port=port)

    def kill_device(self, name):
        self.processes.devices[name].kill()
        self.processes.devices[name].wait()

    def restart_device(self, name):
        self.processes.start_device(self.plan, name, self.tokens[name])

    def simulated(self, name):
        """How many instants the device's simulator has begun."""
        log = self.plan.folder / "devices" / name / "simulator.log"
        return log.read_text().count("\n") if log.exists() else 0

    def last_words(self):
        """The end of every log."""
        return {str(path): path.read_text()[-300:] for path in sorted(self.plan.folder.rglob("*.log"))}

    def wait_for(self, condition, what):
        """Until `condition`, while every process lives."""

        def watched():
            assert self.processes.ended() == [], self.last_words()
            return condition()

        until(watched, what, pause=0.3)

    def wait_for_models(self, number):
        """Until so many turns have trained; then everything stops, whatever it was doing."""
        self.wait_for(lambda: len(self.facts("run")) == number, "the last training")
        self.processes.stop()

    def digests(self):
        """What each turn is known by: its dataset and its model."""
        return [(f.record["dataset"], f.record["model"]) for f in self.facts("run")]

    def check_books(self):
        """Books, chain, command line and audit agree; the audit's last line."""
        assert self.home.books.faults() == []
        assert self.home.books.verify() == []
        assert self.home.ledger.verify() == self.home.ledger.head()[0]
        books = subprocess.run(
            [sys.executable, "-m", "fleetmill.cli", "books", "--verify", "--home", str(self.plan.home)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert (books.returncode, books.stderr) == (0, "")
        period_ns = round(1e9 / LINE.model.rate_hz)
        audit = subprocess.run(
            [sys.executable, str(AUDIT), str(self.plan.folder), "--period-ns", str(period_ns)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert audit.returncode == 0, audit.stdout + audit.stderr
        return audit.stdout.strip().splitlines()[-1]


@contextmanager
def open_town(folder, *, generations=2, recipe=SMALL):
    """The processes are ended however the test ends."""
    plan = Plan(
        line=LINE,
        recipe=recipe,
        generations=generations,
        devices=recipe.devices,
        seed=7,
        labels="oracle",
        folder=folder,
    )
    folder.mkdir(exist_ok=True)
    write_settings(plan)
    settings = read_settings(home=plan.home)
    init_home(settings, now_ns=time.time_ns())
    with open_home(settings, own=False) as home:
        tokens = invite(plan, home)
        with open_processes(folder) as processes:
            yield Town(plan, home, processes, tokens)
