"""kill -9 of a factory and of devices at random moments: nothing is lost in silence, and the turn comes to its end."""

from __future__ import annotations

import random
import time

import pytest
from town import children, is_alive, until

pytestmark = pytest.mark.slow


def test_the_order_of_arrival_changes_no_digest(town, undisturbed):
    town.start(reversed(town.tokens))
    town.wait_for_models(2)

    assert len({dataset for dataset, _ in undisturbed}) == len({model for _, model in undisturbed}) == 2
    assert town.digests() == undisturbed
    town.check_books()


def test_a_killed_factory_ends_in_the_same_digests(town, undisturbed):
    chance = random.Random(20)

    def after(kind, number):
        return lambda: len(town.facts(kind)) >= number

    moments = {
        "uploading": after("recording", chance.randint(1, 5)),
        "training": lambda: any((town.plan.home / "runs").glob("*")) or town.facts("run"),
        "judging": after("run", 1),
        "publishing": after("verdict", 1),
        "uploading again": after("session", 6 + chance.randint(1, 3)),
    }
    town.start()
    for what, is_there in moments.items():
        until(is_there, what)
        time.sleep(chance.uniform(0.0, 0.3))  # not a wait for anything: any moment after will do
        assert town.kill_factory(), "the loop was not running"
        town.restart_factory()
    town.wait_for_models(2)

    reports = [f.record["report"] for f in town.facts("deployment")]
    assert {(r["state"], r["reason"]) for r in reports} == {("confirmed", "healthy")}  # else other models lived
    assert town.digests() == undisturbed
    assert "0 crashes" in town.check_books()


def test_a_factory_killed_while_its_loop_is_starting_leaves_no_orphan(town):
    chance = random.Random(3)
    for _ in range(3):
        town.processes.start_factory(town.plan)
        loops = until(lambda: children(town.processes.factory.pid), "the loop")
        time.sleep(chance.uniform(0.0, 0.5))
        town.kill_factory()

        until(lambda loops=loops: not any(map(is_alive, loops)), "the loop's end", 20.0)


def test_killed_devices_lose_a_tail_that_the_books_name_and_the_turn_ends(town):
    chance = random.Random(5)
    town.start()
    for name in town.tokens:
        begun = chance.randint(3, 25)
        until(lambda name=name, begun=begun: town.simulated(name) >= begun, f"{name}'s life")
        town.kill_device(name)
        town.restart_device(name)
    town.wait_for(lambda: town.facts("turn_ended"), "the first turn")
    first = next(iter(town.tokens))
    lived = town.simulated(first)
    until(lambda: town.simulated(first) > lived + 3, "a life under the first model")
    town.kill_device(first)
    town.restart_device(first)
    town.wait_for_models(2)

    told = town.check_books()
    crashed = [f.record["manifest"] for f in town.facts("session") if f.record["manifest"]["ended"] == "crash"]
    tails = [f.record for f in town.facts("moved") if f.record["reason"] == "crash"]
    assert crashed
    assert f"{len(crashed)} crashes" in told
    assert [(t["source"], t["to"], t["bytes"], t["end_ns"] - t["start_ns"]) for t in tails] == [
        ("lived", "dropped", 0, 40_000_000)
    ] * len(crashed)
    assert len(town.facts("verdict")) >= 1
    assert all(f.record["report"]["state"] == "confirmed" for f in town.facts("deployment"))
