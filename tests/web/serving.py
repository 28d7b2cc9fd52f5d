"""The factory's door on a real socket, in a thread: what streams cannot be tried without one."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager

import httpx
import uvicorn

from fleetmill.api.door import make_app


class _Server(uvicorn.Server):
    def __init__(self, config):
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def serve(home, line):
    """The address of a door over an opened home."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(home, find=lambda name: line), log_level="critical", timeout_graceful_shutdown=1)
    server = _Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert server.ready.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class Stream:
    """An open `/live`, read event by event."""

    def __init__(self, answer):
        self.answer, self._lines = answer, answer.iter_lines()

    def event(self):
        """The next event: (name, data, id)."""
        found = {}
        for line in self._lines:
            if not line:
                return found["event"], found["data"], found.get("id", "")
            name, _, value = line.partition(": ")
            found[name] = value
        raise AssertionError("the stream has ended")

    def parts(self):
        """The parts of the next batch by their id, and the name of its version."""
        found = {}
        while True:
            name, data, version = self.event()
            if name == "now":
                return found, version
            if name == "part":
                part = json.loads(data)
                found[part["id"]] = part["html"]

    def part(self, id):
        """The next that comes of a part; what comes before it is passed over."""
        while True:
            found, _ = self.parts()
            if id in found:
                return found[id]


@contextmanager
def open_stream(address, since="", headers=None):
    with (
        httpx.Client(timeout=60) as client,
        client.stream("GET", f"{address}/live", params={"since": since}, headers=headers) as answer,
    ):
        yield Stream(answer)
