"""What is learned of a server: how fast it reads, what it has read, how many it can take at once, that it is slow."""

from __future__ import annotations

import random

import pytest

from fleetmill.core.serve import Ask, Label, Served, Server, Tier
from fleetmill.serve.learned import Learned
from fleetmill.serve.pool import Pool

BOX = Server(
    name="a", tier=Tier.PREMISES, engine="x", address="http://a:1", models={"small": Served(model="m")}, capacity=8
)
ASK = Ask(tenant="t", key="k", model="small", label=Label.OPEN, tokens_in=1000)


def pool_of(*names, capacity=8):
    now = [0.0]
    made = [
        Server(name=n, tier=Tier.PREMISES, engine="x", address="http://a:1", models=BOX.models, capacity=capacity)
        for n in names
    ]
    return Pool(made, clock=lambda: now[0]), now


def test_how_fast_a_server_reads_is_learned_and_what_waits_to_be_read_counts():
    pool, _ = pool_of("a")
    chance = random.Random(1)
    for _ in range(60):
        ask = Ask(tenant="t", key="k", model="small", label=Label.OPEN, tokens_in=chance.randrange(10, 4000))
        seat = pool.began("a", ask)
        pool.spoke("a", 0.05 + ask.tokens_in / 2000, seat)
        pool.ended(seat, good=True, tokens=9, seconds=1.0)

    assert pool.standings(ASK)["a"].first_token_seconds == pytest.approx(0.55, rel=0.05)
    pool.began("a", ASK)  # its thousand tokens are read before
    assert pool.standings(ASK)["a"].first_token_seconds == pytest.approx(1.05, rel=0.05)


def test_what_a_server_has_read_before_it_need_not_read_again():
    pool, _ = pool_of("a", "b")
    ask = Ask(
        tenant="t", key="k", model="small", label=Label.OPEN, tokens_in=4096, prefix=("one", "two", "four", "eight")
    )
    seat = pool.began(
        "a", Ask(tenant="t", key="k", model="small", label=Label.OPEN, tokens_in=700, prefix=("one", "two"))
    )
    pool.ended(seat, good=True)

    found = pool.standings(ask)
    assert found["a"].hit == pytest.approx(2048 / (3 * 4096))
    assert found["b"].hit == 0.0


def engine(at_once, pool, asks, clock):
    """A server that makes `at_once` answers of a second each; the others wait inside it. What it is given at most."""
    free, most = [0.0] * at_once, []
    open_ones = []
    for _ in range(asks):
        clock[0] += 0.01
        while pool.free():
            seat = pool.began("a", ASK)
            begins = max(min(free), clock[0])
            free[free.index(min(free))] = begins + 1.0
            open_ones.append((begins + 0.1, begins + 1.0, clock[0], seat))
        most.append(len(open_ones))
        clock[0] = min(o[1] for o in open_ones)
        for first, end, asked, seat in sorted(open_ones, key=lambda o: o[0]):
            if first <= clock[0]:
                pool.spoke("a", first - asked, seat)
            if end <= clock[0]:
                pool.ended(seat, good=True, tokens=20, seconds=end - asked)
        open_ones = [o for o in open_ones if o[1] > clock[0]]
    return most


@pytest.mark.parametrize("at_once", [2, 4, 8])
def test_nothing_waits_inside_an_engine_for_long_whatever_its_capacity_is_said_to_be(at_once):
    pool, clock = pool_of("a", capacity=8)
    pool.ended(pool.began("a", ASK), good=True)
    seat = pool.began("a", ASK)
    pool.spoke("a", 0.1, seat)
    pool.ended(seat, good=True, tokens=20, seconds=1.0)

    most = engine(at_once, pool, 400, clock)[-200:]

    assert at_once * 0.9 <= sum(most) / len(most) <= at_once + 1.1
    assert max(most) <= 8


def test_a_limit_is_never_above_the_capacity_nor_below_one():
    learned, chance = Learned(4), random.Random(3)
    for _ in range(3000):
        seconds = chance.choice([0.1, 0.1, 5.0])
        learned.spoke(at_once=False, in_flight=chance.randrange(1, 5), tokens=9, seconds=seconds, predicted=0.1)
        assert 1.0 <= learned.limit <= 4.0


def test_all_servers_slow_at_once_are_not_left_alone_and_half_of_them_at_most():
    def answered(pool, name, seconds):
        seat = pool.began(name, ASK)
        pool.spoke(name, seconds, seat)
        pool.ended(seat, good=True, tokens=20, seconds=seconds + 1)

    names = "abcd"
    pool, _ = pool_of(*names)
    for _ in range(10):
        for name in names:
            answered(pool, name, 0.1)
    for _ in range(3):
        for name in names:
            answered(pool, name, 3.0)
    together = [pool.standings()[n].is_ejected for n in names]
    assert together == [False] * 4

    pool, _ = pool_of(*names)
    for name in names * 10:
        answered(pool, name, 0.1)
    for name in "abc":
        for _ in range(4):
            answered(pool, name, 3.0)
    assert [pool.standings()[n].is_ejected for n in names] == [True, True, False, False]


def test_a_server_whose_words_have_become_slow_is_left_alone_too():
    pool, _ = pool_of("a", "b")
    for n in range(12):
        for name in "ab":
            seat = pool.began(name, ASK)
            pool.spoke(name, 0.1, seat)
            pool.ended(seat, good=True, tokens=20, seconds=0.3 if name == "b" or n < 8 else 20.0)

    assert [pool.standings()[n].is_ejected for n in "ab"] == [True, False]


def test_what_comes_of_requests_from_before_a_server_was_left_alone_changes_nothing():
    pool, now = pool_of("a", "b")
    old = [pool.began("a", ASK) for _ in range(8)]
    for seat in old:
        pool.ended(seat, good=False)
    now[0] = 1.1  # a second, and no more

    assert not pool.standings()["a"].is_ejected
    probe = pool.began("a", ASK)
    assert pool.standings()["a"].is_ejected  # one request tries it
    pool.ended(probe, good=True)
    assert not pool.standings()["a"].is_ejected
