"""A clock that is turned by hand, and a client that reaches the factory without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal


class Clock:
    """A clock in ns that goes on by one microsecond at each reading, and by hand."""

    def __init__(self, now_ns: int = 1_800_000_000_000_000_000) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        """The time; the next reading is later."""
        self.now_ns += 1000
        return self.now_ns

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(seconds * 1e9)


class InProcess(httpx.BaseTransport):
    """Carries a client's requests to an ASGI application in this process: device and factory without a socket."""

    def __init__(self, portal: BlockingPortal, app: Any) -> None:
        self._portal, self._inner = portal, httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Ask the application; the whole answer is read."""
        request.read()

        async def ask() -> httpx.Response:
            asked = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
            answer = await self._inner.handle_async_request(asked)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return self._portal.call(ask)


@contextmanager
def in_process(app: Any) -> Iterator[httpx.Client]:
    """A client of an ASGI application; its lifespan runs as under a server."""
    with start_blocking_portal() as portal:
        life = app.router.lifespan_context(app)
        with portal.wrap_async_context_manager(life):
            yield httpx.Client(transport=InProcess(portal, app), base_url="http://factory")
