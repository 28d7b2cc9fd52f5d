"""Keeps the pool as the settings and the home's nodes want it, and each own server's state as it says itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleetmill.core.errors import ConflictError, InvalidInputError, UnavailableError
from fleetmill.core.serve import Load, Server
from fleetmill.engines.serving import known
from fleetmill.logs import words
from fleetmill.serve.egress import Egress
from fleetmill.serve.pool import Pool
from fleetmill.serve.servers import backends, probe
from fleetmill.settings import BackendSettings

LOOK_SECONDS = 1.0  # how often it is looked who shall be there
ASK_SECONDS = 3.0  # how often an own server is asked how it does
_SILENT = 2  # times in a row: then it counts as down
_LOG = logging.getLogger("fleetmill.serve")


@dataclass(slots=True)
class _Watched:
    """One server that there shall be."""

    backend: BackendSettings
    server: Server | None = None  # None: it has not said yet what it serves
    load: Load | None = None
    is_up: bool = True
    why: str = ""  # it is not used
    is_blocked: bool = False  # its key is missing here
    is_asking: bool = False
    silent: int = 0
    asked: float = 0.0  # when, by the clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """How a server stands, for `fleetmill serve status`."""

    name: str
    tier: str
    engine: str
    models: tuple[str, ...]
    state: str  # up, down, leaving, or not joined
    in_flight: int  # of this process
    load: Load | None
    why: str


class Roster:
    """One per gateway process. `wanted` gives the servers that there shall be; `clock` gives seconds."""

    def __init__(
        self,
        pool: Pool,
        egress: Egress,
        *,
        wanted: Callable[[], Sequence[BackendSettings]],
        secrets: Callable[[Sequence[BackendSettings]], Mapping[str, str]],
        clock: Callable[[], float],
    ) -> None:
        self._pool, self._egress, self._wanted, self._secrets, self._clock = pool, egress, wanted, secrets, clock
        self.keys: dict[str, str] = {}  # what each server wants as key; the relay reads it too
        self._all: dict[str, _Watched] = {}
        self.follow()

    def follow(self) -> None:
        """Take in who is new, and let go who shall not be there any more.

        Raises:
            InvalidInputError: what stands there is no pool.
        """
        wanted = self._wanted()
        backends.checked(wanted)
        now = {b.name: b for b in wanted}
        for name, watched in list(self._all.items()):
            if now.get(name) != watched.backend:
                self._let_go(watched)
        for name, backend in now.items():
            if name not in self._all:
                self._all[name] = self._taken_in(backend)

    async def look(self) -> None:
        """Ask those whose turn it is, all at once, and wait for what they say."""
        await asyncio.gather(*(self._ask(w) for w in self._due()))

    async def run(self) -> None:
        """Until cancelled. What cannot be followed is said, and what is there goes on; who is slow holds up nobody."""
        told, asking = "", set[asyncio.Task[None]]()
        try:
            while True:
                try:
                    self.follow()
                    told = ""
                except (InvalidInputError, UnavailableError) as error:
                    if (why := words(error)) != told:
                        told = why
                        _LOG.error("the pool stays as it is", extra={"why": why})
                asking |= {asyncio.create_task(self._ask(w)) for w in self._due()}
                asking = {task for task in asking if not task.done()}
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in asking:
                task.cancel()

    def _due(self) -> list[_Watched]:
        now = self._clock()
        found = [w for w in self._all.values() if not w.is_asking and (w.asked == 0.0 or now - w.asked >= ASK_SECONDS)]
        for watched in found:
            watched.asked, watched.is_asking = now, True
        return found

    def seen(self) -> list[Seen]:
        """How all stand, those that are leaving too."""
        standings = self._pool.standings()
        servers = {s.name: s for s in self._pool.servers}
        gone = [n for n in servers if n not in self._all]
        found = [self._seen(name, w) for name, w in self._all.items()]
        return [
            *found,
            *(
                Seen(
                    name=n,
                    tier=servers[n].tier.name.lower(),
                    engine=servers[n].engine,
                    models=tuple(servers[n].models),
                    state="leaving" if standings[n].is_draining else "up",
                    in_flight=self._pool.in_flight(n),
                    load=None,
                    why="",
                )
                for n in gone
            ),
        ]

    def _seen(self, name: str, watched: _Watched) -> Seen:
        is_in = watched.server is not None and not watched.why
        return Seen(
            name=name,
            tier=watched.backend.tier,
            engine=watched.backend.engine,
            models=tuple(watched.server.models) if watched.server else (),
            state=("up" if watched.is_up else "down") if is_in else "not joined",
            in_flight=self._pool.in_flight(name),
            load=watched.load,
            why=watched.why,
        )

    def _taken_in(self, backend: BackendSettings) -> _Watched:
        self.keys.pop(backend.name, None)  # who had that name before had another key
        try:
            self.keys.update(self._secrets([backend]))
        except InvalidInputError as error:
            return _Watched(backend, is_blocked=True, why=str(error))
        watched = _Watched(backend, backends.server(backend) if backend.models else None)
        self._join(watched)
        return watched

    def _let_go(self, watched: _Watched) -> None:
        del self._all[watched.backend.name]
        if watched.server is not None and watched.backend.name in self._pool.standings():
            self._pool.leave(watched.backend.name)
            _LOG.info("a server leaves", extra={"server": watched.backend.name})

    def _join(self, watched: _Watched) -> None:
        if watched.server is None:
            return
        try:
            self._pool.join(watched.server)
            watched.why = ""
        except ConflictError:  # what had its name has not gone yet
            watched.why = "waits until the one of that name before it has gone"

    async def _ask(self, watched: _Watched) -> None:
        try:
            if not watched.is_blocked:
                await self._asked(watched)
        finally:
            watched.is_asking = False

    async def _asked(self, watched: _Watched) -> None:
        """What it serves, if that is not known; then whether it is there, and how busy."""
        backend, engine = watched.backend, known.find(watched.backend.engine)
        key = self.keys.get(backend.name)
        try:
            if watched.server is None:
                told = await probe.models(self._egress, backends.server(backend, {}), engine, key=key)
                watched.server = backends.server(backend, told)
                _LOG.info("a server joins", extra={"server": backend.name, "models": sorted(told)})
            if self._all.get(backend.name) is not watched:
                return  # it left while it was asked
            if backend.name not in self._pool.standings() or watched.why:
                self._join(watched)
            if not probe.is_watched(watched.server):
                return
            own = self._pool.in_flight(backend.name)
            watched.is_up = await probe.is_up(self._egress, watched.server, engine, key=key)
            watched.load = await probe.load(self._egress, watched.server, engine, key=key) if watched.is_up else None
            watched.silent = 0
        except (UnavailableError, InvalidInputError) as error:
            self._failed(watched, error)
            own = 0
        if self._all.get(backend.name) is watched:  # it may have left meanwhile
            self._pool.told(backend.name, is_up=watched.is_up, load=watched.load, own=own)

    def _failed(self, watched: _Watched, error: UnavailableError | InvalidInputError) -> None:
        watched.load = None
        if watched.server is None:
            watched.why = probe.fault(error)
            return
        if isinstance(error, UnavailableError):
            watched.silent += 1
            watched.is_up = watched.is_up and watched.silent < _SILENT
