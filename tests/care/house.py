"""A small living home for the tests of living with one, and where the one of format 1 lies."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

from fleetmill import loop
from fleetmill.api.door import make_app
from fleetmill.core.ids import sha256
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol, read_token
from fleetmill.home import open_home
from fleetmill.receive import roll
from fleetmill.settings import CampaignSettings, LineSettings, TurnWhen, read_settings
from fleetmill.testing import in_process, tiny_line

ARCHIVE = Path(__file__).parents[1] / "golden" / "home-v1" / "home.tar.xz"
V1_NS = 1_795_319_000 * 10**9  # a moment after which the archive was made
ASKED = LineSettings(
    turn_when=TurnWhen(sessions=0),
    first_campaign=CampaignSettings(scenario="default", seconds=3.0, budget_ratio=1.0),
    campaign=CampaignSettings(scenario="field", seconds=6.0, budget_ratio=0.35),
)


def find(name):
    """The one line there is."""
    return tiny_line


def old_settings(old):
    """As its file says, in today's words."""
    return read_settings(home=old / "home", environment={})


class Fleet:
    """Three devices of one factory, in this process."""

    def __init__(self, settings, folder, clock, names=("d0", "d1", "d2")):
        self.settings, self.folder, self.clock, self.names = settings, folder, clock, names

    @contextmanager
    def open(self):
        """(home, client of its front door)."""
        with (
            open_home(self.settings, clock=self.clock) as home,
            in_process(make_app(home, find=find)) as client,
        ):
            yield home, client

    def enrol(self):
        """Everybody, and the first campaign."""
        with self.open() as (home, client):
            root = sha256(home.repository.root())
            for name in self.names:
                token = Token(name=name, secret=roll.invite(home.ledger, name, line="tiny"), root_sha256=root)
                enrol(
                    self.folder / name,
                    read_token(token.text()),
                    factory="http://factory",
                    hardware="cpu",
                    client=client,
                )
            loop.start(home, tiny_line)

    def round(self, *, turn=True):
        """Everybody does what can be done, the loop turns, everybody takes what came of it. The turn."""
        with self.open() as (home, client):
            for name in self.names:
                self.once(name, client)
            turned = loop.turn(home, tiny_line) if turn else None
            for name in self.names if turned else ():
                self.once(name, client)
            return turned

    def once(self, name, client):
        """One device does what can be done now. The agent, closed."""
        with open_agent(self.folder / name, tiny_line, client=client, clock=self.clock) as agent:
            agent.once()
            return agent


def confirmed(home):
    """(device, release) of every confirmation."""
    reports = [f.record["report"] for f in home.ledger.read(kind="deployment")]
    return sorted((r["device"], r["release_counter"]) for r in reports if r["state"] == "confirmed")
