"""HTTP/1.1 as the relay needs it: one request at a time per connection, bytes as they are, back-pressure both ways.

What could be read in two ways is refused (request smuggling): a length beside chunks, two lengths, a name with blanks,
a request that begins before the one before it was answered. Source: RFC 9112, sections 2.2, 5.1, 6.1 and 6.3.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools

from fleetmill.serve.watch import Alarm

_LOG = logging.getLogger("fleetmill.serve")
MOST_HEAD = 64 * 1024  # bytes of a request's line and headers together
MOST_BODY = 16 * 1024 * 1024
IDLE_SECONDS = 75.0
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"[0-9]+")
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding"})  # twice could be read in two ways
_LOWER: dict[bytes, bytes] = {}  # header names as they came: as they are kept
_MOST_NAMES = 1024
_HIGH_WATER = 256 * 1024
_WORDS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


@dataclass(slots=True)
class Request:
    """A whole request. Its body is bytes that nobody here reads but the one function that must."""

    method: str
    path: str
    headers: dict[bytes, bytes]  # names in lower case
    body: bytes = field(repr=False)  # no log and no traceback shows it


class Reply:
    """The way back to a client. Every method may be called after the client has gone: it does nothing then."""

    is_begun = False
    is_gone = False  # the client hung up
    on_gone: Callable[[], object] | None = None
    on_full: Callable[[bool], None] | None = None  # the client reads slower than we write: stop, go on
    _held = b""  # of its beginning, until the first piece
    _room: asyncio.Event | None = None  # while the client's side is full

    def __init__(self, transport: asyncio.Transport, *, keep: bool) -> None:
        self._transport, self._keep = transport, keep

    def whole(self, status: int, body: bytes, *, kind: bytes = b"application/json", more: bytes = b"") -> None:
        """Head and body at once. `more`: further header lines, each with its line end."""
        head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s%s\r\n" % (
            status,
            _WORDS.get(status, b"Other"),
            kind,
            len(body),
            more,
            b"" if self._keep else b"connection: close\r\n",
        )
        self.is_begun = True
        self._write(head + body)

    def begin(self, status: int, *, kind: bytes, more: bytes = b"", hold: bool = False) -> None:
        """The head of an answer that comes in pieces. `hold`: it goes out with the first piece, or by `flush`."""
        self.is_begun = True
        self._held = (
            b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\ncache-control: no-store\r\n%s%s\r\n"
            % (
                status,
                _WORDS.get(status, b"Other"),
                kind,
                more,
                b"" if self._keep else b"connection: close\r\n",
            )
        )
        if not hold:
            self.flush()

    def flush(self) -> None:
        """Its head goes out now, if it has not."""
        if self._held:
            self._write(b"")

    def piece(self, data: bytes) -> None:
        """A piece of it."""
        if data and not self._transport.is_closing():
            held, self._held = self._held, b""
            self._transport.write(b"%b%x\r\n%b\r\n" % (held, len(data), data))

    def end(self, last: bytes = b"") -> None:
        """It is whole, with a last piece."""
        self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n")

    def abort(self) -> None:
        """It will never be whole: the connection is cut, so that the client cannot take it for complete."""
        if not self._transport.is_closing():
            self._transport.abort()

    async def drained(self) -> None:
        """When the client has taken enough of what was written."""
        if self._room is not None:
            await self._room.wait()

    def stop(self) -> None:
        """The client's side is full."""
        self._room = self._room or asyncio.Event()
        if self.on_full is not None:
            self.on_full(True)

    def go_on(self) -> None:
        """It has room again."""
        self._has_room()
        if self.on_full is not None:
            self.on_full(False)

    def lost(self) -> None:
        """The client hung up."""
        self.is_gone = True
        self._has_room()
        if self.on_gone is not None:
            self.on_gone()

    def _has_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        if not self._transport.is_closing():
            self._transport.write(data)


Handle = Callable[[Request, Reply], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client's connection. `handle` answers each request; the next is read when it has returned."""

    def __init__(self, handle: Handle, connections: set[Connection]) -> None:
        self._handle, self._all = handle, connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle: Alarm | None = None
        self._fresh()

    def _fresh(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head = 0
        self._body: list[bytes] = []
        self._size = 0
        self._fault = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._all.add(self)
        self._loop = asyncio.get_running_loop()
        self._idle = Alarm(self._transport.close)
        self._idle.set(IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It hung up; whatever is made for it ends."""
        self._all.discard(self)
        if self._idle is not None:
            self._idle.close()
        if self._reply is not None:
            self._reply.lost()

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        if self._reply is not None:
            self._reply.stop()

    def resume_writing(self) -> None:
        """It caught up."""
        if self._reply is not None:
            self._reply.go_on()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self._task is not None:  # a request before the answer to the one before: refused
            self._refuse(400, "one request at a time on a connection, please")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "no other protocol is spoken here")
        except httptools.HttpParserError:
            self._refuse(self._fault or 400, "this is no HTTP/1.1 request")

    def eof_received(self) -> bool:
        """The client will send no more: it is gone, too."""
        return False

    # what httptools calls

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._head += len(name) + len(value)
        if self._head > MOST_HEAD:
            self._fail(431)
        known = _LOWER.get(name) or self._lower(name)
        if known in self._headers and known in _ONCE:
            self._fail(400)
        self._headers[known] = value

    def _lower(self, name: bytes) -> bytes:
        """A name in lower case; the usual ones are looked up."""
        if not _NAME.fullmatch(name):
            self._fail(400)
        if len(_LOWER) < _MOST_NAMES:
            _LOWER[name] = name.lower()
        return name.lower()

    def on_headers_complete(self) -> None:
        """All headers are here: what could be read in two ways ends now."""
        length, coding = self._headers.get(b"content-length"), self._headers.get(b"transfer-encoding")
        if b"host" not in self._headers or (length is not None and coding is not None):
            self._fail(400)
        if coding is not None and coding.strip().lower() != b"chunked":
            self._fail(400)
        if length is not None and not _LENGTH.fullmatch(length):
            self._fail(400)
        if length is not None and int(length) > MOST_BODY:
            self._fail(413)
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._size += len(data)
        if self._size > MOST_BODY:
            self._fail(413)
        self._body.append(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        assert self._transport is not None
        if self._task is not None:  # two in one packet
            self._fail(400)
        assert self._idle is not None
        self._idle.stop()
        method, path = self._parser.get_method().decode(), self._url.decode("ascii", "replace")
        request = Request(method, path, self._headers, b"".join(self._body))
        keep = self._parser.should_keep_alive()
        self._reply = reply = Reply(self._transport, keep=keep)
        self._task = self._loop.create_task(self._answer(request, reply, keep=keep))
        self._fresh()

    async def _answer(self, request: Request, reply: Reply, *, keep: bool) -> None:
        try:
            await self._handle(request, reply)
            await reply.drained()
        except Exception as error:  # noqa: BLE001 - told to the client and logged, without what was asked
            keep = False
            self._fell(reply, error)
        finally:
            self._task = self._reply = None
            if self._transport is not None and not self._transport.is_closing():
                if keep and self._idle is not None:
                    self._idle.set(IDLE_SECONDS)
                else:
                    self._transport.close()

    def _fell(self, reply: Reply, error: Exception) -> None:
        """A fault of ours: the client is told that there was one, the log where; what was asked stands in neither."""
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
        _LOG.error("fault", extra={"error": type(error).__name__, "at": places})
        if reply.is_begun:
            reply.abort()
        else:
            reply.whole(500, b'{"error":{"message":"a fault of the gateway; its log names the place"}}')

    def close_idle(self) -> bool:
        """Close if nothing is being answered; whether it did. For a graceful end."""
        if self._task is None and self._transport is not None:
            self._transport.close()
            return True
        return False

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a request: all of the one before is read and answered."""
        return self._task is None and not self._url

    def step_aside(self) -> None:
        """Somebody else has the connection now, see `api/front.py`: it is not closed for being idle here."""
        if self._idle is not None:
            self._idle.stop()

    @property
    def unread(self) -> int:
        """Bytes that are written and that the client has not taken."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def cut(self) -> None:
        """End it in the middle."""
        if self._transport is not None:
            self._transport.abort()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MOST_HEAD:
            self._fail(431)

    def _fail(self, status: int) -> None:
        self._fault = status
        raise ValueError(status)  # httptools hands it on as a parser error

    def _refuse(self, status: int, why: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._reply is None or not self._reply.is_begun:
            Reply(self._transport, keep=False).whole(status, b'{"error":{"message":"%s"}}' % why.encode())
            self._transport.close()
        else:
            self._transport.abort()
