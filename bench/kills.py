"""Real engines killed in the middle of an answer, behind the gateway's relay: is the text that of an unbroken answer?

    python bench/kills.py --engine genai|llama [--kills 50] [--model FOLDER] [--json]

FOLDER holds what the line `language` trains (genai.onnx, model.gguf and what belongs to them); without it a tiny model
is trained first. Two servers of the
engine run; for each kill one prompt is answered whole, then again while the server that answers gets SIGKILL after a
random number of events, and the other goes on. Greedy. `llama` needs build/engines/llama-server (`make engines`).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import engine_times
import httpx

from fleetmill.core.serve import Label, Served, Server, Tier
from fleetmill.serve import run, stream
from fleetmill.serve.http import Connection
from fleetmill.serve.pool import Pool
from fleetmill.serve.relay import Relay
from fleetmill.serve.words import Tenant, Unlimited

LLAMA = Path(__file__).parents[1] / "build" / "engines" / "llama-server"
KEY, TOKENS, PORTS = "sk-bench", 60, (8611, 8612)


class Keys:
    """One tenant."""

    def tenant(self, key: str) -> Tenant | None:
        return Tenant(name="t", label=Label.PREMISES) if key == hashlib.sha256(KEY.encode()).hexdigest() else None


class Witness:
    """Counts."""

    fault = ""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}

    def saw(self, sent) -> None:
        self.outcomes[sent.outcome] = self.outcomes.get(sent.outcome, 0) + 1


class Engines:
    """Two servers of one engine."""

    def __init__(self, engine: str, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._children: dict[int, subprocess.Popen] = {}

    def start(self, at: int) -> str:
        """Start one and wait for it; the model's name there."""
        port = str(PORTS[at])
        words = [sys.executable, "-m", "fleetmill.serve.shell_genai", "--model", str(self._folder), "--port", port]
        if self._engine == "llama":
            words = [str(LLAMA), "-m", str(self._folder / "model.gguf"), "--host", "127.0.0.1", "--port", port]
            words += ["-c", "4096", "-np", "4", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-t", "1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._children[at] = subprocess.Popen(words, **quiet)
        until = time.monotonic() + 60
        while time.monotonic() < until and self._children[at].poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    return httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"]
            except httpx.HTTPError:
                time.sleep(0.1)
        raise SystemExit(f"{self._engine} did not come up at {port}")

    def kill(self, at: int) -> None:
        """SIGKILL."""
        self._children[at].kill()
        self._children[at].wait()

    def stop(self) -> None:
        """Both."""
        for at in self._children:
            self.kill(at)


async def ask(port: int, name: str, prompt: str, engines: Engines, after: int | None) -> tuple[bytes, int | None]:
    """(the events, which server was killed after so many of them)."""
    body = {"model": name, "stream": True, "max_tokens": TOKENS, "temperature": 0}
    data = json.dumps({**body, "messages": [{"role": "user", "content": prompt}]}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\nconnection: close\r\n"
    writer.write(head % KEY.encode() + b"content-length: %d\r\n\r\n" % len(data) + data)
    answered = await reader.readuntil(b"\r\n\r\n")
    if b"x-fleetmill-server: s" not in answered:
        raise SystemExit(f"the gateway said {answered[:200]!r}")
    who, got, killed = int(answered.split(b"x-fleetmill-server: s")[1][:1]), b"", None
    while size := int((await reader.readline()).strip() or b"0", 16):
        got += await reader.readexactly(size)
        await reader.readexactly(2)
        if after is not None and killed is None and got.count(b"data: ") >= after and b"[DONE]" not in got:
            engines.kill(who)
            killed = who
    writer.close()
    return got, killed


async def measure(engine: str, folder: Path, kills: int) -> dict[str, int]:
    """Kill so many times: what came of it."""
    engines, chance, loop = Engines(engine, folder), random.Random(30_000_000), asyncio.get_running_loop()
    tally = {"equal text": 0, "other text": 0, "not whole, and said so": 0, "cut off without a word": 0}
    try:
        name, _ = engines.start(0), engines.start(1)
        servers = [
            Server(
                name=f"s{at}",
                tier=Tier.PREMISES,
                engine=engine,
                address=f"http://127.0.0.1:{port}",
                models={name: Served(model="m", template="t")},
            )
            for at, port in enumerate(PORTS)
        ]
        witness = Witness()
        relay = Relay(Pool(servers, clock=loop.time), keys=Keys(), purse=Unlimited(), witness=witness, stall_seconds=5)
        front = await loop.create_server(lambda: Connection(relay.handle, set()), "127.0.0.1", 0)
        port, done = front.sockets[0].getsockname()[1], 0
        while done < kills:
            apples, more = chance.randrange(2, 99), chance.randrange(2, 99)
            prompt = f"Tom has {apples} apples and buys {more} more. How many apples does he have?"
            whole, _ = await ask(port, name, prompt, engines, None)
            events = whole.count(b"data: ")
            got, killed = await ask(port, name, prompt, engines, chance.randrange(1, max(2, events - 3)))
            if killed is None:  # it was whole before the kill: no case
                continue
            done += 1
            is_equal = stream.spoken(got).text == stream.spoken(whole).text
            ended, said = b"[DONE]" in got, b'"error"' in got
            what = "equal text" if is_equal else "other text"
            tally[what if ended else "not whole, and said so" if said else "cut off without a word"] += 1
            await asyncio.to_thread(engines.start, killed)
        front.close()
        return {"kills": done, **tally, "attempts": sum(witness.outcomes.values())}
    finally:
        engines.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--engine", choices=["genai", "llama"], required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder, found = asked.model or Path(made), {}
        if asked.model is None:
            engine_times.train(folder, size="tiny", steps=120)

        async def kill() -> None:
            found.update(await measure(asked.engine, folder, asked.kills))

        run.run(kill)
    print(
        json.dumps(found) if asked.json else f"{asked.engine}: " + ", ".join(f"{n} {what}" for what, n in found.items())
    )


if __name__ == "__main__":
    main()
