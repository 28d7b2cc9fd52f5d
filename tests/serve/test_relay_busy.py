"""A server that says itself that it is full: another one is asked, and it is left alone for as long as it said."""

from __future__ import annotations

import json
import time

import pytest
import uvloop

from fleetmill.core.serve import Served, Tier
from fleetmill.serve import stream
from fleetmill.serve.learned import Learned
from fleetmill.serve.pool import Pool
from simulated import Engine, answer_to, server_of, stage

CHAT = {"model": "small", "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}


def first(s, *names):
    """So that they are asked in this order."""
    for at, name in enumerate(names):
        s.relay.pool.spoke(name, 0.001 + 0.2 * at)


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("status", ["429", "503"])
def test_another_server_is_asked_and_nothing_is_held_against_the_full_one_or_billed(status, is_stream):
    async def run():
        async with stage([Engine("a", faults=[(status, 7)]), Engine("b")]) as s:
            first(s, "a", "b")
            return await s.ask(CHAT | {"stream": is_stream}), s.seen.sent, s.relay.pool.tallies()

    (status, headers, body), sent, tallies = uvloop.run(run())
    said = stream.spoken(body).text if is_stream else json.loads(body)["choices"][0]["message"]["content"]
    assert (status, headers["x-fleetmill-server"], said) == (200, "b", "".join(answer_to("hello", 6)))
    assert [(x.server, x.outcome) for x in sent] == [("a", "busy"), ("b", "whole")]
    assert sent[0].used == {}
    assert (tallies["a"]["failed"], tallies["a"]["in_flight"], tallies["a"]["ejected"]) == (0, 0, 0)


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    ("faults", "told"), [(("429", "503"), (429, "5", "busy")), (("503", "429"), (503, "5", "down"))]
)
def test_when_none_is_left_the_client_is_told_and_when_the_first_of_them_may_be_asked_again(faults, told, is_stream):
    async def run():
        engines = [Engine("a", faults=[(faults[0], 5)]), Engine("b", faults=[(faults[1], 9)])]
        async with stage(engines) as s:
            first(s, "a", "b")
            return await s.ask(CHAT | {"stream": is_stream}), [len(e.seen) for e in engines]

    (status, headers, body), asked = uvloop.run(run())
    assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == told
    assert asked == [1, 1]


def test_it_is_left_alone_for_as_long_as_it_said_but_a_minute_at_most():
    async def run(said):
        engines = [Engine("a", faults=[("429", said)]), Engine("b")]
        async with stage(engines, b={"tier": Tier.PARTNER}) as s:  # farther: it is asked only in need
            now, asked = [0.0], []
            s.relay.pool._clock = lambda: now[0]
            for at in (0.0, 0.5, 6.5, 7.5, 59.0, 61.0):
                now[0] = at
                await s.ask(CHAT)
                asked.append(len(engines[0].seen))
            return asked

    assert uvloop.run(run(0)) == [1, 1, 2, 3, 4, 5]  # it said nothing: a second
    assert uvloop.run(run(7)) == [1, 1, 1, 2, 3, 4]
    assert uvloop.run(run(3600)) == [1, 1, 1, 1, 1, 2]


def test_who_comes_meanwhile_waits_for_it_if_it_is_in_time_and_is_told_at_once_if_not():
    async def run(said, deadline_ms):
        engine = Engine("a", faults=[("429", said)])
        async with stage([engine]) as s:
            before = await s.ask(CHAT)
            began = time.monotonic()
            after = await s.ask(CHAT, headers={"x-fleetmill-deadline-ms": str(deadline_ms)})
            return before, after, time.monotonic() - began, len(engine.seen)

    before, after, seconds, asked = uvloop.run(run(1, 20_000))
    assert (before[0], before[1]["retry-after"]) == (429, "1")
    assert (after[0], asked) == (200, 2)
    assert seconds > 0.5
    _, after, seconds, asked = uvloop.run(run(30, 20_000))
    assert (after[0], json.loads(after[2])["error"]["code"], asked) == (429, "busy", 1)
    assert 25 <= int(after[1]["retry-after"]) <= 30


def test_a_label_holds_when_the_own_server_is_full():
    async def run(label):
        engines = [Engine("own", faults=[("429", 5)]), Engine("partner")]
        async with stage(engines, partner={"tier": Tier.PARTNER}) as s:
            return (await s.ask(CHAT, headers={"x-fleetmill-label": label}))[0], len(engines[1].seen)

    assert uvloop.run(run("premises")) == (429, 0)
    assert uvloop.run(run("open")) == (200, 1)


def test_full_servers_do_not_get_twice_the_load():
    async def run():
        engines = [Engine(name, faults=[("429", 1)] * 99) for name in "ab"]
        async with stage(engines) as s:
            statuses = set()
            for _ in range(40):
                s.relay.pool.__init__([server_of(e) for e in engines], clock=lambda: 0.0)  # nobody is left alone
                statuses.add((await s.ask(CHAT))[0])
            return statuses, sum(len(e.seen) for e in engines)

    statuses, asked = uvloop.run(run())
    assert statuses == {429}
    assert asked <= 40 + 10 + 4 + 1


def test_an_answer_that_broke_off_passes_over_a_full_server():
    async def run():
        engines = [Engine("a", faults=[("die", 5)]), Engine("b", faults=[("429", 5)]), Engine("c")]
        async with stage(engines) as s:
            first(s, "a", "b", "c")
            return await s.say("hello", 12), [(x.server, x.outcome) for x in s.seen.sent]

    answer, sent = uvloop.run(run())
    assert stream.spoken(answer).text == "".join(answer_to("hello", 12))
    assert answer.endswith(stream.DONE)
    assert sent == [("a", "broken"), ("b", "busy"), ("c", "whole")]


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_a_server_stores_is_asked_once_and_its_own_words_are_handed_on(is_stream):
    async def run():
        models = {"models": {"small": Served(model="m", capabilities=frozenset({"responses"}))}}
        engines = [Engine("a", faults=[("429", 5)]), Engine("b")]
        async with stage(engines, a=models, b=models) as s:
            first(s, "a", "b")
            return await s.ask(CHAT | {"stream": is_stream}, path="/v1/responses"), len(engines[1].seen)

    (status, headers, body), asked = uvloop.run(run())
    assert (status, headers["retry-after"], asked) == (429, "5", 0)
    assert json.loads(body)["error"]["message"] == "full"


def test_a_full_server_gets_a_fifth_fewer_at_once_whoever_was_under_way_and_more_again_as_it_answers():
    now = [0.0]
    pool = Pool([server_of(Engine("a"), capacity=10)], clock=lambda: now[0])
    seats = [pool.began("a") for _ in range(10)]
    for seat in seats:
        pool.refused(seat, 3)
        pool.ended(seat, good=None)
    assert (pool.tallies()["a"]["limit"], pool.free(), pool.pause("a")) == (8, set(), 3.0)
    now[0] = 3.0
    assert (pool.free(), pool.pause("a")) == ({"a"}, 0.0)
    for _ in range(9):
        pool.ended(pool.began("a"), good=True, tokens=1, seconds=0.1)
    assert pool.tallies()["a"]["limit"] == 9
    for _ in range(30):
        pool.ended(pool.began("a"), good=True, tokens=1, seconds=0.1)
    assert pool.tallies()["a"]["limit"] == 10


def test_a_server_that_is_always_full_still_gets_one():
    learned = Learned(4)
    for _ in range(50):
        learned.refused(1)
    assert learned.limit == 1.0
