"""Engines that honour the protocol and fail on command, a gateway before them, and a client that keeps every byte.

What an engine says to a prompt is a function of the prompt alone, so that an answer that went over three engines must
be the same text as one that did not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import orjson

from fleetmill.core.serve import Label, Price, Served, Server, Tier
from fleetmill.serve.http import Connection, Reply, Request
from fleetmill.serve.pool import Pool
from fleetmill.serve.relay import Relay
from fleetmill.serve.words import Sent, Tenant, Unlimited

WORDS = [
    "the",
    " quick",
    " brown",
    " fox",
    " jumps",
    " over",
    " a",
    " lazy",
    " dog",
    "\n",
    " and",
    "  runs",
    "äöü",
    ".",
]
KEY = "sk-test"


def answer_to(prompt: str, tokens: int) -> list[str]:
    """What every engine says to a prompt."""
    return [WORDS[hashlib.sha256(f"{prompt}/{n}".encode()).digest()[0] % len(WORDS)] for n in range(tokens)]


@dataclass
class Engine:
    """A simulated engine: an OpenAI server that dies, stalls or errs after so many tokens when it is told to."""

    name: str
    delay: float = 0.0  # seconds before each token
    first: float = 0.0  # seconds before the first sign of an answer
    open: int = 0  # answers being made
    most: int = 0  # that were being made at once
    faults: list[tuple[str, int]] = field(default_factory=list)  # for the next requests, one each
    seen: list[dict] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def handle(self, request: Request, reply: Reply) -> None:
        asked = json.loads(request.body or b"{}")
        self.seen.append(asked)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self._answer(asked, reply)
        finally:
            self.open -= 1

    async def _answer(self, asked: dict, reply: Reply) -> None:
        fault, after = self.faults.pop(0) if self.faults else ("", -1)
        if fault == "500":
            reply.whole(500, b'{"error":{"message":"out of memory"}}')
            return
        if fault in ("429", "503"):
            more = b"retry-after: %d\r\n" % after if after else b""
            reply.whole(int(fault), b'{"error":{"message":"full"}}', more=more)
            return
        if fault == "hang":
            await asyncio.sleep(3600)
        if self.first:
            await asyncio.sleep(self.first)
        chat = "messages" in asked
        before = ""
        if chat:
            messages = asked["messages"]
            if asked.get("continue_final_message"):
                before, messages = messages[-1]["content"], messages[:-1]
            prompt = messages[-1]["content"]
        else:
            prompt, _, before = asked["prompt"].partition("|")
            prompt += "|"
        most = asked.get("max_tokens", 16) + len(_tokens(prompt, before))
        left = answer_to(prompt, most)[len(_tokens(prompt, before)) :]
        if not asked.get("stream"):
            if fault == "die":
                reply._write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{")
                reply.abort()
                return
            text = "".join(left)
            choice = {"index": 0, "finish_reason": "length"} | (
                {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            )
            reply.whole(
                200,
                json.dumps(
                    {
                        "id": "x",
                        "object": "chat.completion",
                        "created": 1,
                        "model": asked["model"],
                        "choices": [choice],
                        "usage": {"prompt_tokens": 7, "completion_tokens": len(left), "total_tokens": 7 + len(left)},
                    }
                ).encode(),
            )
            return
        reply.begin(200, kind=b"text/event-stream")
        uid = hashlib.sha256(f"{self.name}{time.monotonic()}".encode()).hexdigest()[:8]

        def event(piece, finish=None, role=False):
            part = (
                {"delta": ({"role": "assistant"} if role else {}) | ({"content": piece} if piece is not None else {})}
                if chat
                else {"text": piece or ""}
            )
            choices = [{"index": 0, "finish_reason": finish} | part]
            data = {
                "id": uid,
                "object": "chat.completion.chunk",
                "created": 1,
                "model": asked["model"],
                "choices": choices,
            }
            return b"data: " + orjson.dumps(data) + b"\n\n"

        if chat:
            reply.piece(event(None, role=True))
        for n, word in enumerate(left):
            if reply.is_gone:
                return
            if n == after:
                if fault == "die":
                    reply.abort()
                    return
                if fault == "tear":  # in the middle of an event
                    reply.piece(event(word)[:9])
                    await asyncio.sleep(0.001)
                    reply.abort()
                    return
                if fault == "error":
                    reply.piece(b'data: {"error": {"message": "cuda"}}\n\n')
                    reply.end()
                    return
                if fault == "short":  # ends politely, and is not whole
                    reply.end()
                    return
                if fault == "stall":
                    await asyncio.sleep(3600)
            data = event(word)
            if self.delay:
                await asyncio.sleep(self.delay)
            reply.piece(data[:20])  # pieces do not end where events end
            reply.piece(data[20:])
            if n % 4 == 3:
                await asyncio.sleep(0)
        reply.piece(event(None if chat else "", finish="length"))
        if (asked.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": len(left), "total_tokens": 7 + len(left)}
            reply.piece(b"data: " + orjson.dumps({"id": uid, "choices": [], "usage": usage}) + b"\n\n")
        reply.piece(b"data: [DONE]\n\n")
        reply.end()


def _tokens(prompt: str, text: str) -> list[str]:
    found = []
    while "".join(found) != text:
        found = answer_to(prompt, len(found) + 1)
        assert len("".join(found)) <= len(text), "this engine did not say that"
    return found


class Seen:
    """A witness in memory."""

    fault = ""

    def __init__(self) -> None:
        self.sent: list[Sent] = []  # what came of each
        self.begun: list[Sent] = []

    def saw(self, sent: Sent) -> None:
        (self.begun if sent.outcome == "begun" else self.sent).append(sent)


class OneKey:
    """Keys with one in it."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant, self._digest = tenant, hashlib.sha256(KEY.encode()).hexdigest()

    def tenant(self, key: str) -> Tenant | None:
        return self._tenant if key == self._digest else None


def server_of(engine: Engine, **changes) -> Server:
    made = {
        "name": engine.name,
        "tier": Tier.PREMISES,
        "engine": "simulated",
        "address": f"http://127.0.0.1:{engine.port}",
        "models": {"small": Served(model="m", template="t", capabilities=frozenset({"chat", "completions", "tools"}))},
        "capacity": 64,
        "price": Price(tokens_in=1_000_000, tokens_out=2_000_000),
    }
    return Server(**(made | changes))


@dataclass
class Stage:
    """Everything up: engines, gateway, witness."""

    engines: list[Engine]
    relay: Relay
    seen: Seen
    port: int
    front: set[Connection]

    async def ask(self, body: dict, *, path="/v1/chat/completions", headers=None, key=KEY) -> tuple[int, dict, bytes]:
        """(status, headers, body) over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        more = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n"
            f"connection: close\r\n{more}\r\n".encode()
            + data
        )
        raw = await reader.read()
        writer.close()
        head, _, rest = raw.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        found = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        return status, found, _unchunked(rest) if found.get("transfer-encoding") == "chunked" else rest

    async def send(self, raw: bytes) -> bytes:
        """All that comes back to these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()

    async def say(self, prompt="hello", tokens=12, **more) -> bytes:
        """The bytes of a streamed chat answer."""
        body = {
            "model": "small",
            "stream": True,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": prompt}],
        }
        status, _, answer = await self.ask(body | more)
        assert status == 200, answer
        return answer


def _unchunked(data: bytes) -> bytes:
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        if int(size, 16) == 0:
            return found
        found, data = found + data[: int(size, 16)], data[int(size, 16) + 2 :]
    raise EOFError(found)


@asynccontextmanager
async def stage(engines: list[Engine], *, tenant=None, stall_seconds=0.3, purse=None, gateway=None, **changes):
    """`changes`: of servers, a dict by the engine's name; `gateway`: further arguments of the relay."""
    loop, servers = asyncio.get_running_loop(), []
    for engine in engines:
        found = await loop.create_server(lambda e=engine: Connection(e.handle, set()), "127.0.0.1", 0)
        engine.port = found.sockets[0].getsockname()[1]
        servers.append(found)
    pool = Pool([server_of(e, **changes.get(e.name, {})) for e in engines], clock=time.monotonic)
    seen = Seen()
    who = tenant or Tenant(name="t", label=Label.OPEN, consent=True)
    more = {"stall_seconds": stall_seconds} | (gateway or {})
    relay = Relay(pool, keys=OneKey(who), purse=purse or Unlimited(), witness=seen, **more)
    connections: set[Connection] = set()
    front = await loop.create_server(lambda: Connection(relay.handle, connections), "127.0.0.1", 0)
    try:
        yield Stage(engines=engines, relay=relay, seen=seen, port=front.sockets[0].getsockname()[1], front=connections)
    finally:
        relay.egress.close()
        for found in (*servers, front):
            found.close()


@contextmanager
def threaded(engine):
    """The engine, answering in a thread of its own."""
    up, held = threading.Event(), {}

    async def run():
        held["loop"], held["stop"] = asyncio.get_running_loop(), asyncio.Event()
        connections: set[Connection] = set()
        server = await held["loop"].create_server(lambda: Connection(engine.handle, connections), "127.0.0.1", 0)
        engine.port = server.sockets[0].getsockname()[1]
        up.set()
        await held["stop"].wait()
        for connection in list(connections):
            connection.cut()
        server.close()
        await asyncio.sleep(0)  # so that what was cut is closed

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert up.wait(10)
    try:
        yield engine
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join()
