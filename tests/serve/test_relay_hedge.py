"""A second server beside one that is late; a server that has become slow; what may be asked only once."""

from __future__ import annotations

import json

import pytest
import uvloop

from fleetmill.core.serve import Label, Tier
from fleetmill.serve import stream
from fleetmill.serve.words import Tenant
from simulated import Engine, answer_to, stage

CHAT = {"model": "small", "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}
ALWAYS = {"hedge_share": 1.0}


class Purse:
    """Keeps every reservation and what it came to."""

    def __init__(self):
        self.open, self.used = {}, []

    def left(self, tenant, key):
        return None

    async def reserve(self, tenant, key, worst):
        name = str(len(self.open) + len(self.used))
        self.open[name] = worst
        return name

    def settle(self, reservation, used):
        del self.open[reservation]
        self.used.append(dict(used))


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_server_that_does_not_begin_is_outrun_by_a_second_one_and_nothing_of_it_is_billed(is_stream):
    async def run():
        purse = Purse()
        async with stage([Engine("a", faults=[("hang", 0)]), Engine("b")], purse=purse, gateway=ALWAYS) as s:
            s.relay.pool.spoke("b", 0.01)
            found = await s.ask(CHAT | {"stream": is_stream})
            return found, s, purse

    (status, headers, body), s, purse = uvloop.run(run())
    said = stream.spoken(body).text if is_stream else json.loads(body)["choices"][0]["message"]["content"]
    assert (status, headers["x-fleetmill-server"]) == (200, "b")
    assert said == "".join(answer_to("hello", 6))
    assert [x.server for x in s.seen.begun] == ["a", "b"]
    assert sorted((x.server, x.outcome) for x in s.seen.sent) == [("a", "outrun"), ("b", "whole")]
    assert sum(u.get("requests", 0) for u in purse.used) == 1
    assert purse.open == {}
    assert [t["in_flight"] for t in s.relay.pool.tallies().values()] == [0, 0]
    assert s.relay.hedged == 1


def test_the_first_may_still_win_and_no_byte_of_the_second_is_mixed_in():
    async def run(n):
        engines = [Engine("a", first=0.06), Engine("b", first=0.03 * (n % 4))]
        async with stage(engines, gateway=ALWAYS) as s:
            s.relay.pool.spoke("b", 0.5)
            answer = await s.say(f"p{n}", 12)
            return answer, [t["in_flight"] for t in s.relay.pool.tallies().values()], s.relay.hedged

    for n in range(8):
        answer, in_flight, hedged = uvloop.run(run(n))
        assert stream.spoken(answer).text == "".join(answer_to(f"p{n}", 12))
        assert answer.count(b"[DONE]") == 1
        assert len({e["id"] for e in stream.read(answer)}) == 1
        assert (in_flight, hedged) == ([0, 0], 1)


def test_one_that_races_may_fail_and_a_winner_may_die_and_the_answer_is_still_whole():
    async def run(slow, faults):
        engines = [Engine("a", first=slow), *(Engine(n, faults=[f]) for n, f in zip("bc", faults, strict=True))]
        async with stage(engines, gateway=ALWAYS) as s:
            for name, seconds in zip("abc", (0.001, 0.002, 0.3), strict=True):
                s.relay.pool.spoke(name, seconds)
            found = await s.say("hello", 12), [t["in_flight"] for t in s.relay.pool.tallies().values()]
            return *found, [x.outcome for x in s.seen.sent]

    for slow, faults, outcomes in (
        (0.12, [("500", 0), ("", -1)], ["refused_by_server", "whole"]),
        (3600.0, [("die", 5), ("", -1)], ["outrun", "broken", "whole"]),
    ):
        answer, in_flight, found = uvloop.run(run(slow, faults))
        assert stream.spoken(answer).text == "".join(answer_to("hello", 12))
        assert answer.endswith(stream.DONE)
        assert in_flight == [0, 0, 0]
        assert found == outcomes


def test_no_more_than_their_share_of_requests_is_asked_twice():
    async def run():
        async with stage([Engine("a", first=0.06), Engine("b", first=0.06)], gateway={"hedge_share": 0.25}) as s:
            for n in range(16):
                await s.say(f"p{n}", 2)
            return s.relay.hedged, len(s.seen.begun)

    hedged, begun = uvloop.run(run())
    assert hedged <= 4
    assert begun == 16 + hedged


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("fault", ["500", "die", "slow"])
def test_what_a_server_stores_is_asked_once_whatever_fails(path, fault):
    async def run(more):
        faults = [] if fault == "slow" else [(fault, 0)]
        engines = [Engine("a", first=0.08 if fault == "slow" else 0, faults=faults), Engine("b")]
        models = {"models": {"small": _able(path)}}
        async with stage(engines, gateway=ALWAYS, a=models, b=models) as s:
            s.relay.pool.spoke("b", 0.5)
            found = await s.ask(CHAT | more, path=path)
            return found[0], [len(e.seen) for e in engines]

    status, asked = uvloop.run(run({"store": True}))
    assert asked == [1, 0]
    assert status == {"500": 500, "die": 503, "slow": 200}[fault]
    status, asked = uvloop.run(run({"store": False}))
    assert (status, asked) == (200, [1, 1])


def _able(path):
    from fleetmill.core.serve import Served
    from fleetmill.serve.asked import WANTS

    return Served(model="m", template="t", capabilities=frozenset({WANTS[path]}))


def test_a_label_holds_for_the_second_one_too():
    async def run():
        engines = [Engine("own", first=0.1), Engine("partner")]
        async with stage(engines, partner={"tier": Tier.PARTNER}, gateway=ALWAYS) as s:
            answers = [
                await s.ask(CHAT | {"stream": True}, headers={"x-fleetmill-label": label})
                for label in ("premises", "open")
            ]
            return [a[0] for a in answers], len(engines[1].seen), s.relay.hedged

    assert uvloop.run(run()) == ([200, 200], 0, 0)  # no farther than the first, even if it might


def test_a_server_that_has_become_slow_is_left_alone_and_comes_back_when_it_is_not():
    async def run():
        engines = [Engine("a"), Engine("b", first=0.6)]  # it always was: that is no reason to leave it alone
        tenant = Tenant(name="t", label=Label.OPEN, consent=True)
        async with stage(engines, tenant=tenant, gateway={"hedge_share": 0.0}) as s:
            now = [0.0]
            s.relay.pool._clock = lambda: now[0]
            for n in range(5):
                await s.say(f"p{n}", 2)
            engines[0].first = 0.5
            before = len(engines[0].seen)
            while not s.relay.pool.standings()["a"].is_ejected:
                await s.say("slow", 2)
            asked = len(engines[0].seen) - before
            await s.say("else", 2)
            left_alone = len(engines[0].seen) - before - asked
            now[0] = 1.5  # one request tries it; it is slow still
            await s.say("try", 2)
            still = s.relay.pool.standings()["a"].is_ejected
            now[0], engines[0].first = 9.0, 0.0
            await s.say("again", 2)
            return asked, left_alone, still, s.relay.pool.standings()["a"].is_ejected, s.relay.pool.tallies()

    asked, left_alone, still, after, tallies = uvloop.run(run())
    assert asked <= 5
    assert left_alone == 0
    assert still
    assert not after
    assert tallies["a"]["failed"] == 0
