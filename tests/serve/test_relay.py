"""The relay: bytes as they came, another server where one fails, never a false end, and nothing against the rule."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
import uvloop

from fleetmill.core.serve import Label, Tier
from fleetmill.serve import stream
from fleetmill.serve.egress import Egress, EgressRefusedError
from fleetmill.serve.words import Tenant
from simulated import KEY, Engine, answer_to, server_of, stage

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
CHAT = {"model": "small", "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}


def text(events: bytes) -> str:
    return stream.spoken(events).text


def test_an_answer_in_pieces_comes_as_it_was_said():
    async def run():
        async with stage([Engine("a")]) as s:
            answer = await s.say("hello", 12, stream_options={"include_usage": True})
            return answer, s.seen.sent

    answer, sent = uvloop.run(run())
    assert text(answer) == "".join(answer_to("hello", 12))
    assert answer.endswith(stream.DONE)
    assert answer.count(b"[DONE]") == 1
    assert [(s.outcome, s.tokens_in, s.tokens_out, s.resumed) for s in sent] == [("whole", 7, 12, 0)]


def test_an_answer_at_once_comes_byte_for_byte_with_who_gave_it():
    async def run():
        async with stage([Engine("a")]) as s:
            return await s.ask(CHAT), s.seen.sent

    (status, headers, body), sent = uvloop.run(run())
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "".join(answer_to("hello", 6))
    assert headers["x-fleetmill-server"] == "a"
    assert headers["x-request-id"] == sent[0].request
    assert (sent[0].tokens_in, sent[0].tokens_out, sent[0].used["money"]) == (7, 6, 7 + 12)


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({}, ("premises", "true")),
        ({"tier": Tier.PARTNER}, ("partner", "false")),
        ({"tier": Tier.PARTNER, "may_train": True, "contract": "no. 7"}, ("partner", "true")),
    ],
)
def test_a_whole_answer_says_from_how_far_it_comes_and_whether_one_may_learn_from_it(server, says):
    async def run():
        async with stage([Engine("a")], a=server) as s:
            return (await s.ask(CHAT))[1], (await s.ask({**CHAT, "stream": True}))[1]

    whole, pieces = uvloop.run(run())
    assert (whole["x-fleetmill-tier"], whole["x-fleetmill-may-train"]) == says
    assert "x-fleetmill-may-train" not in pieces  # it may go on elsewhere


@pytest.mark.parametrize("fault", ["die", "tear", "error", "short", "stall"])
@pytest.mark.parametrize("path", ["chat", "completions"])
def test_a_stream_that_breaks_off_goes_on_elsewhere_and_says_so(fault, path):
    async def run():
        async with stage([Engine("a", faults=[(fault, 5)]), Engine("b", faults=[(fault, 3)]), Engine("c")]) as s:
            for name in "ab":  # the first two are asked before the third
                s.relay.pool.spoke(name, 0.001)
            s.relay.pool.spoke("c", 0.2)
            if path == "chat":
                answer = await s.say("hello", 12)
            else:
                body = {"model": "small", "stream": True, "max_tokens": 12, "prompt": "hello|"}
                _, _, answer = await s.ask(body, path="/v1/completions")
            return answer, s.seen.sent

    answer, sent = uvloop.run(run())
    events = list(stream.read(answer))
    assert text(answer) == "".join(answer_to("hello" if path == "chat" else "hello|", 12))
    assert answer.endswith(stream.DONE)
    assert len({e["id"] for e in events}) == 1
    assert events[-1]["fleetmill"] == {"resumed": 2}
    assert sum("role" in (e["choices"][0].get("delta") or {}) for e in events) == (path == "chat")
    assert [s.outcome for s in sent] == ["broken", "broken", "whole"]
    assert sum(s.tokens_out for s in sent) <= 12 + 4  # nobody is paid for another's words


def test_what_cannot_go_on_ends_with_an_error_and_without_an_end():
    async def run(**more):
        async with stage([Engine("a", faults=[("die", 5)]), Engine("b")]) as s:
            s.relay.pool.spoke("b", 0.5)
            return await s.say("hello", 12, **more)

    for more in ({"logprobs": True}, {"tools": [{"type": "function"}]}, {"response_format": {"type": "json_object"}}):
        answer = uvloop.run(run(**more))
        assert b"[DONE]" not in answer
        assert list(stream.read(answer))[-1]["error"]["code"] == "broken_off"


def test_nobody_left_to_go_on_is_said():
    async def run():
        async with stage([Engine("a", faults=[("die", 5)])]) as s:
            return await s.say("hello", 12)

    answer = uvloop.run(run())
    assert b"[DONE]" not in answer
    assert list(stream.read(answer))[-1]["error"]["code"] == "broken_off"


def test_another_model_or_template_does_not_go_on_with_it():
    async def run():
        other = {"models": {"small": server_of(Engine("x")).models["small"].__class__(model="m", template="t2")}}
        async with stage([Engine("a", faults=[("die", 5)]), Engine("b")], b=other) as s:
            s.relay.pool.spoke("b", 0.5)
            return await s.say("hello", 12), len(s.engines[1].seen)

    answer, asked = uvloop.run(run())
    assert b"[DONE]" not in answer
    assert asked == 0


def test_retries_have_a_budget_so_that_failing_servers_do_not_get_twice_the_load():
    async def run():
        engines = [Engine(name, faults=[("500", 0)] * 99) for name in "ab"]
        async with stage(engines) as s:
            for _ in range(40):
                s.relay.pool.__init__([server_of(e) for e in engines], clock=lambda: 0.0)  # nobody is left alone
                status, headers, _ = await s.ask(CHAT)
                assert (status, headers["retry-after"]) == (503, "2")
            return sum(len(e.seen) for e in engines)

    assert uvloop.run(run()) <= 40 + 10 + 4 + 1


@pytest.mark.parametrize("fault", ["500", "die"])
def test_before_the_first_byte_another_server_is_asked(fault):
    async def run():
        async with stage([Engine("a", faults=[(fault, 0)]), Engine("b")]) as s:
            s.relay.pool.spoke("b", 0.5)
            return await s.ask(CHAT), [x.outcome for x in s.seen.sent]

    (status, headers, body), outcomes = uvloop.run(run())
    assert status == 200
    assert headers["x-fleetmill-server"] == "b"
    assert json.loads(body)["choices"][0]["message"]["content"] == "".join(answer_to("hello", 6))
    assert outcomes[-1] == "whole"
    assert len(outcomes) == 2


def test_a_server_that_fails_three_times_is_left_alone():
    async def run():
        async with stage([Engine("a", faults=[("500", 0)] * 9), Engine("b")]) as s:
            s.relay.pool.spoke("b", 0.5)
            found = [(await s.ask(CHAT))[0] for _ in range(8)]
            return found, len(s.engines[0].seen)

    statuses, asked = uvloop.run(run())
    assert statuses == [200] * 8
    assert asked == 3


def test_a_client_that_leaves_ends_the_engines_work():
    async def run():
        engine = Engine("a", delay=0.02)
        async with stage([engine]) as s:
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
            body = json.dumps(CHAT | {"stream": True, "max_tokens": 500}).encode()
            writer.write(HEAD % (KEY.encode(), len(body)) + body)
            await reader.readuntil(b"data: ")
            writer.close()
            for _ in range(100):
                if s.seen.sent:
                    break
                await asyncio.sleep(0.02)
            return s.seen.sent, s.relay.pool.tallies()

    sent, tallies = uvloop.run(run())
    assert [x.outcome for x in sent] == ["client_left"]
    assert tallies["a"]["in_flight"] == 0
    assert sent[0].tokens_out < 500


def test_a_label_keeps_a_request_from_a_partner_whatever_fails():
    async def run():
        partner = {"tier": Tier.PARTNER}
        engines = [Engine("own", faults=[("die", 5)] * 50), Engine("partner")]
        async with stage(engines, partner=partner) as s:
            answers = []
            for label in ("premises", "device", "open"):
                body = CHAT | {"stream": True, "max_tokens": 12}
                answers.append(await s.ask(body, headers={"x-fleetmill-label": label}))
            return answers, len(s.engines[1].seen), s.relay.egress.opened, s.relay.egress.refused

    answers, asked, opened, refused = uvloop.run(run())
    assert b"broken_off" in answers[0][2]
    assert answers[1][0] == 403
    assert text(answers[2][2]) == "".join(answer_to("hello", 12))
    assert asked == 1
    assert opened["partner"] == 1
    assert refused == 0


def test_the_socket_itself_refuses_what_the_policy_should_have():
    async def run():
        egress = Egress()
        server = server_of(Engine("p"), tier=Tier.PARTNER, address="http://127.0.0.1:9")
        for label, consent in ((Label.PREMISES, True), (Label.OPEN, False), (Label.DEVICE, True)):
            with pytest.raises(EgressRefusedError):
                await egress.send(server, "/v1/x", b"secret words", label=label, consent=consent)
        return egress

    egress = uvloop.run(run())
    assert egress.refused == 3
    assert egress.opened == {}


def test_what_cannot_be_recorded_is_not_sent():
    async def run():
        async with stage([Engine("a")]) as s:
            s.seen.fault = "the disk is full"
            return await s.ask(CHAT), len(s.engines[0].seen)

    (status, _, body), asked = uvloop.run(run())
    assert (status, asked) == (503, 0)
    assert b"cannot be recorded" in body


def test_a_fault_of_ours_settles_what_was_reserved_and_cuts_the_answer():
    async def run():
        async with stage([Engine("a")]) as s:
            s.relay._turn = None  # planted
            before = s.relay.pool.tallies()["a"]["in_flight"]
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
            body = json.dumps(CHAT | {"stream": True}).encode()
            writer.write(HEAD % (KEY.encode(), len(body)) + body)
            answer = await reader.read()
            writer.close()
            return answer, before, s.relay.pool.tallies()["a"]["in_flight"], [x.outcome for x in s.seen.sent]

    answer, before, after, outcomes = uvloop.run(run())
    assert b"[DONE]" not in answer
    assert (before, after, outcomes) == (0, 0, ["client_left"])


def test_a_conversation_keeps_its_highest_label():
    async def run():
        async with stage([Engine("partner")], partner={"tier": Tier.PARTNER}) as s:
            talk = {"x-fleetmill-conversation": "c1"}
            return [
                (await s.ask(CHAT, headers=talk))[0],
                (await s.ask(CHAT, headers=talk | {"x-fleetmill-label": "premises"}))[0],
                (await s.ask(CHAT, headers=talk))[0],
                (await s.ask(CHAT, headers={"x-fleetmill-conversation": "c2"}))[0],
            ]

    assert uvloop.run(run()) == [200, 403, 403, 200]


def test_a_detector_raises_the_label():
    async def run():
        tenant = Tenant(name="t", label=Label.OPEN, consent=True, detectors=("email", "card", "iban", "secret"))
        async with stage([Engine("partner")], tenant=tenant, partner={"tier": Tier.PARTNER}) as s:
            said = [
                "hello",
                "mail anna.b@example.org",
                "4111 1111 1111 1111",
                "4111 1111 1111 1112",
                "DE89 3704 0044 0532 0130 00",
            ]
            return [(await s.ask(CHAT | {"messages": [{"role": "user", "content": words}]}))[0] for words in said]

    assert uvloop.run(run()) == [200, 403, 403, 200, 403]


BAD = [
    (b"{", 400, "no JSON"),
    (b"[]", 400, "object"),
    (b'{"model": 3}', 400, "model"),
    (b'{"model": "small", "max_tokens": -1}', 400, "max_tokens"),
    (b'{"model": "huge", "messages": []}', 404, "no server has model"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD)
def test_bad_input_gets_one_clear_line(body, status, words):
    async def run():
        async with stage([Engine("a")]) as s:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\nconnection: close\r\n"
            return await s.send(head % KEY.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)

    head, _, rest = uvloop.run(run()).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert words in json.loads(rest)["error"]["message"]


def test_without_a_key_nothing_is_answered():
    async def run():
        async with stage([Engine("a")]) as s:
            return await s.ask(CHAT, key="sk-other"), len(s.engines[0].seen)

    (status, _, body), asked = uvloop.run(run())
    assert (status, asked) == (401, 0)
    assert b"no such API key" in body


SMUGGLED = {
    "a length beside chunks": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a length with a sign": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
    "a blank before the colon": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\nabcd",
    "a folded header": b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n Content-Length: 4\r\n\r\n",
    "chunked twice": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a bad chunk": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a line feed alone": b"GET /health HTTP/1.1\nHost: x\n\n",
    "a request behind a request": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "too long a head": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "too long a body": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("what", sorted(SMUGGLED))
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_ends(what):
    async def run():
        async with stage([Engine("a")]) as s:
            return await s.send(SMUGGLED[what]), len(s.engines[0].seen)

    answer, asked = uvloop.run(run())
    assert int(answer.split()[1]) in (400, 413, 431)
    assert asked == 0
    assert answer.count(b"HTTP/1.1 200") == 0


def test_a_client_that_reads_slowly_holds_the_server_back():
    async def run():
        async with stage([Engine("a")], stall_seconds=5) as s:
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port, limit=4096)
            body = json.dumps(CHAT | {"stream": True, "max_tokens": 20_000}).encode()
            writer.write(HEAD % (KEY.encode(), len(body)) + body)
            most = 0
            got = b""
            while b"[DONE]" not in got[-64:]:
                got += await reader.read(65536)
                held = [connection.unread for connection in list(s.front)]
                most = max([most, *held])
                await asyncio.sleep(0.0005)
            writer.close()
            return most, len(got)

    most, whole = uvloop.run(run())
    assert whole > 3_000_000
    assert most < 1_000_000


def test_a_thousand_deaths_at_random_moments_lose_nothing_and_end_nothing_early():
    """A thousand deaths, up to three of one answer; engines honour the protocol."""
    chance = random.Random(7)

    async def one(s, prompt, kills):
        answer = await s.say(prompt, 16)
        return text(answer) == "".join(answer_to(prompt, 16)), answer.count(b"[DONE]"), kills

    async def run():
        engines = [Engine(name) for name in "abcd"]
        async with stage(engines) as s:
            found = []
            batch = 0
            while sum(x.outcome == "broken" for x in s.seen.sent) < 1000:
                batch += 1
                for engine in engines:
                    engine.faults = []
                first = chance.sample(engines, k=3)
                for engine in first:
                    engine.faults = [
                        (chance.choice(["die", "tear", "error", "short"]), chance.randrange(16)) for _ in range(20)
                    ]
                s.relay.pool.__init__([server_of(e) for e in engines], clock=lambda: 0.0)
                found += await asyncio.gather(*(one(s, f"p{batch}-{n}", 0) for n in range(20)))
            return found, [x.outcome for x in s.seen.sent]

    found, outcomes = uvloop.run(run())
    assert outcomes.count("broken") >= 1000
    assert all(done == 1 for same, done, _ in found if same)
    lost = [f for f in found if not f[0]]
    assert lost == []
