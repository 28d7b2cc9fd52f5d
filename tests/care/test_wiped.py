"""``rm -rf`` of a home and a new one at its address: what devices then do. Real agents, real doors."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from house import Fleet, confirmed

from fleetmill import loop
from fleetmill.core.errors import TrustError
from fleetmill.core.ids import sha256
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol, read_enrolled
from fleetmill.home import init_home
from fleetmill.receive import roll
from fleetmill.testing import tiny_line


class Killed(BaseException):
    """Stands for a power cut."""


@pytest.fixture
def orphans(grown):
    """Devices that run a release and hold a session that nobody took; their home is gone, a new one is there."""
    with grown.open() as (home, client):
        assert loop.turn(home, tiny_line).release.counter == 3
        for name in grown.names:
            with open_agent(grown.folder / name, tiny_line, client=client, clock=grown.clock) as agent:
                agent.uploader._client = Dying(client)
                with pytest.raises(Killed):
                    agent.once()
    shutil.copytree(grown.settings.home, grown.folder / "copy")
    shutil.rmtree(grown.settings.home)
    (grown.folder / "home-root-key.pem").rename(grown.folder / "old-root-key.pem")
    init_home(grown.settings, now_ns=grown.clock())
    return grown


class Dying:
    """The line is cut at the first upload."""

    def __init__(self, client):
        self._client = client

    def request(self, method, path, **more):
        if method == "PUT":
            raise Killed
        return self._client.request(method, path, **more)


def state(fleet, name):
    """What a device runs and what it still holds."""
    with open_agent(fleet.folder / name, tiny_line, client=None, clock=fleet.clock) as agent:
        return agent.running.counter, agent.policy is not None, [b.session for b in agent.spool.sessions()]


def waiting(fleet):
    return {name: state(fleet, name) for name in fleet.names}


def test_devices_refuse_a_new_home_at_the_old_address_and_keep_model_and_recordings(orphans):
    before = waiting(orphans)
    with orphans.open() as (home, client):
        for name in orphans.names:
            with pytest.raises(TrustError, match=f"device '{name}': is not enrolled"):
                orphans.once(name, client)
        assert home.ledger.head()[0] == 0

    assert waiting(orphans) == before
    assert {counter for counter, _, _ in before.values()} == {3}
    assert all(runs and spooled for _, runs, spooled in before.values())


def test_a_device_asks_on_without_ending(orphans, monkeypatch):
    said, waits = [], []
    monkeypatch.setattr("fleetmill.device.agent.time.sleep", waits.append)  # it would wait for real seconds
    with (
        orphans.open() as (_, client),
        open_agent(orphans.folder / "d0", tiny_line, client=client, clock=orphans.clock, say=said.append) as agent,
    ):
        agent.forever(stop=lambda: len(waits) >= 3)
        assert agent.running.counter == 3

    assert len(said) == 3
    assert all("is not enrolled; again in" in line for line in said)


def test_even_where_requests_pass_they_refuse_the_list_and_run_what_they_ran(orphans):
    """Somebody who knows the devices' public keys enters them in the new home: what it signs is not theirs to take."""
    before = waiting(orphans)
    with orphans.open() as (home, client):
        for name in orphans.names:
            secret = roll.invite(home.ledger, name, line="tiny")
            with open_agent(orphans.folder / name, tiny_line, client=client, clock=orphans.clock) as agent:
                public = agent.uploader._identity.public_key
            roll.enrol(home.ledger, name=name, secret=secret, public_key=public, hardware="cpu")
        loop.start(home, tiny_line)
        for name in orphans.names:
            orphans.once(name, client)
        told = [f.record["report"] for f in home.ledger.read(kind="deployment")]

    assert {name: found[:2] for name, found in waiting(orphans).items()} == {n: f[:2] for n, f in before.items()}
    refused = [r for r in told if r["state"] == "refused"]
    assert {r["device"] for r in refused} == set(orphans.names)
    assert all("not signed by enough of the right keys" in r["reason"] for r in refused)


def test_with_the_copy_of_the_old_home_back_everything_arrives(orphans):
    with orphans.open() as (_, client):
        for name in orphans.names:
            with pytest.raises(TrustError):
                orphans.once(name, client)
    shutil.rmtree(orphans.settings.home)
    shutil.copytree(orphans.folder / "copy", orphans.settings.home)

    turned = orphans.round()

    assert turned.number == 3
    assert all(spooled == [] for _, _, spooled in waiting(orphans).values())
    with orphans.open() as (home, _):
        assert home.books.faults() == home.books.verify() == []
        assert len([c for c in confirmed(home) if c[1] == turned.release.counter]) == 3


def test_enrolled_anew_in_a_fresh_folder_a_device_begins_anew_and_the_old_folder_keeps_what_it_held(orphans):
    held = waiting(orphans)
    fresh = Fleet(replace(orphans.settings), orphans.folder / "fresh", orphans.clock, names=("e0", "e1", "e2"))
    fresh.enrol()

    turned = fresh.round()

    assert turned.number == 0
    assert waiting(orphans) == held


def test_a_token_of_the_new_home_does_not_move_an_enrolled_device(orphans):
    with orphans.open() as (home, client):
        token = Token(
            name="d0", secret=roll.invite(home.ledger, "d0", line="tiny"), root_sha256=sha256(home.repository.root())
        )
        me = read_enrolled(orphans.folder / "d0")
        assert enrol(orphans.folder / "d0", token, factory="http://factory", hardware="cpu", client=client) == me
