"""CPU that a gateway takes per request, ours beside others, alternately in one run.

    python bench/relay.py [--routers VENV] [--litellm VENV] [--rounds N]

A backend that answers at once and a load of fixed size are the same for all; only the gateway's own processes are
counted (user and system time of the whole family, by its CPU clocks). Each round goes over all gateways in turn. What
is printed is each gateway's median of the rounds' CPU-microseconds per request, and its ratio to nginx in the same
round. Gateways whose program is absent are left out by name. One worker each, no logs, keep-alive to both sides.

"floor" is what Python costs here whatever it does between: uvloop and httptools as in the gateway, from socket to
socket with no key, no policy, no account and no second server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from fleetmill.seams import processes

KEY = "sk-bench"
CASES = {
    # name: (requests a round, at once, streamed chunks or 0, prompt bytes)
    "unary, 150 B": (6000, 32, 0, 150),
    "unary, 16 KB": (2500, 16, 0, 16_000),
    "stream, 32 chunks": (1200, 64, 32, 150),
}
SLOW = {"LiteLLM": 0.02, "Starlette + httpx": 0.1}  # of the requests, so that a round ends
NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_body_buffer_size 64k; keepalive_requests 1000000;
upstream up {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;
proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""
NAIVE = """
import httpx, json
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
client = httpx.AsyncClient(base_url="http://127.0.0.1:{backend}", timeout=60)
async def chat(request):
    body = await request.json()
    if body.get("stream"):
        async def pieces():
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for piece in answer.aiter_raw():
                    yield piece
        return StreamingResponse(pieces(), media_type="text/event-stream")
    answer = await client.post("/v1/chat/completions", json=body)
    return Response(answer.content, media_type="application/json")
app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
"""


def backend(port: int) -> None:
    """Answers at once: one JSON, or 32 events 4 ms apart."""
    from fleetmill.serve import run
    from fleetmill.serve.http import Connection

    usage = {"prompt_tokens": 9, "completion_tokens": 32, "total_tokens": 41}
    whole = json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "small",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes " * 8}, "finish_reason": "stop"}],
            "usage": usage,
        }
    ).encode()
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "small"}

    def event(delta: dict, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"

    async def handle(request, reply):
        if request.method != "POST":
            models = b'{"object":"list","data":[{"id":"small","object":"model","created":1,"owned_by":"us"}]}'
            reply.whole(200, models)
        elif b'"stream":true' in request.body.replace(b" ", b""):
            reply.begin(200, kind=b"text/event-stream")
            for n in range(32):
                reply.piece(event({"content": f"word{n} "}))
                await asyncio.sleep(0.004)
            reply.piece(event({}, "stop") + b"data: [DONE]\n\n")
            reply.end()
        else:
            reply.whole(200, whole)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(handle, set()), "127.0.0.1", port)
        await server.serve_forever()

    run.run(main)


def ours(port: int, backend_port: int) -> None:
    """Our relay with keys, policy, budgets in memory and witness, one process."""
    import hashlib

    from fleetmill.core.serve import Label, Served, Server, Tier
    from fleetmill.serve import run
    from fleetmill.serve.http import Connection
    from fleetmill.serve.pool import Pool
    from fleetmill.serve.relay import Relay
    from fleetmill.serve.words import Tenant, Unlimited

    digest, tenant = hashlib.sha256(KEY.encode()).hexdigest(), Tenant(name="t", label=Label.PREMISES)

    class Keys:
        def tenant(self, key):
            return tenant if key == digest else None

    class Witness:
        fault = ""

        def __init__(self):
            self.number = 0

        def saw(self, sent):  # noqa: ARG002
            self.number += 1

    async def main():
        loop = asyncio.get_running_loop()
        server = Server(
            name="up",
            tier=Tier.PREMISES,
            engine="openai_url",
            address=f"http://127.0.0.1:{backend_port}",
            models={"small": Served(model="small")},
            capacity=512,
        )
        pool = Pool([server], clock=loop.time)
        relay = Relay(pool, keys=Keys(), purse=Unlimited(), witness=Witness())
        front = await loop.create_server(lambda: Connection(relay.handle, set()), "127.0.0.1", port)
        await front.serve_forever()

    run.run(main)


def floor(port: int, backend_port: int) -> None:
    """The same protocol stack with nothing in it: each answer goes back to who asked, and that is all."""
    import httptools

    from fleetmill.serve import run

    idle: list[Upstream] = []

    class Upstream(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def connection_lost(self, exc):  # noqa: ARG002
            if self in idle:
                idle.remove(self)

        def ask(self, client, body):
            self.client, self.headers, self.body = client, {}, []
            self.parser = httptools.HttpResponseParser(self)
            self.transport.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )

        def data_received(self, data):
            self.parser.feed_data(data)

        def on_header(self, name, value):
            self.headers[name.lower()] = value

        def on_headers_complete(self):
            if b"transfer-encoding" in self.headers:
                self.client.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

        def on_body(self, data):
            if b"transfer-encoding" in self.headers:
                self.client.write(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                self.body.append(data)

        def on_message_complete(self):
            if b"transfer-encoding" in self.headers:
                self.client.write(b"0\r\n\r\n")
            else:
                body = b"".join(self.body)
                self.client.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            idle.append(self)

    class Client(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.body = transport, []
            self.parser = httptools.HttpRequestParser(self)

        def data_received(self, data):
            self.parser.feed_data(data)

        def on_header(self, name, value):
            pass

        def on_body(self, data):
            self.body.append(data)

        def on_message_complete(self):
            body, self.body = b"".join(self.body), []
            if idle:
                idle.pop().ask(self.transport, body)
            else:
                self.task = asyncio.get_running_loop().create_task(self.connect(body))

        async def connect(self, body):
            _, made = await asyncio.get_running_loop().create_connection(Upstream, "127.0.0.1", backend_port)
            made.ask(self.transport, body)

    async def main():
        front = await asyncio.get_running_loop().create_server(Client, "127.0.0.1", port)
        await front.serve_forever()

    run.run(main)


async def load(port: int, number: int, at_once: int, chunks: int, size: int) -> None:
    """`number` requests over `at_once` kept connections; every answer must be whole."""
    body = {"model": "small", "messages": [{"role": "user", "content": "a" * size}], "max_tokens": 64}
    if chunks:
        body["stream"] = True
    data = json.dumps(body).encode()
    raw = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (KEY.encode(), len(data))
    ) + data
    left = [number]

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left[0] > 0:
            left[0] -= 1
            writer.write(raw)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:16]:
                raise SystemExit(f"the gateway at {port} answered {head[:200]!r}")
            low = head.lower()
            if b"content-length:" in low:
                length = int(low.split(b"content-length:")[1].split(b"\r\n")[0])
                answer = await reader.readexactly(length)
            else:
                answer = await reader.readuntil(b"\r\n0\r\n\r\n")
            if chunks and b"[DONE]" not in answer:
                raise SystemExit("a stream was not whole")
            if b"connection: close" in low:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(one() for _ in range(at_once)))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def gateways(asked: argparse.Namespace, folder: Path, backend_port: int) -> dict[str, tuple[list[str], int]]:
    """Name -> (command, port) of every gateway that is here."""
    found: dict[str, tuple[list[str], int]] = {}
    ports = {name: free_port() for name in ("nginx", "floor", "ours", "vllm", "sglang", "naive", "litellm")}
    if shutil.which("nginx"):
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, backend=backend_port, port=ports["nginx"]))
        found["nginx"] = ([shutil.which("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)], ports["nginx"])
    for name, part in (("floor", "floor"), ("fleetmill", "ours")):
        words = [sys.executable, __file__, f"--{part}", str(ports[part]), "--backend", str(backend_port)]
        found[name] = (words, ports[part])
    url = f"http://127.0.0.1:{backend_port}"
    if asked.routers:
        python = str(asked.routers / "bin" / "python")
        for name, module, port in (
            ("vllm-router", "vllm_router.launch_router", ports["vllm"]),
            ("sglang-router", "sglang_router.launch_router", ports["sglang"]),
        ):
            words = [python, "-m", module, "--worker-urls", url, "--host", "127.0.0.1", "--port", str(port)]
            found[name] = ([*words, "--policy", "round_robin", "--log-level", "error"], port)
        (folder / "naive.py").write_text(NAIVE.format(backend=backend_port))
        words = [python, "-m", "uvicorn", "naive:app", "--port", str(ports["naive"]), "--log-level", "critical"]
        found["Starlette + httpx"] = ([*words, "--app-dir", str(folder), "--no-access-log"], ports["naive"])
    if asked.litellm:
        config = {
            "model_list": [
                {
                    "model_name": "small",
                    "litellm_params": {"model": "openai/small", "api_base": f"{url}/v1", "api_key": "x"},
                }
            ],
            "general_settings": {"master_key": KEY},
        }
        (folder / "litellm.yaml").write_text(json.dumps(config))
        words = [str(asked.litellm / "bin" / "litellm"), "--config", str(folder / "litellm.yaml")]
        found["LiteLLM"] = ([*words, "--port", str(ports["litellm"]), "--num_workers", "1"], ports["litellm"])
    return found


def cpu(pid: int) -> float:
    """CPU seconds of a process and all that it started, to the nanosecond: /proc counts in hundredths of a second."""
    return sum(time.clock_gettime(~each << 3 | 2) for each in processes.family(pid))  # as clock_getcpuclockid(3) does


def wait_for(port: int, child: subprocess.Popen, seconds: float = 90.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until and child.poll() is None:
        try:
            asyncio.run(load(port, 1, 1, 0, 10))
        except (OSError, SystemExit, asyncio.IncompleteReadError):
            time.sleep(0.3)
        else:
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--routers", type=Path, help="environment with vllm-router, sglang-router, starlette, httpx")
    parser.add_argument("--litellm", type=Path, help="environment with litellm[proxy]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="numbers; the tables go to stderr")
    parser.add_argument("--ours", type=int)
    parser.add_argument("--floor", type=int)
    parser.add_argument("--backend", type=int)
    asked = parser.parse_args()
    if asked.ours:
        return ours(asked.ours, asked.backend)
    if asked.floor:
        return floor(asked.floor, asked.backend)
    if asked.backend:
        return backend(asked.backend)
    children: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        try:
            children.append(subprocess.Popen([sys.executable, __file__, "--backend", str(port)], **quiet))
            up: dict[str, tuple[subprocess.Popen, int]] = {}
            for what, (words, at) in gateways(asked, folder, port).items():
                child = subprocess.Popen(words, **quiet)
                children.append(child)
                if wait_for(at, child):
                    up[what] = (child, at)
                else:
                    print(f"{what}: did not come up, left out", file=sys.stderr)
            with redirect_stdout(sys.stderr if asked.json else sys.stdout):
                told = measure(up, asked.rounds)
            if asked.json:
                print(json.dumps(told))
        finally:
            for child in children:
                for pid in processes.family(child.pid):  # the parent first, or it starts another child
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue


def measure(up: dict[str, tuple[subprocess.Popen, int]], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """CPU per request of each gateway in each case, as a table and as numbers."""
    told: dict[str, dict[str, dict[str, float]]] = {}
    for case, (number, at_once, chunks, size) in CASES.items():
        spent: dict[str, list[float]] = {name: [] for name in up}
        for _ in range(rounds):
            for name, (child, port) in up.items():
                asked = max(at_once, round(number * SLOW.get(name, 1.0)))
                before = cpu(child.pid)
                asyncio.run(load(port, asked, at_once, chunks, size))
                spent[name].append((cpu(child.pid) - before) / asked * 1e6)
        print(f"\n{case}: {number} requests a round, {at_once} at once, {rounds} rounds")
        print("| gateway | CPU-us per request, median [least, most] | to nginx, median of rounds |\n|---|---|---|")
        for name, found in spent.items():
            ratios = [a / b for a, b in zip(found, spent.get("nginx", found), strict=True)]
            print(
                f"| {name} | {statistics.median(found):.1f} [{min(found):.1f}, {max(found):.1f}] "
                f"| {statistics.median(ratios):.2f} |"
            )
            ratio = {"to_nginx": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            told.setdefault(case, {})[name] = {"microseconds": statistics.median(found), **ratio}
    return told


if __name__ == "__main__":
    main()
