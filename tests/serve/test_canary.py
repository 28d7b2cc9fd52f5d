"""The gateway as a process: what was said is in no file, log, metric or error, whatever failed, kill -9 included."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from fleetmill.serve.http import Connection
from simulated import Engine

COMMAND = [sys.executable, "-m", "fleetmill.cli"]
CANARY = "canary-7f3a9c41d2"  # in every prompt
BACKEND = """
[serve]
port = 0
stall_seconds = 0.5
"""
SERVER = """
[[serve.backend]]
name = "{name}"
address = "http://127.0.0.1:{port}"
models = [{{name = "small", digest = "m", template = "t", capabilities = ["chat", "completions", "tools"]}}]
"""


class Leaky(Engine):
    """An engine whose error repeats what it was asked."""

    async def handle(self, request, reply):
        if self.faults and self.faults[0][0] == "leak":
            self.faults.pop(0)
            reply.whole(500, json.dumps({"error": {"message": f"cannot tokenise: {request.body.decode()}"}}).encode())
            return
        await super().handle(request, reply)


@pytest.fixture
def engines():
    """Three engines in a thread of their own."""
    made, up, box = [Leaky(name) for name in "abc"], threading.Event(), {}

    async def run():
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        servers, connections = [], set()
        for engine in made:
            make = lambda e=engine: Connection(e.handle, connections)  # noqa: E731
            servers.append(await box["loop"].create_server(make, "127.0.0.1", 0))
            engine.port = servers[-1].sockets[0].getsockname()[1]
        up.set()
        await box["stop"].wait()
        for connection in list(connections):
            connection.cut()
        for server in servers:
            server.close()
        await asyncio.sleep(0.1)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert up.wait(10)
    yield made
    box["loop"].call_soon_threadsafe(box["stop"].set)
    thread.join()


def run(*words):
    found = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_canary_is_nowhere_after_every_failure_and_a_kill(tmp_path, engines):
    home, log = tmp_path / "home", tmp_path / "gateway.log"
    run("init", "--home", home, "--root-key", tmp_path / "root.pem")
    settings = BACKEND + "".join(SERVER.format(name=e.name, port=e.port) for e in engines)
    (home / "fleetmill.toml").write_text('log_level = "debug"\n' + settings)
    run("serve", "tenant", "set", "acme", "--label", "premises", "--detector", "email", "--home", home)
    key = json.loads(run("serve", "key", "add", "acme", "--home", home, "--json"))["key"]
    with log.open("w") as out:
        gateway = subprocess.Popen(
            [*COMMAND, "serve", "--home", str(home)], stdout=subprocess.PIPE, stderr=out, text=True
        )
    address = gateway.stdout.readline().split()[1]
    client = httpx.Client(base_url=address, headers={"authorization": f"Bearer {key}"}, timeout=10)
    asked = {"model": "small", "max_tokens": 8, "messages": [{"role": "user", "content": f"{CANARY} a@b.example"}]}
    stream = {**asked, "stream": True}

    answers = [client.post("/v1/chat/completions", json=asked)]
    for faults in (["die"], ["tear"], ["stall"], ["error"], ["short"], ["500"], ["leak"], ["die", "die", "die"]):
        for engine, fault in zip(engines, faults, strict=False):
            engine.faults = [(fault, 3)]
        answers.append(client.post("/v1/chat/completions", json=stream))
        for engine in engines:
            engine.faults = []
    answers += [
        client.post("/v1/chat/completions", content=b'{"model": "small", "x": "' + CANARY.encode()),  # no JSON
        client.post("/v1/chat/completions", json={**asked, "max_tokens": CANARY}),
        client.post("/v1/chat/completions", json={**asked, "messages": CANARY}),  # the engine chokes on it
        client.post("/v2/models/none/infer", json={"inputs": CANARY}),
        client.post("/v1/chat/completions", json=stream, headers={"x-fleetmill-label": "device"}),
    ]
    metrics = client.get("/metrics").text
    engines[0].faults = engines[1].faults = engines[2].faults = [("stall", 2)] * 9
    with client.stream("POST", "/v1/chat/completions", json=stream) as last:
        next(last.iter_raw())
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()
    gateway.stdout.close()

    assert [a.status_code for a in answers[:7]] == [200] * 7
    assert answers[-1].status_code == 403
    assert sum(CANARY in json.dumps(seen) for e in engines for seen in e.seen) > 10  # it did go where it should
    errors = "".join(a.text for a in answers if a.status_code >= 400)
    everything = {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert CANARY not in errors
    assert CANARY not in metrics
    assert [path for path, data in everything.items() if CANARY.encode() in data] == []
    proof = run("serve", "prove", "--label", "premises", "--tier", "premises", "--home", home)
    assert proof.startswith("no record with label >= premises left tier premises")
    assert int(proof.split(": ")[1].split()[0]) > 20
