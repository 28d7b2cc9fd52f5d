"""What one address for everything costs: CPU per request of the same gateway alone and behind `fleetmill up`.

    python bench/door.py [--rounds N]

A home with one server behind it is served by `fleetmill serve` and by `fleetmill up --no-loop`, both with their real
accounts and journal, and asked in turn by the load of `bench/relay.py`. A third pair shows what the switch costs the
ASGI side: an application that says "ok" under uvicorn's own protocol and under the front door's. A fourth shows what
the way not taken would have cost: nginx as one more hop before `fleetmill serve`, the cheapest that there is.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import relay

SETTINGS = """
[[serve.backend]]
name = "up"
address = "http://127.0.0.1:{port}"
capacity = 512
models = [{{name = "small"}}]
"""
PLAIN = """
import sys, uvicorn
from fleetmill.api.front import Config, Front, Server
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
http = Front if sys.argv[1] == "front" else "httptools"
config = Config(app, http=http, port=int(sys.argv[2]), log_level="critical", access_log=False, lifespan="off")
Server(config, None).run()
"""


async def gets(port: int, number: int, at_once: int) -> None:
    """`number` small GETs over kept connections."""
    left = [number]

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left[0] > 0:
            left[0] -= 1
            writer.write(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\nok")
        writer.close()

    await asyncio.gather(*(one() for _ in range(at_once)))


def made_home(folder: Path, backend: int) -> tuple[Path, str]:
    """A home with one server and one key."""
    home = folder / "home"

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "fleetmill.cli", *words, "--home", str(home)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--root-key", str(folder / "root.pem"))
    (home / "fleetmill.toml").write_text(SETTINGS.format(port=backend))
    run("serve", "tenant", "set", "t")
    return home, run("serve", "key", "add", "t")


def table(title: str, spent: dict[str, list[float]], first: str) -> None:
    print(f"\n{title}\n| | CPU-us per request, median [least, most] | to the first, median of rounds |\n|---|---|---|")
    for name, found in spent.items():
        ratios = [a / b for a, b in zip(found, spent[first], strict=True)]
        low, high = min(found), max(found)
        print(f"| {name} | {statistics.median(found):.1f} [{low:.1f}, {high:.1f}] | {statistics.median(ratios):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    children: list[subprocess.Popen] = []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def start(words: list[str]) -> subprocess.Popen:
        children.append(subprocess.Popen(words, **quiet))
        return children[-1]

    with tempfile.TemporaryDirectory() as name:
        folder, backend = Path(name), relay.free_port()
        try:
            start([sys.executable, str(Path(relay.__file__)), "--backend", str(backend)])
            home, relay.KEY = made_home(folder, backend)
            at = {what: relay.free_port() for what in ("alone", "door", "hop", "httptools", "front")}
            cli = [sys.executable, "-m", "fleetmill.cli"]
            up = {
                "fleetmill serve": (
                    [start([*cli, "serve", "--home", str(home), "--port", str(at["alone"])])],
                    at["alone"],
                ),
                "fleetmill up": (
                    [start([*cli, "up", "--no-loop", "--home", str(home), "--port", str(at["door"])])],
                    at["door"],
                ),
            }
            if nginx := shutil.which("nginx"):
                conf = folder / "nginx.conf"
                conf.write_text(relay.NGINX.format(folder=folder, backend=at["alone"], port=at["hop"]))
                hop = start([nginx, "-c", str(conf), "-p", str(folder)])
                up["nginx, then fleetmill serve"] = ([hop, up["fleetmill serve"][0][0]], at["hop"])
            for what, (processes, port) in up.items():
                if not relay.wait_for(port, processes[0]):
                    raise SystemExit(f"{what} did not come up")
            for case, (number, at_once, chunks, size) in relay.CASES.items():
                spent: dict[str, list[float]] = {what: [] for what in up}
                for _ in range(rounds):
                    for what, (processes, port) in up.items():
                        before = sum(relay.cpu(p.pid) for p in processes)
                        asyncio.run(relay.load(port, number // 2, at_once, chunks, size))
                        after = sum(relay.cpu(p.pid) for p in processes)
                        spent[what].append((after - before) / (number // 2) * 1e6)
                table(f"{case}: {number // 2} requests a round, {rounds} rounds", spent, "fleetmill serve")
            beside_pages(up, at["door"], rounds)
            bare(folder, at, start, rounds)
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait()


def beside_pages(up: dict, door: int, rounds: int) -> None:
    """How long a small answer takes while somebody asks the factory for its page without a pause."""
    spent: dict[str, list[float]] = {what: [] for what in up}

    async def one(port: int) -> list[float]:
        asking, found = asyncio.create_task(pages(door)), []
        for _ in range(150):
            began = time.perf_counter()
            await relay.load(port, 1, 1, 0, 150)
            found.append((time.perf_counter() - began) * 1e3)
        asking.cancel()
        return found

    for _ in range(rounds):
        for what, (_, port) in up.items():
            spent[what] += asyncio.run(one(port))
    print(f"\nan answer while pages are asked for, {150 * rounds} requests, each on a connection of its own")
    print("| | ms: median | 99 % | most |")
    print("|---|---|---|---|")
    for what, found in spent.items():
        found.sort()
        print(f"| {what} | {statistics.median(found):.1f} | {found[len(found) * 99 // 100]:.1f} | {found[-1]:.1f} |")


async def pages(port: int) -> None:
    """The live page, again and again."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        while await reader.read(65536):
            pass
        writer.close()


def bare(folder: Path, at: dict[str, int], start, rounds: int) -> None:
    """The ASGI side."""
    (folder / "plain.py").write_text(PLAIN)
    children = {
        kind: start([sys.executable, str(folder / "plain.py"), kind, str(at[kind])]) for kind in ("httptools", "front")
    }
    for kind in children:
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            try:
                asyncio.run(gets(at[kind], 1, 1))
                break
            except OSError:
                time.sleep(0.2)
    spent: dict[str, list[float]] = {kind: [] for kind in children}
    for _ in range(rounds):
        for kind, child in children.items():
            before = relay.cpu(child.pid)
            asyncio.run(gets(at[kind], 5000, 16))
            spent[kind].append((relay.cpu(child.pid) - before) / 5000 * 1e6)
    table(f"an ASGI application that says ok: 5000 requests a round, {rounds} rounds", spent, "httptools")


if __name__ == "__main__":
    main()
