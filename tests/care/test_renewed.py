"""New keys and a renewed root, as real devices see them: they follow, and nobody has to touch them."""

from __future__ import annotations

from house import confirmed

from fleetmill import loop
from fleetmill.care.renewal import renew
from fleetmill.release.keys import ONLINE
from fleetmill.release.trust import LIFE_NS
from fleetmill.testing import tiny_line


def test_devices_follow_to_new_keys_and_take_the_next_release(grown):
    for role in ONLINE:
        (grown.settings.home / "keys" / f"{role}.pem").unlink()

    done = renew(grown.settings, now_ns=grown.clock(), replace=ONLINE)
    turned = grown.round()

    assert (done.root, done.replaced) == (2, ONLINE)
    with grown.open() as (home, _):
        counter = turned.release.counter
        assert [c for c in confirmed(home) if c[1] == counter] == [(d, counter) for d in grown.names]


def test_after_root_expired_devices_run_on_and_take_nothing_until_it_is_renewed(grown):
    grown.clock.now_ns += LIFE_NS["root"]
    with grown.open() as (home, client):
        home.repository.refresh_timestamp(now_ns=grown.clock())  # the factory goes on signing the rest
        newest = loop.turn(home, tiny_line).release.counter
        before = confirmed(home)
        runs = {name: grown.once(name, client).running.counter for name in grown.names}
        refused = {
            f.record["report"]["device"]
            for f in home.ledger.read(kind="deployment")
            if f.record["report"]["state"] == "refused" and "expired" in f.record["report"]["reason"]
        }
        assert confirmed(home) == before
    assert refused == set(grown.names)
    assert set(runs.values()) == {newest - 1}

    renew(grown.settings, now_ns=grown.clock())
    with grown.open() as (home, client):
        assert {grown.once(name, client).running.counter for name in grown.names} == {newest}
