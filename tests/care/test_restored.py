"""A home that is put back from an older copy: what comes again, what is gone, and how devices believe it again."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest
from house import Fleet, confirmed

from fleetmill import loop
from fleetmill.care.renewal import AHEAD, go_ahead
from fleetmill.device.agent import open_agent
from fleetmill.home import open_home
from fleetmill.testing import tiny_line


@pytest.fixture
def restored(grown):
    """A fleet that has lived and got a release since the copy was made that its home was put back from."""
    shutil.copytree(grown.settings.home, grown.folder / "copy")
    assert grown.round().release.counter == 3
    shutil.rmtree(grown.settings.home)
    shutil.copytree(grown.folder / "copy", grown.settings.home)
    return grown


def once(fleet):
    """What each device said of the list that it was offered."""
    with fleet.open() as (home, client):
        for name in fleet.names:
            fleet.once(name, client)
        reports = [f.record["report"] for f in home.ledger.read(kind="deployment")]
        assert home.books.faults() == home.books.verify() == []
        return {r["device"]: r["reason"] for r in reports if r["state"] == "refused"}


def test_devices_do_not_believe_a_list_that_is_older_than_what_they_saw(restored):
    refused = once(restored)

    assert set(refused) == set(restored.names)
    assert all("rolled back" in reason for reason in refused.values())


def test_with_higher_numbers_the_fleet_believes_again_and_what_is_gone_shows_in_the_books(restored):
    once(restored)
    told = go_ahead(restored.settings, now_ns=restored.clock())
    released = restored.round().release.counter

    # what was asked of these three before the copy was put back is not lived twice: a fourth device gets the line going
    newcomer = Fleet(restored.settings, restored.folder, restored.clock, names=("d3",))
    newcomer.enrol()
    assert newcomer.round() is None
    restored.clock.forward(2 * 3600.0)
    assert newcomer.round().number == 3
    turned = Fleet(restored.settings, restored.folder, restored.clock, names=(*restored.names, "d3")).round()

    with restored.open() as (home, _):
        gone = {b.device for b in home.books.balances() if b.account == "sent"}
        assert home.books.faults() == home.books.verify() == []
        assert [c for c in confirmed(home) if c[1] == released] == [(d, released) for d in (*restored.names, "d3")]
    assert (told.root, turned.number) == (1, 4)
    assert released == AHEAD + 3  # the copy knew of two
    assert gone == {0, 1, 2}


def test_a_copy_of_a_running_home_with_the_ledger_first_is_whole(grown):
    copy = grown.folder / "copy"
    copy.mkdir()
    with grown.open() as (home, client):
        with (
            closing(sqlite3.connect(grown.settings.home / "ledger.db")) as old,
            closing(sqlite3.connect(copy / "ledger.db")) as new,
        ):
            old.backup(new)
        loop.turn(home, tiny_line)  # the factory goes on while the rest is copied
        with open_agent(grown.folder / "d0", tiny_line, client=client, clock=grown.clock) as agent:
            agent.once()
        shutil.copytree(
            grown.settings.home,
            copy,
            ignore=shutil.ignore_patterns("ledger.db*", "home.lock", ".lock"),
            dirs_exist_ok=True,
        )
    shutil.rmtree(grown.settings.home)
    copy.rename(grown.settings.home)

    with open_home(grown.settings, clock=grown.clock) as home:
        assert home.ledger.verify() == home.ledger.head()[0]
        assert home.books.faults() == home.books.verify() == []
        assert all(home.blobs.has(f.key) for f in home.ledger.read(kind="recording"))
        assert loop.turn(home, tiny_line).number == 2
