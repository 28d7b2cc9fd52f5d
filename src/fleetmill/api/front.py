"""One listener for the factory's pages and devices (ASGI) and for the gateway's lean protocol (`serve/http.py`).

Where a request begins, its first bytes say whose it is: the OpenAI paths below ``/v1`` and all of ``/v2`` are the
gateway's, the rest is the ASGI application's, the devices' paths below ``/v1`` too. A connection may change hands
between two requests, never within one. Both sides read the request themselves, from its first byte, so nothing is
rewritten and both see who really asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fleetmill.serve.http import Connection, Handle
from fleetmill.serve.run import DRAIN_SECONDS

OURS = (
    b"/v1/chat/completions",
    b"/v1/completions",
    b"/v1/embeddings",
    b"/v1/responses",
    b"/v1/models",
    b"/v1/openapi.json",
    b"/v2",
)
_ENDED = (b" ", b"?", b"/")  # what comes after one of them
_LONGEST_METHOD = 20


class Gateway(Protocol):
    """What answers for models."""

    @property
    def handle(self) -> Handle: ...


class Config(uvicorn.Config):
    """uvicorn's, and who answers for models as soon as it is there."""

    handle: Handle | None = None


class Front(HttpToolsProtocol):
    """One connection: uvicorn's protocol, with the gateway's beside it once that is asked for."""

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self._handle = config.handle
        self._lean: Connection | None = None
        self._is_lean = False  # whose the last request was
        self._begun = b""  # of a request of which it is not clear yet

    def data_received(self, data: bytes) -> None:
        """Bytes of a request: where one begins it is decided whose it is."""
        if self._is_lean and self._lean is not None and not self._lean.is_between:
            self._lean.data_received(data)
        elif not self._is_lean and not _is_between(self):
            super().data_received(data)
        else:
            self._begun += data
            ours = whose(self._begun)
            if ours is not None:
                data, self._begun = self._begun, b""
                self._hand_over(data, ours=ours and self._handle is not None)

    def _hand_over(self, data: bytes, *, ours: bool) -> None:
        self._is_lean = ours
        if not ours:
            if self._lean is not None:
                self._lean.step_aside()
            super().data_received(data)
            return
        self._unset_keepalive_if_required()
        if self._lean is None:
            assert self._handle is not None
            self._lean = Connection(self._handle, set())
            self._lean.connection_made(self.transport)
        self._lean.data_received(data)

    def is_busy(self) -> bool:
        """Whether the gateway answers something on it; one that waits for its next request is closed."""
        return self._is_lean and self._lean is not None and not self._lean.close_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client hung up: both sides hear it."""
        super().connection_lost(exc)
        if self._lean is not None:
            self._lean.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slower than is written."""
        super().pause_writing()
        if self._lean is not None:
            self._lean.pause_writing()

    def resume_writing(self) -> None:
        """It caught up."""
        super().resume_writing()
        if self._lean is not None:
            self._lean.resume_writing()


def whose(begun: bytes) -> bool | None:
    """Whether the request that begins so is the gateway's; None: more bytes are needed to say.

    >>> whose(b"POST /v1/chat/completions HTTP/1.1"), whose(b"GET / HTTP/1.1"), whose(b"POST /v")
    (True, False, None)
    """
    line = begun.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before a request are passed over
    method, space, target = line.partition(b" ")
    if not space:
        return None if len(method) <= _LONGEST_METHOD and b"\n" not in method else False
    if any(target.startswith(ours) and target[len(ours) : len(ours) + 1] in _ENDED for ours in OURS):
        return True
    return None if any(ours.startswith(target) for ours in OURS) else False


def _is_between(asgi: HttpToolsProtocol) -> bool:
    """Whether uvicorn waits for the next request: it has answered the last one and has read all of it."""
    cycle = asgi.cycle
    return cycle is None or (cycle.response_complete and not cycle.more_body)


class Server(uvicorn.Server):
    """uvicorn's server with a gateway beside the application. At its end what the gateway has begun is finished."""

    def __init__(self, config: Config, gateway: Callable[[], AbstractAsyncContextManager[Gateway]] | None) -> None:
        super().__init__(config)
        self._front, self._gateway, self._stack = config, gateway, AsyncExitStack()

    async def startup(self, sockets: Any = None) -> None:
        """Open the gateway, then listen."""
        if self._gateway is not None:
            self._front.handle = (await self._stack.enter_async_context(self._gateway())).handle
        await super().startup(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        """Take nothing new, finish what was begun, then end the rest as uvicorn does."""
        for server in self.servers:
            server.close()
        limit = asyncio.get_running_loop().time() + DRAIN_SECONDS
        while self._busy() and asyncio.get_running_loop().time() < limit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
        await self._stack.aclose()

    def _busy(self) -> bool:
        return any(c.is_busy() for c in list(self.server_state.connections) if isinstance(c, Front))
