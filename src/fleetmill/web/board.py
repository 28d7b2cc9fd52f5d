"""One look for all who watch: a task looks at the ledger, a page and its changed parts are made once and shared.

Nobody is queued for: each stream remembers the version that it has sent and takes from the newest state what is newer,
so a slow reader skips what lay between and holds nothing.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from anyio import CapacityLimiter, to_thread

from fleetmill.core.errors import FleetmillError, UnavailableError
from fleetmill.home import Home
from fleetmill.web import page
from fleetmill.web.look import Eye, Seen

LOOK_SECONDS = 0.5
BEAT_SECONDS = 1.0  # how often a stream says that it lives
MOST_STREAMS = 200
_BUDGET_SECONDS = 0.25  # of one look, for reading recordings


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part as an event, and the version in which it was last changed."""

    html: str
    event: bytes
    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What all streams share."""

    version: int
    shaped: int  # version in which the frame was last changed
    frame: str
    parts: Mapping[str, Part]
    seen: Seen

    def events(self, after: int) -> bytes:
        """What changed after a version; when the frame did, all of it."""
        if after < self.shaped:
            outside = b"".join(self.parts[id].event for id in ("top", "trouble"))
            return outside + _part("main", self.frame)
        return b"".join(p.event for p in self.parts.values() if p.version > after)


class Board:
    """The newest state of a home's page, and the task that keeps it new while somebody watches."""

    def __init__(self, home: Home) -> None:
        self._home, self._eye, self._parts = home, Eye(home), page.Parts()
        self._boot = secrets.token_hex(4)
        self._state: State | None = None
        self._lock, self._changed = asyncio.Lock(), asyncio.Event()
        self._one_thread: CapacityLimiter | None = None
        self._task: asyncio.Task[None] | None = None
        self._looked, self._streams = -LOOK_SECONDS, 0

    async def page(self) -> str:
        """The whole page, as of now.

        Raises:
            UnavailableError: the ledger does not answer, and never did.
        """
        await self._look()
        state = self._newest()
        html = {id: part.html for id, part in state.parts.items()}
        return page.live(state.seen, html, state.frame, since=self._name(state.version))

    async def stream(self, since: str) -> AsyncIterator[bytes]:
        """Server-sent events from the version that `since` names, for as long as they are read."""
        self._streams += 1
        try:
            self._begin()
            await self._look()
            mine = self._version(since)
            yield _event("hello", page.assets())
            while True:
                state = self._newest()
                yield state.events(mine) + self._now(state)
                mine = state.version
                await self._news(state)
        finally:
            self._streams -= 1
            if not self._streams and self._task is not None:
                self._task.cancel()
                self._task = None

    def check_room(self) -> None:
        """Refuse a stream too many.

        Raises:
            UnavailableError: so many are open already.
        """
        if self._streams >= MOST_STREAMS:
            raise UnavailableError(f"/live: {MOST_STREAMS} streams are open already. Close some pages")

    # -- looking ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        """Look once for all who ask now; in one thread of its own, so that uploads keep theirs."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if clock() - self._looked < LOOK_SECONDS / 2:
                return
            if self._one_thread is None:
                self._one_thread = CapacityLimiter(1)
            state = await to_thread.run_sync(self._make, limiter=self._one_thread)
            self._looked = clock()
            if self._state is None or state.version != self._state.version:
                self._changed.set()
                self._changed = asyncio.Event()
            self._state = state

    def _make(self) -> State:
        """The next state; the last one, with the reason, when the home cannot be read now."""
        known = self._state
        try:
            seen = self._eye.look(budget_seconds=_BUDGET_SECONDS)
        except FleetmillError as error:
            if known is None:
                raise
            seen = replace(known.seen, trouble=f"{error} (this page is of an earlier look)")
        html = self._parts.render(seen)
        before = known.parts if known else {}
        version = known.version if known else 0
        changed = [id for id, text in html.items() if id not in before or before[id].html != text]
        if not changed and before.keys() == html.keys() and known is not None:
            return replace(known, seen=seen)
        new = {id: Part(html=html[id], event=_part(id, html[id]), version=version + 1) for id in changed}
        parts = {id: new.get(id) or before[id] for id in html}
        shaped = known.shaped if known and before.keys() == html.keys() else version + 1
        frame = page.frame(seen, html)
        return State(version=version + 1, shaped=shaped, frame=frame, parts=parts, seen=seen)

    async def _news(self, state: State) -> None:
        """Until there is another state, or a beat has passed."""
        if self._task is not None and self._task.done():
            self._task.result()  # what ended it ends the stream: the browser says so and asks again
        changed = self._changed
        if self._state is None or self._state.version == state.version:
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), BEAT_SECONDS)

    def _newest(self) -> State:
        if self._state is None:
            raise UnavailableError("/: nothing was read yet. Try again")
        return self._state

    # -- names of versions --------------------------------------------------------------------------------------------

    def _name(self, version: int) -> str:
        return f"{self._boot}.{version}"

    def _version(self, since: str) -> int:
        """The version that a client has; -1 where it is of another process, or none at all."""
        boot, _, number = since.partition(".")
        return int(number) if boot == self._boot and number.isdigit() else -1

    def _now(self, state: State) -> bytes:
        return _event("now", str(state.seen.as_of_ns // 10**6), id=self._name(state.version))


def _part(id: str, html: str) -> bytes:
    return _event("part", json.dumps({"id": id, "html": html}))


def _event(name: str, data: str, *, id: str = "") -> bytes:
    """One event; `data` is one line.

    Source: HTML Living Standard, 9.2.5.
    """
    return f"{f'id: {id}' + chr(10) if id else ''}event: {name}\ndata: {data}\n\n".encode()
