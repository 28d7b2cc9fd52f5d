"""Small stand-ins that ship: a clock turned by hand, a client without a socket, episodes in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import httpx
import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fleetmill.core.errors import NotFoundError
from fleetmill.core.line import Array, Episode, Metrics, Stopped


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


class Held:
    """Episodes in memory as `core.line.Data`."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self._episodes = episodes

    def split(self, name: Literal["train", "validation"]) -> Held:  # noqa: ARG002
        """The same episodes."""
        return self

    def column(self, feature: str) -> Array:
        """All rows of one feature."""
        return np.concatenate([e.columns[feature] for e in self._episodes])

    def bounds(self) -> Array:
        """Episode e is rows bounds[e]:bounds[e+1]."""
        return np.concatenate([[0], np.cumsum([len(e.times_ns) for e in self._episodes])]).astype(np.int64)

    def episode(self, index: int) -> Episode:
        """One episode."""
        return self._episodes[index]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._episodes)


class Rows:
    """Columns in memory as `core.line.Data`: one episode, every split the same."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self._columns = columns

    def split(self, name: Literal["train", "validation"]) -> Rows:  # noqa: ARG002
        """The same rows."""
        return self

    def column(self, feature: str) -> Array:
        """All rows of one feature."""
        return self._columns[feature]

    def bounds(self) -> Array:
        """The one episode's edges."""
        return np.array([0, len(next(iter(self._columns.values())))], np.int64)

    def episode(self, index: int) -> Episode:
        """There are rows only.

        Raises:
            NotFoundError: always.
        """
        raise NotFoundError(f"episode {index}: these are rows without episodes")

    def __len__(self) -> int:
        """Number of episodes: 1, or 0 without rows."""
        return int(self.bounds()[1] > 0)


class Notes:
    """A tracker that remembers what it was told, and stops the run at a step; `core.line.Tracker`."""

    def __init__(self, saved: tuple[int, bytes] | None = None, stop_at: int = -1) -> None:
        self.states: dict[int, bytes] = {}
        self.metrics: list[Metrics] = []
        self._saved, self._stop_at = saved, stop_at

    def step(self, step: int, of: int, metrics: Metrics) -> None:  # noqa: ARG002
        """Remember the metrics.

        Raises:
            Stopped: this is the step to stop at.
        """
        self.metrics.append(metrics)
        if step == self._stop_at:
            raise Stopped

    def save(self, step: int, state: bytes) -> None:
        """Remember the state."""
        self.states[step] = state

    def saved(self) -> tuple[int, bytes] | None:
        """What an earlier run is said to have saved."""
        return self._saved


class InMemory:
    """Files in memory as `core.line.Files`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def names(self) -> Sequence[str]:
        """Their names, in order."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self._files[name]
