"""`/v1/responses` for engines that have no such path: the SDK's own types, streams that break off, tools, refusals."""

from __future__ import annotations

import asyncio
import json
import threading

import openai
import orjson
import pytest

from fleetmill.core.serve import Served
from fleetmill.serve.asked import Conversations, read_job
from fleetmill.serve.http import Connection, Request
from fleetmill.serve.responses import Said, take_whole, to_chat
from fleetmill.serve.responses_stream import Events, Responses
from fleetmill.serve.words import Tenant
from simulated import KEY, Engine, OneKey, answer_to, stage

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


class Tooled(Engine):
    """An engine that calls a tool, in pieces or at once, and says what it was told of it."""

    async def handle(self, request, reply):
        asked = json.loads(request.body)
        self.seen.append(asked)
        last = asked["messages"][-1]
        if last["role"] == "tool":
            text = f"it is {last['content']}"
            message = {"role": "assistant", "content": text}
            body = {"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            reply.whole(200, orjson.dumps(body))
            return
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        pieces = [{"tool_calls": [call]}]
        pieces += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"at":', '"sea"}')]
        reply.begin(200, kind=b"text/event-stream")
        for n, delta in enumerate(pieces):
            finish = "tool_calls" if n == 2 else None
            event = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            reply.piece(b"data: " + orjson.dumps(event) + b"\n\n")
        reply.piece(b"data: [DONE]\n\n")
        reply.end()


class Town:
    """Engines and a gateway with `/v1/responses` in a thread of its own."""

    def __init__(self, engines, **changes):
        self._engines, self._changes, self._up = engines, changes, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self):
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with stage(self._engines, **self._changes) as made:
            for name, seconds in zip("abc", (0.001, 0.01, 0.1)):
                made.relay.pool.spoke(name, seconds)
            door = Responses(made.relay, OneKey(Tenant(name="t")))
            connections: set[Connection] = set()
            server = await self._loop.create_server(lambda: Connection(door.handle, connections), "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._up.set()
            await self._stop.wait()
            server.close()
            for connection in list(connections):
                connection.cut()

    def __enter__(self):
        self._thread.start()
        assert self._up.wait(10)
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0)

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def test_a_response_at_once_and_in_pieces_is_what_a_chat_says():
    wanted = "".join(answer_to("hello", 9))
    with Town([Engine("a")]) as client, client:
        found = client.responses.create(model="small", input="hello", max_output_tokens=9, instructions="be brief")
        with client.responses.stream(model="small", input="hello", max_output_tokens=9) as stream:
            events = list(stream)
    kinds, final = [event.type for event in events], events[-1].response

    assert found.output_text == final.output_text == wanted
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")  # it ended by length
    assert (found.usage.input_tokens, found.usage.output_tokens) == (7, 9)
    assert (final.usage.output_tokens, final.store) == (9, False)
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]


def test_a_response_that_broke_off_twice_is_one_response():
    with Town([Engine("a", faults=[("die", 4)]), Engine("b", faults=[("stall", 2)]), Engine("c")]) as client, client:
        events = list(client.responses.create(model="small", input="hello", max_output_tokens=12, stream=True))

    assert events[-1].response.output_text == "".join(answer_to("hello", 12))
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_response_that_cannot_go_on_has_failed_and_is_not_short():
    with Town([Engine("a", faults=[("die", 4)])]) as client, client:
        events = list(client.responses.create(model="small", input="hello", max_output_tokens=12, stream=True))

    assert events[-1].type == "response.failed"
    assert "failed in the middle" in events[-1].response.error.message


def test_a_tool_is_called_and_its_output_taken():
    with Town([Tooled("a")]) as client, client:
        events = list(client.responses.create(model="small", input="where?", tools=[WEATHER], stream=True))
        call = events[-1].response.output[0]
        assert (call.type, call.name, call.arguments, call.call_id) == (
            "function_call",
            "weather",
            '{"at":"sea"}',
            "call_1",
        )
        assert [e.delta for e in events if e.type == "response.function_call_arguments.delta"] == ['{"at":"sea"}']
        told = [
            {"role": "user", "content": "where?"},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"at":"sea"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "stormy"},
        ]
        found = client.responses.create(model="small", input=told, tools=[WEATHER])

    assert found.output_text == "it is stormy"
    assert found.status == "completed"


def test_what_a_chat_cannot_say_is_refused_by_name_and_never_repeated():
    engine = Engine("a")
    with Town([engine]) as client, client:
        for name, value in {
            "previous_response_id": "resp_secret",
            "background": True,
            "store": True,
            "tools": [{"type": "web_search"}],
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "secret"}]}],
            "reasoning": {"effort": "high"},
        }.items():
            asked = {"model": "small", "input": "secret", name: value}
            with pytest.raises(openai.BadRequestError, match=f"{name}|content") as told:
                client.responses.create(**asked)
            assert "secret" not in str(told.value)
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="huge", input="hello")
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="sk-wrong").responses.create(model="small", input="hello", store=True)
    assert engine.seen == []


def test_where_every_server_has_the_path_it_goes_through_as_it_came():
    class Native(Engine):
        async def handle(self, request, reply):
            self.seen.append(json.loads(request.body))
            reply.whole(200, orjson.dumps({"id": "resp_own", "object": "response", "output": [], "model": "m"}))

    engine = Native("a")
    own = {"models": {"small": Served(model="m", capabilities=frozenset({"chat", "responses"}))}}
    with Town([engine], a=own) as client, client:
        assert client.responses.create(model="small", input="hello", store=True).id == "resp_own"
    assert engine.seen[0]["input"] == "hello"


def test_every_field_has_its_place():
    asked = {
        "model": "m",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}
        ],
        "instructions": "i",
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "name": "weather"},
        "metadata": {"k": "v"},
        "store": False,
        "truncation": "disabled",
    }
    assert to_chat(asked) == {
        "model": "m",
        "temperature": 0.5,
        "messages": [{"role": "system", "content": "i"}, {"role": "system", "content": "ab"}],
        "tools": [
            {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": False}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
    }


def test_an_empty_answer_is_an_empty_message_whole_and_in_pieces():
    whole, pieces = (Said(id="1", created=1, asked={"model": "m"}) for _ in range(2))
    take_whole(whole, {"model": "m", "choices": [{"message": {"content": ""}, "finish_reason": "stop"}]})
    events = Events(pieces)
    events.take(b'data: {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n')
    assert b"response.completed" in events.end()
    assert pieces.response() == whole.response()
    assert whole.output()[0]["content"][0]["text"] == ""


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_longest_answer_is_known_by_each_of_its_names(name):
    body = orjson.dumps({"model": "small", "input": "x", name: 7})
    request = Request(method="POST", path="/v1/responses", headers={}, body=body)
    assert read_job(request, Tenant(name="t"), "k", Conversations()).ask.tokens_most == 7
