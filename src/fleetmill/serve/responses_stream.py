"""A chat's pieces as the events of `/v1/responses`, and the way back to a client that asked for them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from fleetmill.serve import stream, words
from fleetmill.serve.asked import key_digest
from fleetmill.serve.http import Reply, Request
from fleetmill.serve.relay import Relay
from fleetmill.serve.responses import Said, part, take_whole, to_chat
from fleetmill.serve.words import Keys


class Events:
    """Chat events in, response events out."""

    def __init__(self, said: Said) -> None:
        self._said, self._number = said, 0
        self._has_begun = self._has_spoken = False

    def take(self, events: bytes) -> bytes:
        """Whole events of the chat."""
        made = [*self._begin()]
        for event in stream.read(events):
            if "error" in event:
                self._said.error = str((event["error"] or {}).get("message") or "the answer broke off")
                continue
            self._said.model = self._said.model or str(event.get("model") or "")
            self._said.usage = event.get("usage") or self._said.usage
            for choice in event.get("choices") or ():
                made += self._choice(choice)
        return b"".join(made)

    def end(self) -> bytes:
        """The chat is over: what was open is closed, and the last event says how it ended."""
        said, made = self._said, [*self._begin()]
        if said.error:
            return b"".join([*made, self._event("response.failed", response=said.response())])
        if self._has_spoken or not said.calls:
            made += [] if self._has_spoken else self._open()
            made += self._close()
        for number in range(len(said.calls)):
            made += self._call(number)
        kind = "response.incomplete" if said.ended in ("length", "content_filter") else "response.completed"
        return b"".join([*made, self._event(kind, response=said.response())])

    def _begin(self) -> Iterator[bytes]:
        if not self._has_begun:
            self._has_begun = True
            empty = {**self._said.response("in_progress"), "output": []}
            yield self._event("response.created", response=empty)
            yield self._event("response.in_progress", response=empty)

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[bytes]:
        delta, said = choice.get("delta") or {}, self._said
        if text := delta.get("content"):
            if not self._has_spoken:
                yield from self._open()
            said.text += text
            yield self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])
        for call in delta.get("tool_calls") or ():
            number, function = int(call.get("index") or 0), call.get("function") or {}
            while len(said.calls) <= number:
                said.calls.append({"id": "", "name": "", "arguments": ""})
            known = said.calls[number]
            known["id"] = known["id"] or str(call.get("id") or "")
            known["name"] += function.get("name") or ""
            known["arguments"] += function.get("arguments") or ""
        said.ended = choice.get("finish_reason") or said.ended

    def _open(self) -> list[bytes]:
        self._has_spoken = True
        item = self._said.message("in_progress")
        return [
            self._event("response.output_item.added", output_index=0, item=item),
            self._event("response.content_part.added", **self._place(), part=part("")),
        ]

    def _close(self) -> list[bytes]:
        said, place = self._said, self._place()
        return [
            self._event("response.output_text.done", **place, text=said.text, logprobs=[]),
            self._event("response.content_part.done", **place, part=part(said.text)),
            self._event("response.output_item.done", output_index=0, item=said.output()[0]),
        ]

    def _call(self, number: int) -> list[bytes]:
        """A call of a tool, whole: its pieces were kept until here, since they say nothing one by one."""
        at, said = number + int(self._has_spoken), self._said
        item, place = said.call(number, "completed"), {"output_index": at, "item_id": f"fc_{said.id}_{number}"}
        empty, arguments = {**item, "status": "in_progress", "arguments": ""}, item["arguments"]
        return [
            self._event("response.output_item.added", output_index=at, item=empty),
            self._event("response.function_call_arguments.delta", **place, delta=arguments),
            self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=arguments),
            self._event("response.output_item.done", output_index=at, item=item),
        ]

    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._said.id}", "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **more: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._number, **more}
        self._number += 1
        return f"event: {kind}\n".encode() + b"data: " + orjson.dumps(body) + b"\n\n"


class Back(Reply):
    """A chat's way back to a client that asked for a response: what is written to it goes on translated."""

    def __init__(self, reply: Reply, said: Said) -> None:
        self._reply, self._said, self._events = reply, said, Events(said)
        self.is_begun = False

    @property
    def is_gone(self) -> bool:  # type: ignore[override]
        """The client hung up."""
        return self._reply.is_gone

    @property
    def on_gone(self) -> Callable[[], object] | None:
        """What is told when the client hangs up."""
        return self._reply.on_gone

    @on_gone.setter
    def on_gone(self, told: Callable[[], object] | None) -> None:
        self._reply.on_gone = told

    @property
    def on_full(self) -> Callable[[bool], None] | None:
        """What is told when the client reads slower than is written."""
        return self._reply.on_full

    @on_full.setter
    def on_full(self, told: Callable[[bool], None] | None) -> None:
        self._reply.on_full = told

    def whole(self, status: int, body: bytes, *, kind: bytes = b"application/json", more: bytes = b"") -> None:
        """An answer at once, or an error, which stays as it is."""
        self.is_begun = True
        if status == 200:
            try:
                take_whole(self._said, orjson.loads(body))
            except (ValueError, TypeError, AttributeError, LookupError):
                fault = b'{"error":{"message":"the server answered no chat","type":"server_error","code":"no_chat"}}'
                self._reply.whole(502, fault, more=more)
                return
            body = orjson.dumps(self._said.response())
        self._reply.whole(status, body, kind=kind, more=more)

    def begin(self, status: int, *, kind: bytes, more: bytes = b"", hold: bool = False) -> None:
        """The head of an answer in pieces."""
        self.is_begun = True
        self._reply.begin(status, kind=kind, more=more, hold=hold)

    def flush(self) -> None:
        """The head goes out now."""
        self._reply.flush()

    def piece(self, data: bytes) -> None:
        """Whole events of the chat."""
        self._reply.piece(self._events.take(data))

    def end(self, last: bytes = b"") -> None:
        """The chat is over."""
        self._reply.end((self._events.take(last) if last else b"") + self._events.end())

    def abort(self) -> None:
        """It will never be whole."""
        self._reply.abort()

    async def drained(self) -> None:
        """When the client has taken enough."""
        await self._reply.drained()


class Responses:
    """`/v1/responses`: as it came where every server of the model has that path, else said as a chat.

    As a chat all servers of the model may be asked, so the policy has its whole choice, and a stream that breaks off
    goes on elsewhere.
    """

    def __init__(self, relay: Relay, keys: Keys) -> None:
        self._relay, self._keys = relay, keys

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        asked = self._translated(request) if self._keys.tenant(key_digest(request)) is not None else None
        if asked is None:  # the relay also says what is wrong with it
            await self._relay.handle(request, reply)
            return
        try:
            body = orjson.dumps(to_chat(asked))
        except ValueError as error:
            reply.whole(400, words.error(str(error), kind="invalid_request_error", code="cannot"))
            return
        said = Said(id=os.urandom(12).hex(), created=int(time.time()), asked=asked)
        chat = Request(method="POST", path=stream.CHAT, headers=request.headers, body=body)
        await self._relay.handle(chat, Back(reply, said))

    def _translated(self, request: Request) -> dict[str, Any] | None:
        """What is asked, if it must be said as a chat."""
        try:
            asked = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            return None
        model = asked.get("model") if isinstance(asked, dict) else None
        if not isinstance(model, str):
            return None
        having = [s.models[model] for s in self._relay.pool.servers if model in s.models]
        if not having or all("responses" in served.capabilities for served in having):
            return None
        found: dict[str, Any] = asked
        return found
