"""Waiting at the gateway: nothing waits inside an engine, nobody waits in vain, and a label holds there too."""

from __future__ import annotations

import asyncio
import json

import uvloop

from fleetmill.core.serve import Label, Tier
from fleetmill.serve import stream
from fleetmill.serve.words import Tenant
from simulated import KEY, Engine, answer_to, stage

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
CHAT = {"model": "small", "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}
LONG = CHAT | {"stream": True, "max_tokens": 400}
ONE = {"capacity": 1}


async def until(true):
    """A moment later, when it is true."""
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


async def open_stream(s, body, prompt=None):
    """A client that has begun to ask and reads nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
    data = json.dumps(body if prompt is None else body | {"messages": [{"role": "user", "content": prompt}]}).encode()
    writer.write(HEAD % (KEY.encode(), len(data)) + data)
    return reader, writer


def test_what_has_no_room_waits_at_the_gateway_and_is_answered_when_there_is_some():
    async def run():
        async with stage([Engine("a", first=0.01), Engine("b", first=0.01)], a={"capacity": 2}, b=ONE) as s:
            found = await asyncio.gather(*(s.say(f"p{n}", 8) for n in range(12)))
            return found, [e.most for e in s.engines], s.relay.waiting, s.relay.pool.tallies()

    found, most, waiting, tallies = uvloop.run(run())
    assert [stream.spoken(a).text for a in found] == ["".join(answer_to(f"p{n}", 8)) for n in range(12)]
    assert most[0] <= 2
    assert most[1] <= 1
    assert waiting == 0
    assert [t["in_flight"] for t in tallies.values()] == [0, 0]


def test_who_would_be_late_is_told_at_once_and_no_engine_is_asked():
    async def run():
        async with stage([Engine("a", first=0.05)], a=ONE) as s:
            await s.ask(CHAT)  # so that it is known how long an answer takes
            _, writer = await open_stream(s, LONG)
            await until(lambda: s.engines[0].open == 1)
            early = await s.ask(CHAT, headers={"x-fleetmill-deadline-ms": "20"})
            seen = len(s.engines[0].seen)
            writer.close()
            return early, seen

    (status, headers, body), seen = uvloop.run(run())
    assert status == 503
    assert json.loads(body)["error"]["code"] == "late"
    assert int(headers["retry-after"]) >= 1
    assert seen == 2


def test_a_deadline_that_passes_while_it_waits_is_said_and_the_place_is_free():
    async def run():
        async with stage([Engine("a", delay=0.01)], a=ONE) as s:
            _, writer = await open_stream(s, LONG)
            await until(lambda: s.engines[0].open == 1)
            found = await s.ask(CHAT, headers={"x-fleetmill-deadline-ms": "150"})  # nothing is known: it may wait
            writer.close()
            return found, len(s.engines[0].seen), s.relay.waiting

    (status, _, body), seen, waiting = uvloop.run(run())
    assert (status, seen, waiting) == (503, 1, 0)
    assert json.loads(body)["error"]["code"] == "late"


def test_a_full_queue_and_none_at_all_refuse_with_a_time_to_come_back():
    async def run(waiting):
        async with stage([Engine("a", delay=0.01)], a=ONE, gateway={"waiting": waiting}) as s:
            clients = [await open_stream(s, LONG) for _ in range(1 + waiting)]
            await until(lambda: s.engines[0].open == 1 and s.relay.waiting == waiting)
            found = await s.ask(CHAT)
            for _, writer in clients:
                writer.close()
            return found

    for waiting in (0, 2):
        status, headers, body = uvloop.run(run(waiting))
        assert status == 429
        assert json.loads(body)["error"]["code"] == "busy"
        assert int(headers["retry-after"]) >= 1


def test_a_client_that_hangs_up_while_it_waits_or_before_the_first_byte_leaves_nothing_behind():
    async def run():
        async with stage([Engine("a", first=0.3)], a=ONE) as s:
            first = await open_stream(s, LONG)
            await until(lambda: s.engines[0].open == 1)
            second = await open_stream(s, LONG)
            await until(lambda: s.relay.waiting == 1)
            second[1].close()
            await until(lambda: s.relay.waiting == 0)
            first[1].close()
            await until(lambda: s.seen.sent)
            found = [x.outcome for x in s.seen.sent], len(s.engines[0].seen), s.relay.pool.tallies()["a"]["in_flight"]
            whole = await s.ask(CHAT)
            return found, whole[0]

    assert uvloop.run(run()) == ((["client_left"], 1, 0), 200)


def test_clients_that_leave_at_every_moment_leave_every_place_free():
    async def run():
        async with stage([Engine("a", delay=0.001)], a={"capacity": 2}) as s:
            for n in range(30):
                clients = [await open_stream(s, LONG, f"p{n}") for _ in range(6)]
                await asyncio.sleep(0.0007 * (n % 7))
                for _, writer in clients:
                    writer.close()
            await until(lambda: s.relay.pool.tallies()["a"]["in_flight"] == 0 and not s.relay.waiting)
            return await s.say("hello", 8), s.engines[0].most

    answer, most = uvloop.run(run())
    assert stream.spoken(answer).text == "".join(answer_to("hello", 8))
    assert most <= 4  # an engine hears a little later that a client left


def test_overflow_goes_to_a_partner_only_if_the_label_allows_it_else_it_waits():
    async def run(label):
        engines = [Engine("own", delay=0.005), Engine("partner")]
        async with stage(engines, own=ONE, partner={"tier": Tier.PARTNER}) as s:
            busy = asyncio.ensure_future(s.say("one", 20))
            await until(lambda: s.engines[0].open == 1)
            found = await s.ask(CHAT, headers={"x-fleetmill-label": label})
            await busy
            return found[1]["x-fleetmill-server"], len(engines[1].seen), s.relay.egress.opened

    assert uvloop.run(run("open"))[:2] == ("partner", 1)
    server, seen, opened = uvloop.run(run("premises"))
    assert (server, seen) == ("own", 0)
    assert "partner" not in opened


def test_an_answer_that_broke_off_waits_for_a_server_that_is_full():
    async def run():
        engines = [Engine("a", faults=[("die", 5)]), Engine("b", delay=0.005)]
        async with stage(engines, a=ONE, b=ONE) as s:
            s.relay.pool.spoke("b", 0.5)
            broken, busy = asyncio.ensure_future(s.say("one", 40)), asyncio.ensure_future(s.say("two", 40))
            late = [asyncio.ensure_future(s.say(f"late{n}", 4)) for n in range(3)]
            return await broken, await busy, await asyncio.gather(*late)

    broken, busy, late = uvloop.run(run())
    assert stream.spoken(broken).text == "".join(answer_to("one", 40))
    assert stream.spoken(busy).text == "".join(answer_to("two", 40))
    assert [stream.spoken(a).text for a in late] == ["".join(answer_to(f"late{n}", 4)) for n in range(3)]
    assert broken.endswith(stream.DONE)


def test_a_deadline_is_for_the_first_token_and_what_has_begun_goes_on_after_it():
    async def run():
        async with stage([Engine("a", delay=0.05, faults=[("die", 8)]), Engine("b")]) as s:
            s.relay.pool.spoke("b", 0.1)
            body = {"model": "small", "stream": True, "max_tokens": 12}
            body["messages"] = [{"role": "user", "content": "hello"}]
            return await s.ask(body, headers={"x-fleetmill-deadline-ms": "250"}), [x.outcome for x in s.seen.sent]

    (_, _, answer), outcomes = uvloop.run(run())
    assert stream.spoken(answer).text == "".join(answer_to("hello", 12))
    assert outcomes == ["broken", "whole"]


def test_who_lets_others_go_before_does_and_nobody_can_push_in():
    async def run():
        async with stage([Engine("a", first=0.05)], a=ONE, gateway={"waiting": 8}) as s:
            low = {"x-fleetmill-priority": "low"}
            _, writer = await open_stream(s, LONG)
            await until(lambda: s.engines[0].open == 1)
            asked = [asyncio.ensure_future(s.ask(CHAT | {"user": "low"}, headers=low))]
            await until(lambda: s.relay.waiting == 1)
            asked.append(asyncio.ensure_future(s.ask(CHAT | {"user": "normal"})))
            await until(lambda: s.relay.waiting == 2)
            writer.close()
            found = [status for status, _, _ in await asyncio.gather(*asked)]
            order = [a.get("user") for a in s.engines[0].seen[1:]]
            return found, order, (await s.ask(CHAT, headers={"x-fleetmill-priority": "high"}))[0]

    assert uvloop.run(run()) == ([200, 200], ["normal", "low"], 400)


def test_a_deadline_that_a_client_sets_too_short_is_no_failure_of_the_server():
    async def run():
        async with stage([Engine("a", first=0.1), Engine("b", first=0.1)]) as s:
            found = [await s.ask(CHAT, headers={"x-fleetmill-deadline-ms": "10"}) for _ in range(5)]
            return [json.loads(b)["error"]["code"] for _, _, b in found], s.relay.pool.tallies(), s.seen.sent

    codes, tallies, sent = uvloop.run(run())
    assert codes == ["late"] * 5
    assert [(t["failed"], t["ejected"], t["in_flight"]) for t in tallies.values()] == [(0, 0, 0)] * 2
    assert {x.outcome for x in sent} == {"late"}


def test_a_budget_that_does_not_reach_gives_its_place_back():
    class Empty:
        def left(self, tenant, key):
            return None

        async def reserve(self, tenant, key, worst):
            return None

    async def run():
        async with stage([Engine("a")], a=ONE, purse=Empty(), tenant=Tenant(name="t", label=Label.OPEN)) as s:
            found = [json.loads((await s.ask(CHAT))[2])["error"]["code"] for _ in range(3)]
            return found, s.relay.pool.tallies()["a"]["in_flight"], s.seen.begun

    assert uvloop.run(run()) == (["insufficient_quota"] * 3, 0, [])
