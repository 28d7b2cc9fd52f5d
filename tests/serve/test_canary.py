"""The gateway as a process: what was said is in no file, log, metric or error, whatever failed, kill -9 included."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fleetmill.serve.http import Connection
from simulated import Engine

COMMAND = [sys.executable, "-m", "fleetmill.cli"]
CANARY = "canary-7f3a9c41d2"  # in every prompt
ASKED = {"model": "small", "max_tokens": 8, "messages": [{"role": "user", "content": f"{CANARY} a@b.example"}]}
BACKEND = """
[serve]
port = 0
stall_seconds = 0.5
waiting = 3
hedge_share = 1.0
"""
SERVER = """
[[serve.backend]]
name = "{name}"
address = "http://127.0.0.1:{port}"
capacity = 1
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


class Gateway:
    """`fleetmill serve` as a process, and everything that it could leave behind."""

    def __init__(self, folder, engines):
        self.folder, self.home, self._started = folder, folder / "home", 0
        run("init", "--home", self.home, "--root-key", folder / "root.pem")
        settings = BACKEND + "".join(SERVER.format(name=e.name, port=e.port) for e in engines)
        (self.home / "fleetmill.toml").write_text('log_level = "debug"\n' + settings)
        run("serve", "tenant", "set", "acme", "--label", "premises", "--detector", "email", "--home", self.home)
        self.key = json.loads(run("serve", "key", "add", "acme", "--home", self.home, "--json"))["key"]

    def start(self) -> httpx.Client:
        """Started where a core may be written, and would lie in the folder."""
        self._started += 1
        with (self.folder / f"gateway-{self._started}.err").open("w") as err:
            words = [*COMMAND, "serve", "--home", str(self.home)]
            self.process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=err, text=True, cwd=self.folder, preexec_fn=cores_allowed
            )
        address = self.process.stdout.readline().split()[1]
        return httpx.Client(base_url=address, headers={"authorization": f"Bearer {self.key}"}, timeout=10)

    def die(self, by: int) -> None:
        """By that signal; what it said on stdout is kept too."""
        self.process.send_signal(by)
        (self.folder / f"gateway-{self._started}.out").write_text(self.process.stdout.read())
        assert self.process.wait(10) == -by
        self.process.stdout.close()


def cores_allowed():
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


def everything(folder) -> dict[str, bytes]:
    """Every file, of whatever name."""
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def talk(client, **more):
    """One streamed answer's response."""
    return client.post("/v1/chat/completions", json={**ASKED, "stream": True, **more})


def scenarios(client, engines):
    """name -> response of every way that a request can go."""
    found = {"at once": client.post("/v1/chat/completions", json=ASKED), "stream": talk(client)}
    for faults in ("die", "tear", "stall", "error", "short", "500", "leak", "die die die", "hang"):
        shared = [(fault, 3) for fault in faults.split()]  # whoever is asked first, second, third
        for engine in engines:
            engine.faults = shared
        found[faults] = talk(client)
        for engine in engines:
            engine.faults = []
    for engine in engines:
        engine.first = 0.2
    with ThreadPoolExecutor(9) as threads:  # three servers of one place each, and three may wait
        asked = [threads.submit(talk, client, user=str(n)) for n in range(9)]
        found |= {f"queue {n}": one.result() for n, one in enumerate(asked)}
    for engine in engines:
        engine.first = 0.0
    chat = "/v1/chat/completions"
    found |= {
        "deadline": client.post(chat, json=ASKED, headers={"x-fleetmill-deadline-ms": "1"}),
        "refused by its label": client.post(chat, json=ASKED, headers={"x-fleetmill-label": "device"}),
        "a label that is none": client.post(chat, json=ASKED, headers={"x-fleetmill-label": CANARY}),
        "a priority that is none": client.post(chat, json=ASKED, headers={"x-fleetmill-priority": CANARY}),
        "a conversation": client.post(chat, json=ASKED, headers={"x-fleetmill-conversation": CANARY}),
        "no JSON": client.post(chat, content=b'{"model": "small", "x": "' + CANARY.encode()),
        "a wrong number": client.post(chat, json={**ASKED, "max_tokens": CANARY}),
        "another key": client.post(chat, json=ASKED, headers={"authorization": f"Bearer {CANARY}"}),
        "another model": client.post(chat, json={**ASKED, "model": f"m-{CANARY}"}),
        "the engine chokes": client.post(chat, json={**ASKED, "messages": CANARY}),
        "no such path": client.get(f"/v1/{CANARY}"),
        "inference": client.post("/v2/models/none/infer", json={"inputs": CANARY}),
        "a list of tools": client.post(chat, json={**ASKED, "tools": [{"type": "function", "name": CANARY}]}),
    }
    return found


def test_a_canary_is_nowhere_after_every_failure_and_every_death(tmp_path, engines):
    gateway = Gateway(tmp_path, engines)
    deaths = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV)
    for number, death in enumerate(deaths):
        with gateway.start() as client:
            if number == 0:
                found = scenarios(client, engines)
                metrics = client.get("/metrics").text
            for engine in engines:
                engine.faults = [("stall", 2)] * 9
            with client.stream("POST", "/v1/chat/completions", json={**ASKED, "stream": True}) as last:
                next(last.iter_raw())
                gateway.die(death)
            for engine in engines:
                engine.faults = []

    statuses = {name: answer.status_code for name, answer in found.items()}
    whole = ("at once", "stream", "die", "tear", "stall", "error", "short", "500", "leak", "hang")
    assert {name: statuses[name] for name in whole} == dict.fromkeys(whole, 200)
    queued = Counter(statuses[f"queue {n}"] for n in range(9))
    assert queued[200] >= 3
    assert queued[429] >= 1
    assert [statuses[n] for n in ("refused by its label", "a label that is none", "no JSON", "another key")] == [
        403, 400, 400, 401,
    ]  # fmt: skip
    assert sum(CANARY in json.dumps(seen) for e in engines for seen in e.seen) > 20  # it did go where it should
    told = {n: a.text for n, a in found.items() if a.status_code >= 400 and n not in ("another model", "no such path")}
    assert [name for name, text in told.items() if CANARY in text] == []  # those two repeat what the caller named
    assert CANARY not in metrics
    assert "fleetmill_serve_hedged 1" in metrics
    left = everything(tmp_path)
    assert [path for path, data in left.items() if CANARY.encode() in data] == []
    assert [path for path in left if Path(path).name.startswith("core")] == []
    proof = run("serve", "prove", "--label", "premises", "--tier", "premises", "--home", gateway.home)
    assert proof.startswith("no record with label >= premises left tier premises")
    assert int(proof.split(": ")[1].split()[0]) > 20


def test_a_core_would_have_been_found(tmp_path):
    """What the kernel writes of a process that does not forbid it; where it writes nothing, the check above is idle."""
    text = f"import os; held = '{CANARY[:6]}' + '{CANARY[6:]}'; os.abort()"
    code = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, preexec_fn=cores_allowed, stderr=subprocess.PIPE)
    assert code.returncode == -signal.SIGABRT
    cores = [path for path, data in everything(tmp_path).items() if CANARY.encode() in data]
    if not cores:
        pytest.skip("the kernel writes no core file into a process's folder here (core_pattern, or no limit to raise)")
