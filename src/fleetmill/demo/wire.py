"""A wire between one device and the factory that somebody holds in his hands: it carries everything, or bends it."""

from __future__ import annotations

import http.client
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Bend = Callable[[str, str, int, bytes], tuple[int, bytes]]  # method, path, status, body -> status, body
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_SECONDS = 90.0


def honest(method: str, path: str, status: int, body: bytes) -> tuple[int, bytes]:  # noqa: ARG001
    """Carries what came."""
    return status, body


class Wire(ThreadingHTTPServer):
    """Carries requests to `factory` (``host:port``) and answers back. A factory that is down looks down."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, factory: str) -> None:
        super().__init__(("127.0.0.1", 0), _Carrier)
        self.factory = factory.removeprefix("http://")
        self.bend: Bend = honest
        self.blocked: tuple[str, ...] = ()  # methods that do not get through

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A device that was killed hangs up in the middle: that is its business, and no error of the wire's."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """What the device takes for the factory's address."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def open_wire(factory: str) -> Iterator[Wire]:
    """A wire that carries until this ends."""
    wire = Wire(factory)
    thread = threading.Thread(target=wire.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        wire.shutdown()
        wire.server_close()
        thread.join()


class _Carrier(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Wire

    def carry(self) -> None:
        """One request there, one answer back; nothing comes back where the factory did not answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        there = http.client.HTTPConnection(self.server.factory, timeout=_SECONDS)
        try:
            if self.command in self.server.blocked:
                raise ConnectionRefusedError
            there.request(self.command, self.path, body, dict(self.headers))
            answer = there.getresponse()
            status, data = self.server.bend(self.command, self.path, answer.status, answer.read())
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
        except (OSError, http.client.HTTPException):
            self.close_connection = True
            return
        finally:
            there.close()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = carry  # noqa: N815 - names of the library

    def log_message(self, *_: object) -> None:
        """The wire says nothing."""
