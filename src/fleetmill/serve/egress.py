"""The only code that opens sockets to servers. Every way out passes `Egress.send`, and that asks the rule itself.

A retry, a hedge, a resumed answer, a shadow and an overflow are all a `send`; there is no other door. A server that the
rule forbids is never connected to: it raises before a socket exists.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import httptools

from fleetmill.core.errors import FleetmillError, UnavailableError
from fleetmill.core.serve import Label, Server, may_send
from fleetmill.serve.watch import Alarm

CONNECT_SECONDS = 2.0
KEPT = 64  # idle connections kept per server
_HIGH_WATER = 256 * 1024


class EgressRefusedError(FleetmillError):
    """The rule forbids to send this there. That anybody tried is a fault of ours: it is counted."""


class ServerLostError(UnavailableError):
    """A server did not answer, or not to the end."""


class ServerSlowError(ServerLostError):
    """It did not begin within the time that was given."""


class ServerUnreachedError(ServerLostError):
    """There was no connection: nothing was sent."""


OnBody = Callable[[bytes], None]
OnEnd = Callable[[bool], None]  # whether the answer is whole


@dataclass(slots=True)
class Answer:
    """What comes back. Its connection is its own until it has ended and somebody has heard that; then no longer."""

    status: int
    headers: dict[bytes, bytes]
    _upstream: _Upstream
    _is_over: bool = False

    def listen(self, on_body: OnBody, on_end: OnEnd) -> None:
        """From now on each piece goes to `on_body` as it came, and the end to `on_end`; to be called once."""

        def over(whole: bool) -> None:
            self._is_over = True
            on_end(whole)

        self._upstream.listen(on_body, over)

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come, told or not."""
        return self._upstream.is_whole

    async def first(self) -> None:
        """When the first piece of its body is here, or it has ended without."""
        await self._upstream.first()

    def taken(self) -> bytes | None:
        """Its body if all of it is here already, as that of a short answer at once; None: listen for the rest."""
        body = self._upstream.taken()
        self._is_over = body is not None
        return body

    def pause(self, on: bool) -> None:
        """Stop or go on reading from the server: what the client does not take is not fetched."""
        if not self._is_over:
            self._upstream.pause(on)

    def cut(self) -> None:
        """Nobody wants the rest: the server sees that, and stops."""
        if not self._is_over:
            self._is_over = True
            self._upstream.cut()


class _Upstream(asyncio.Protocol):
    """One connection to a server, for one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._alarm, self._seconds = Alarm(self._late), 0.0
        self.is_lost = False
        self._parser: httptools.HttpResponseParser | None = None
        self._head: asyncio.Future[tuple[int, dict[bytes, bytes]]] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._on_body: OnBody | None = None
        self._on_end: OnEnd | None = None
        self._pieces: list[bytes] = []  # that nobody was given yet
        self.on_body = self._pieces.append  # what httptools calls for each
        self._first: asyncio.Future[None] | None = None
        self._ended: bool | None = False  # whole or not; None: it is under way
        self._until_close = self._keeps = False
        self.release: Callable[[_Upstream], None] = lambda upstream: None

    # the caller's side

    def ask(self, request: bytes, seconds: float) -> asyncio.Future[tuple[int, dict[bytes, bytes]]]:
        """Send a request; status and headers when they are here.

        Or ServerLostError: the server hung up, spoke no HTTP, or did not begin within `seconds`.
        """
        assert self.transport is not None
        self._headers, self._pieces, self._ended = {}, [], None
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._on_body = self._on_end = None
        self._until_close = False
        self._head = self._loop.create_future()
        self.transport.write(request)
        self._seconds = seconds
        self._alarm.set(seconds)
        return self._head

    @property
    def is_whole(self) -> bool:
        """Whether the end is here, too."""
        return self._ended is True

    async def first(self) -> None:
        """When a piece is here, or the end."""
        if not self._pieces and self._ended is None:
            self._first = self._loop.create_future()
            try:
                await self._first
            finally:
                self._first = None

    def listen(self, on_body: OnBody, on_end: OnEnd) -> None:
        """From now on pieces go to `on_body`; those that came before it go first."""
        self._on_body, self._on_end = on_body, on_end
        self._hand_on()

    def taken(self) -> bytes | None:
        """All pieces, if the answer is whole; the connection is free then."""
        if not self._ended:
            return None
        body = self._joined()
        self._tell()
        return body

    def pause(self, on: bool) -> None:
        """Stop or go on reading."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading() if on else self.transport.resume_reading()

    def cut(self) -> None:
        """End the connection in the middle."""
        self._on_body = self._on_end = None
        if self.transport is not None:
            self.transport.abort()

    def _late(self) -> None:
        self._fell(ServerSlowError(f"no answer within {self._seconds:g} s"))

    def _fell(self, why: ServerLostError) -> None:
        self._alarm.stop()
        if self._head is not None and not self._head.done():
            self._head.set_exception(why)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is gone; an answer that ends with the connection is whole by that."""
        self.is_lost = True
        self._fell(ServerLostError("the server hung up before it answered"))
        self._alarm.close()
        self._end(whole=self._until_close and exc is None)
        self._hand_on()

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        if self._parser is None or self._ended is not None:
            self.cut()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fell(ServerLostError("the server's answer is no HTTP/1.1"))
            self._end(whole=False)
            if self.transport is not None:
                self.transport.abort()
        self._hand_on()

    # what httptools calls

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._ended is not None:
            raise ValueError("one more answer behind the one that was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """All headers are here."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = {}
            return
        framed = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        self._until_close = not framed and status not in (204, 304)
        self._alarm.stop()
        if self._head is not None and not self._head.done():
            self._head.set_result((status, self._headers))

    def on_message_complete(self) -> None:
        """It is whole."""
        assert self._parser is not None
        if self._parser.get_status_code() < 200:
            return
        self._keeps = self._parser.should_keep_alive()
        self._end(whole=True)

    def _end(self, *, whole: bool) -> None:
        if self._ended is None:
            self._ended = whole

    def _hand_on(self) -> None:
        """What is here, to who listens; that something is here, to who waits for it."""
        on_body, pieces = self._on_body, self._pieces
        if on_body is None:
            if self._first is not None and not self._first.done() and (pieces or self._ended is not None):
                self._first.set_result(None)
            return
        if pieces:
            on_body(pieces.pop() if len(pieces) == 1 else self._joined())
        if self._ended is not None:
            self._tell()

    def _joined(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _tell(self) -> None:
        """The end, once; only then may another request have this connection."""
        told, self._on_body, self._on_end = self._on_end, None, None
        if told is not None:
            told(bool(self._ended))
        if self.transport is None or self.is_lost or self.transport.is_closing():
            return
        if self._ended and self._keeps:
            self.release(self)
        else:
            self.transport.close()


@lru_cache(maxsize=1024)
def _head(address: str, method: str, path: str) -> bytes:
    """The first lines of a request to a server, which are the same each time."""
    at = urlsplit(address)
    where = f"{at.path.rstrip('/')}{path}"
    return f"{method} {where} HTTP/1.1\r\nhost: {at.netloc}\r\ncontent-type: application/json\r\n".encode()


class Egress:
    """Connections to the servers of a pool."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[_Upstream]] = {}  # by address: a name may come back at another one
        self._tls: ssl.SSLContext | None = None
        self.refused = 0  # times that the rule stopped what the policy had let through: must stay 0
        self.opened: dict[str, int] = {}  # connections by server

    async def send(
        self,
        server: Server,
        path: str,
        body: bytes,
        *,
        label: Label,
        consent: bool,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        seconds: float = 60.0,
        again: bool = True,
    ) -> Answer:
        """Send a request to `server`; its answer when head and headers are here.

        `headers`: such as the key that the server itself wants. `seconds`: for the first byte. `again`: it may be sent
        once more where a connection that had been idle turns out to be closed.

        Raises:
            EgressRefusedError: the rule forbids it; no socket was opened.
            ServerLostError: no connection (ServerUnreachedError), no answer in time (ServerSlowError), or none that can
                be read.
        """
        if not may_send(label, server.tier, consent=consent):
            self.refused += 1
            raise EgressRefusedError(
                f"label {label.name.lower()} must not go to server {server.name} of tier {server.tier.name.lower()}"
            )
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) if headers else ""
        head = _head(server.address, method, path)
        request = b"%bcontent-length: %d\r\n%b\r\n%b" % (head, len(body), more.encode(), body)
        upstream = self._kept(server.address)
        was_idle = upstream is not None
        upstream = upstream or await self._connected(server)
        try:
            status, found = await upstream.ask(request, seconds)
        except ServerLostError as error:
            upstream.cut()
            if (
                again and was_idle and not isinstance(error, ServerSlowError)
            ):  # it was closed while it waited: that says nothing about the server
                return await self.send(
                    server, path, body, label=label, consent=consent, headers=headers, method=method, seconds=seconds
                )
            raise type(error)(f"server {server.name}: {error}") from None
        except asyncio.CancelledError:
            upstream.cut()
            raise
        return Answer(status, found, upstream)

    def close(self) -> None:
        """End all idle connections."""
        for kept in self._idle.values():
            for upstream in kept:
                upstream.cut()
        self._idle.clear()

    def _kept(self, address: str) -> _Upstream | None:
        """A connection that waited here."""
        idle = self._idle.get(address)
        while idle:
            upstream = idle.pop()
            if not upstream.is_lost and upstream.transport is not None and not upstream.transport.is_closing():
                return upstream
        return None

    async def _connected(self, server: Server) -> _Upstream:
        """A new one."""
        idle = self._idle.setdefault(server.address, deque())  # names may be given anew, to another place
        at = urlsplit(server.address)
        port = at.port or (443 if at.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        try:
            _, upstream = await asyncio.wait_for(
                loop.create_connection(_Upstream, at.hostname or "", port, ssl=self._context(at.scheme)),
                CONNECT_SECONDS,
            )
        except (OSError, asyncio.TimeoutError) as error:
            raise ServerUnreachedError(f"server {server.name}: no connection ({type(error).__name__})") from None
        self.opened[server.name] = self.opened.get(server.name, 0) + 1
        upstream.release = lambda done: idle.append(done) if len(idle) < KEPT else done.cut()
        return upstream

    def _context(self, scheme: str) -> ssl.SSLContext | None:
        if scheme != "https":
            return None
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls
