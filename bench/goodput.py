"""Answers in time per second under overload: recorded arrivals through the real router, engines fitted to a real one.

    python bench/goodput.py --data ../shared/data [--seconds 40] [--times FILE]

The router is the real one: HTTP, policy, queue, pool, relay, over loopback sockets, in one process whose clock is
simulated (`bench/virtual.py`): so that the figures are not those of a busy machine, and three times too much load can
be played at all. Engines are simulated with times fitted to a measured one (`bench/engine_times.py`); `--times`: that
fit's last line, to measure once. Arrivals keep their order and their bunching; time is scaled to the load, lengths to
what the measured engine can read.

Three own servers and a partner, two answers at once each. 3 of 10 requests may go to the partner. 7 of 10 want their
first token within 10 mean answers, the others within 100. An answer counts if it is whole, right, and began in time;
per second it counts if it also ended while requests still came, so that no queue that is emptied later flatters.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import engine_times
import virtual
from engine_times import Times

from fleetmill.core.serve import Label, Served, Server, Tier
from fleetmill.serve import stream
from fleetmill.serve.http import Connection, Reply, Request
from fleetmill.serve.learned import Learned
from fleetmill.serve.pool import Pool
from fleetmill.serve.relay import Relay
from fleetmill.serve.words import Sent, Tenant, Unlimited

KEY, SLOTS, CHUNK = "sk-bench", 2, 64
LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
OWN, PARTNER = ("own0", "own1", "own2"), "partner"
SCALES = {"azure-conv": (8, 8), "mooncake": (128, 8)}  # prompt and answer tokens are divided by these
MOST = (190, 56)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    at: float  # seconds from the first
    prompt: int
    tokens: int


@dataclass(kw_only=True)
class Came:
    """What came of one request."""

    status: int
    server: str
    first: float  # seconds
    deadline: float
    is_whole: bool
    is_right: bool
    is_soon: bool  # asked for its first token soon
    ended: float = 0.0  # seconds since the run began

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.is_whole and self.is_right and self.first <= self.deadline


def azure(folder: Path) -> list[Arrival]:
    with (folder / "llmtrace-azure-conv" / "AzureLLMInferenceTrace_conv.csv").open() as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(r["TIMESTAMP"][:26]).timestamp() for r in rows]
    sizes = [(int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in rows]
    return scaled("azure-conv", times, sizes)


def mooncake(folder: Path) -> list[Arrival]:
    lines = (folder / "llmtrace-mooncake" / "conversation_trace.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    sizes = [(r["input_length"], r["output_length"]) for r in rows]
    return scaled("mooncake", [r["timestamp"] / 1000.0 for r in rows], sizes)


def scaled(name: str, times: Sequence[float], sizes: Sequence[tuple[int, int]]) -> list[Arrival]:
    down = SCALES[name]
    return [
        Arrival(
            at=t - times[0],
            prompt=min(max(size[0] // down[0], 4), MOST[0]),
            tokens=min(max(size[1] // down[1], 2), MOST[1]),
        )
        for t, size in zip(times, sizes, strict=True)
    ]


def word(number: int, k: int) -> str:
    return f" {number}.{k}"


class Engine:
    """Answers as fast as the fit says, at most `SLOTS` at once; who comes then waits inside it."""

    def __init__(self, name: str, times: Times) -> None:
        self.name, self._times = name, times
        self._slots = asyncio.Semaphore(SLOTS)
        self._active = 0
        self.connections: set[Connection] = set()
        self.server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Connection(self.handle, self.connections), "127.0.0.1", self.port
        )
        self.port = self.server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """As SIGKILL would: nothing listens, every connection is cut."""
        assert self.server is not None
        self.server.close()
        for connection in list(self.connections):
            connection.cut()

    async def handle(self, request: Request, reply: Reply) -> None:
        asked = json.loads(request.body)
        messages, before = asked["messages"], 0
        if asked.get("continue_final_message"):
            before = messages[-1]["content"].count(" ")
            messages = messages[:-1]
        number, prompt = int(messages[-1]["content"].split()[-1]), len(request.body) // 3
        async with self._slots:
            if reply.is_gone:
                return
            self._active += 1
            try:
                await self._answer(number, prompt, before, asked["max_tokens"], reply)
            finally:
                self._active -= 1

    async def _answer(self, number: int, prompt: int, before: int, tokens: int, reply: Reply) -> None:
        reply.begin(200, kind=b"text/event-stream")
        await asyncio.sleep(self._times.at_load(self._active)[0])
        for done in range(0, prompt, CHUNK):
            await asyncio.sleep(min(CHUNK, prompt - done) * self._times.at_load(self._active)[1])
        for k in range(before, before + tokens):
            if reply.is_gone:
                return
            if k > before:
                _, _, d, e = self._times.at_load(self._active)
                await asyncio.sleep(d + e * (prompt + k))
            reply.piece(_event(number, {"content": word(number, k)}))
        reply.piece(_event(number, {}, "length") + stream.DONE)
        reply.end()


def _event(number: int, delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": f"e{number}", "choices": [choice]}).encode() + b"\n\n"


class Keys:
    def tenant(self, key: str) -> Tenant | None:
        is_known = key == hashlib.sha256(KEY.encode()).hexdigest()
        return Tenant(name="t", label=Label.OPEN, consent=True) if is_known else None


class Witness:
    fault = ""

    def saw(self, sent: Sent) -> None:
        """Nobody reads it."""


class _Boundless(Learned):
    """Learns no limit."""

    def _limit(self, in_flight: int, seconds: float, best: float) -> None:
        """There is none."""


async def client(
    port: int, number: int, arrival: Arrival, deadline: float, label: str, *, soon: bool, tells: bool
) -> Came:
    """Ask once, and look at every byte. `tells`: the gateway is told the deadline."""
    told = b"x-fleetmill-deadline-ms: %d\r\n" % (deadline * 1000) if tells else b""
    loop = asyncio.get_running_loop()
    began = loop.time()
    content = "a" * (3 * arrival.prompt) + f" {number}"
    body = {"model": "m", "stream": True, "max_tokens": arrival.tokens}
    data = json.dumps(body | {"messages": [{"role": "user", "content": content}]}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\nconnection: close\r\n"
        b"x-fleetmill-label: %s\r\n%scontent-length: %d\r\n\r\n"
        % (KEY.encode(), label.encode(), told, len(data))
        + data
    )
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split()[1])
    server = head.partition(b"x-fleetmill-server: ")[2].split(b"\r\n")[0].decode()
    came = Came(
        status=status, server=server, first=0.0, deadline=deadline, is_whole=False, is_right=False, is_soon=soon
    )
    raw, got = b"", b""
    while piece := await reader.read(65536):
        if not raw:
            came.first = loop.time() - began
        raw += piece
    came.ended = loop.time()
    writer.close()
    if status != 200:
        return came
    while raw and (size := int(raw.partition(b"\r\n")[0], 16)):
        start = raw.index(b"\r\n") + 2
        got, raw = got + raw[start : start + size], raw[start + size + 2 :]
    came.is_whole = got.endswith(stream.DONE) and raw == b"0\r\n\r\n"
    expected = "".join(word(number, k) for k in range(arrival.tokens))
    came.is_right = b'"error"' not in got and stream.spoken(got).text == expected
    return came


def nominal(arrivals: Sequence[Arrival], times: Times) -> tuple[float, float]:
    """(answers per second that the servers make with all places taken, seconds of the mean answer)."""
    mean = statistics.fmean(times.whole(SLOTS, a.prompt, a.tokens) for a in arrivals[:2000])
    return (len(OWN) + 1) * SLOTS / mean, mean


def played(arrivals: Sequence[Arrival], rate: float, seconds: float) -> Iterator[Arrival]:
    """The first arrivals, so many per second in the mean over `seconds`."""
    some = arrivals[: max(2, round(rate * seconds))]
    scale = seconds / some[-1].at
    return (Arrival(at=a.at * scale, prompt=a.prompt, tokens=a.tokens) for a in some)


async def play(
    arrivals: Sequence[Arrival], times: Times, load: float, seconds: float, *, kind: str, kill: bool
) -> list[Came]:
    """One run; see `RUNS`."""
    tells, capacity = kind != "all to the engines", 8 if "8" in kind else SLOTS
    loop, chance = asyncio.get_running_loop(), random.Random(17)
    rate, mean = nominal(arrivals, times)
    engines = [Engine(name, times) for name in (*OWN, PARTNER)]
    for engine in engines:
        await engine.start()
    servers = [
        Server(
            name=e.name,
            tier=Tier.PARTNER if e.name == PARTNER else Tier.PREMISES,
            engine="simulated",
            address=f"http://127.0.0.1:{e.port}",
            models={"m": Served(model="m", template="t")},
            capacity=capacity if tells else 10**6,
        )
        for e in engines
    ]
    pool = Pool(servers, clock=loop.time)
    if not tells:  # as a proxy does it that knows neither deadline nor limit
        for state in pool._states.values():
            state.learned = _Boundless(10**6)
    relay = Relay(
        pool,
        keys=Keys(),
        purse=Unlimited(),
        witness=Witness(),
        now=loop.time,
        waiting=256 if kind.startswith("queue") else 0,
    )
    front = await loop.create_server(lambda: Connection(relay.handle, set()), "127.0.0.1", 0)
    port, tasks = front.sockets[0].getsockname()[1], []
    if kill:
        loop.call_later(seconds / 2, engines[1].kill)
        loop.call_later(seconds * 3 / 4, lambda: tasks.append(loop.create_task(engines[1].start())))
    began = loop.time()
    asked = []
    for number, arrival in enumerate(played(arrivals, rate * load, seconds)):
        await asyncio.sleep(max(0.0, began + arrival.at - loop.time()))
        soon, label = chance.random() < 0.7, "open" if chance.random() < 0.3 else "premises"
        deadline = (10 if soon else 100) * mean
        asked.append(loop.create_task(client(port, number, arrival, deadline, label, soon=soon, tells=tells)))
    found = [await task for task in asked]
    front.close()
    relay.egress.close()
    for engine in engines:
        engine.kill()
    await asyncio.sleep(0.01)
    return found


RUNS = (  # what is compared: kind, load, whether a server is killed
    *(("queue", load, False) for load in LOADS),
    ("queue", 0.8, True),
    ("queue, capacity said to be 8", 3.0, False),
    ("no queue", 1.0, False),
    ("no queue", 3.0, False),
    ("all to the engines", 1.0, False),
    ("all to the engines", 3.0, False),
)


def report(name: str, arrivals: Sequence[Arrival], times: Times, seconds: float) -> dict[str, float]:
    """All runs over one trace, as a table; what came of those that a promise is about."""
    rate, mean = nominal(arrivals, times)
    print(f"\n{name}: the servers make {rate:.1f} answers/s if all are full, {mean * 1e3:.0f} ms each; {seconds:g} s")
    found = {run: virtual.run(play(arrivals, times, run[1], seconds, kind=run[0], kill=run[2])) for run in RUNS}
    best = max(goodput(came, seconds) for (kind, _, _), came in found.items() if kind == "queue")
    print(
        "| load | router | in time /s | of the peak | of those answered: own | partner | of all: soon | later |", end=""
    )
    print(" refused | late | not whole |\n|" + "---|" * 11)
    for (kind, load, kill), came in found.items():
        answered = [c for c in came if c.status == 200]
        own, partner = [[c for c in answered if (c.server == PARTNER) == away] for away in (False, True)]
        soon, later = [[c for c in came if c.is_soon == wanted] for wanted in (True, False)]
        good = goodput(came, seconds)
        print(
            f"| {load:g}x{', one killed' if kill else ''} ({len(came) / seconds:.1f}/s) | {kind} | {good:.1f} "
            f"| {good / best:.1%} | {share(own)} | {share(partner)} | {share(soon)} | {share(later)} "
            f"| {len(came) - len(answered)} | {sum(c.first > c.deadline for c in answered)} "
            f"| {sum(not (c.is_whole and c.is_right) for c in answered)} |"
        )
    most = max(load for _, load, _ in RUNS)
    broken = [c for (kind, _, kill), came in found.items() for c in came if kind == "queue" and c.status == 200]
    late = [c for c in broken if c.first > c.deadline]
    return {
        "load": most,
        "of_the_peak": goodput(found["queue", most, False], seconds) / best,
        "answered": len(broken),
        "late": len(late),
        "not_whole": sum(not (c.is_whole and c.is_right) for c in broken),
    }


def goodput(came: Sequence[Came], seconds: float) -> float:
    """Answers whole, right and in time that ended in the last three quarters of the run, per second of these."""
    return sum(c.is_good and seconds / 4 < c.ended <= seconds for c in came) / (seconds * 3 / 4)


def share(some: Sequence[Came]) -> str:
    return f"{sum(c.is_good for c in some) / len(some):.1%} of {len(some)}" if some else "-"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder with llmtrace-azure-conv, llmtrace-mooncake")
    parser.add_argument("--seconds", type=float, default=10.0, help="simulated, per load")
    parser.add_argument("--trace", choices=["azure-conv", "mooncake"], help="one of them alone")
    parser.add_argument("--times", type=Path, help="a fit of bench/engine_times.py")
    parser.add_argument("--json", action="store_true", help="what a promise is about; the tables go to stderr")
    asked = parser.parse_args()
    told = {}
    with redirect_stdout(sys.stderr if asked.json else sys.stdout):
        if asked.times:
            found = Times(at=tuple(map(tuple, json.loads(asked.times.read_text().splitlines()[-1])["at"])))
        else:
            found = engine_times.measured()
        for name, read in (("azure-conv", azure), ("mooncake", mooncake)):
            if asked.trace in (None, name):
                told[name] = report(name, read(asked.data), found, asked.seconds)
        print(f"\n{time.process_time():.0f} CPU-seconds")
    if asked.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
