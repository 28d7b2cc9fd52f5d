"""A finished little demo: three devices that live and one that was imported, three turns, the last one held."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from fleetmill import loop
from fleetmill.api.door import make_app
from fleetmill.core.ids import sha256
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol, read_token
from fleetmill.home import init_home, open_home
from fleetmill.receive import imports, roll
from fleetmill.settings import CampaignSettings, LineSettings, Settings
from fleetmill.testing import in_process, tiny_file, tiny_line, tiny_model

ASKED = LineSettings(
    first_campaign=CampaignSettings(scenario="default", seconds=3.0, budget_ratio=1.0),
    campaign=CampaignSettings(scenario="field", seconds=6.0, budget_ratio=0.6),
)
NAMES = ("d0", "d1", "d2")


def settings(folder, *, sessions=1, ratio=0.6):
    """Of a factory whose campaigns ask so many sessions of each device and let it keep that share."""
    first = replace(ASKED.first_campaign, sessions=sessions)
    asked = replace(
        ASKED, first_campaign=first, campaign=replace(ASKED.campaign, sessions=sessions, budget_ratio=ratio)
    )
    return Settings(home=folder / "home", lines={"tiny": asked}, poll_seconds=0.0)


class Fleet:
    """Devices and their factory in this process."""

    def __init__(self, home, client, folder, line):
        self.home, self.client, self.folder, self.line = home, client, folder, line

    def enrol(self, *names):
        root = sha256(self.home.repository.root())
        for name in names:
            secret = roll.invite(self.home.ledger, name, line="tiny")
            token = read_token(Token(name=name, secret=secret, root_sha256=root).text())
            enrol(self.folder / name, token, factory="http://factory", hardware="cpu", client=self.client)

    def everyone_once(self, world=None):
        """Each device does what there is to do; `world`: one for all, or one by device."""
        for name in NAMES:
            lived = world.get(name) if isinstance(world, dict) else world
            with open_agent(
                self.folder / name, self.line, client=self.client, clock=self.home.clock, world=lived
            ) as agent:
                agent.once()

    def bring(self, *seeds, device="old"):
        folder = self.folder / "in"
        folder.mkdir(exist_ok=True)
        for seed in seeds:
            path = folder / f"s{seed}.tiny.json"
            path.write_bytes(tiny_file(seed))
            imports.import_path(self.home.ledger, self.home.books, self.home.blobs, tiny_line, path, device=device)


@contextmanager
def open_fleet(folder, *, line=tiny_line, **asked):
    """A new factory with its fleet, nothing lived yet."""
    with ExitStack() as stack:
        init_home(settings(folder), now_ns=time.time_ns())
        home = stack.enter_context(open_home(settings(folder, **asked)))
        client = stack.enter_context(in_process(make_app(home, find=lambda name: line)))
        fleet = Fleet(home, client, folder, line)
        fleet.enrol(*NAMES)
        loop.start(home, line)
        yield fleet


def bad_training(job, tracker):
    """A candidate that no gate lets through."""
    tracker.step(1, 1, {"loss": 9.0, "rows.oracle": 1.0})
    return {"model.onnx": tiny_model(np.array([9, 9, 9], np.float32)), "weights.bin": b""}


def live_through(fleet):
    """Three turns: accepted, accepted, held; a device has imports in the first and the last."""
    fleet.bring(0, 1, 2)
    fleet.everyone_once()
    turned = [loop.turn(fleet.home, tiny_line)]
    fleet.everyone_once()
    turned.append(loop.turn(fleet.home, tiny_line))
    fleet.everyone_once()
    fleet.bring(3)
    turned.append(loop.turn(fleet.home, replace(tiny_line, train=bad_training)))
    fleet.everyone_once()
    return turned


@contextmanager
def copied(finished, folder):
    """A copy of the finished home, opened, to be spoiled."""
    shutil.copytree(finished, folder / "home")
    with open_home(settings(folder)) as home:
        yield home
