"""The servers and what is known of each: load, speed, failures. Servers join and leave at run time.

What a server takes to its first token is learned per number of requests that it has at once, since that is what it
depends on most. One that fails three times in a row is left alone for a second, then two, four, up to a minute; then
one request tries it. At most half of the servers of a model are left alone at once: a bad hour of all is no reason to
ask nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fleetmill.core.errors import ConflictError, NotFoundError
from fleetmill.core.serve import Load, Server, Standing

_FAILURES = 3
_EJECTED_SECONDS = (1.0, 60.0)
_NEW = 0.2  # weight of a new figure in what is learned
_MOST_EJECTED = 0.5


@dataclass(slots=True)
class _State:
    server: Server
    in_flight: int = 0
    first_token: dict[int, float] = field(default_factory=dict)  # seconds, by load
    token_seconds: float = 0.02
    failures: int = 0  # in a row
    ejections: int = 0  # in a row
    until: float = 0.0  # left alone until then
    is_draining: bool = False
    is_down: bool = False  # it says so itself, or says nothing
    others: int = 0  # requests that it has beside those of this process, as it said
    answered: int = 0
    failed: int = 0


class Pool:
    """All servers of one gateway process. `clock`: seconds, monotonic."""

    def __init__(self, servers: Iterable[Server] = (), *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._states = {s.name: _State(server=s) for s in servers}
        self._servers = [s.server for s in self._states.values()]

    @property
    def servers(self) -> list[Server]:
        """Those that are in it."""
        return self._servers

    def server(self, name: str) -> Server:
        """By its name.

        Raises:
            NotFoundError: there is none.
        """
        if name not in self._states:
            raise NotFoundError(f"server {name}: is not in the pool")
        return self._states[name].server

    def join(self, server: Server) -> None:
        """A server comes in, or one that was leaving stays.

        Raises:
            ConflictError: another one has that name.
        """
        known = self._states.get(server.name)
        if known is not None and known.server != server:
            raise ConflictError(f"server {server.name}: another one has that name. Let it leave first")
        if known is None:
            self._states[server.name] = _State(server=server)
        else:
            known.is_draining = False
        self._servers = [s.server for s in self._states.values()]

    def leave(self, name: str) -> bool:
        """It gets nothing new and goes when its last answer is whole; whether it is gone already."""
        self.server(name)
        self._states[name].is_draining = True
        return self._gone(name)

    def standings(self) -> Mapping[str, Standing]:
        """How each stands now."""
        now = self._clock()
        return {name: _standing(state, now) for name, state in self._states.items()}

    def began(self, name: str) -> None:
        """It was asked something."""
        if name in self._states:
            self._states[name].in_flight += 1

    def spoke(self, name: str, seconds: float) -> None:
        """Its first token came so long after it was asked."""
        state = self._states.get(name)
        if state is not None:
            load = _load(state.in_flight)
            before = state.first_token.get(load)
            state.first_token[load] = seconds if before is None else before + _NEW * (seconds - before)

    def ended(self, name: str, *, good: bool, tokens: int = 0, seconds: float = 0.0) -> None:
        """Its answer is over: whole, or the server failed at it (a client that hung up is no failure of the server)."""
        state = self._states.get(name)
        if state is None:
            return
        state.in_flight -= 1
        if good:
            state.failures = state.ejections = 0
            state.answered += 1
            if tokens > 1:
                state.token_seconds += _NEW * (seconds / tokens - state.token_seconds)
        else:
            state.failed += 1
            state.failures += 1
            if state.failures >= _FAILURES and self._may_eject(state):
                least, most = _EJECTED_SECONDS
                state.until = self._clock() + min(least * 2**state.ejections, most)
                state.ejections += 1
        self._gone(name)

    def told(self, name: str, *, is_up: bool, load: Load | None = None, own: int = 0) -> None:
        """What it says of itself. `own`: requests of this process that it may have counted, see `in_flight`."""
        state = self._states.get(name)
        if state is not None:
            state.is_down = not is_up
            state.others = 0 if load is None else max(0, load.running + load.waiting - max(own, state.in_flight))

    def in_flight(self, name: str) -> int:
        """Requests of this process that it has now."""
        return self._states[name].in_flight if name in self._states else 0

    def tallies(self) -> dict[str, dict[str, int]]:
        """Answers and failures by server, for the metrics."""
        return {
            name: {"answered": s.answered, "failed": s.failed, "in_flight": s.in_flight}
            for name, s in self._states.items()
        }

    def _may_eject(self, state: _State) -> bool:
        now, models = self._clock(), set(state.server.models)
        peers = [s for s in self._states.values() if models & set(s.server.models)]
        ejected = sum(s.until > now for s in peers if s is not state)
        return len(peers) > 1 and ejected + 1 <= _MOST_EJECTED * len(peers)

    def _gone(self, name: str) -> bool:
        state = self._states[name]
        if state.is_draining and state.in_flight <= 0:
            del self._states[name]
            self._servers = [s.server for s in self._states.values()]
            return True
        return False


def _standing(state: _State, now: float) -> Standing:
    trying = state.failures >= _FAILURES and state.ejections > 0 and state.in_flight > 0  # one request tries it
    return Standing(
        in_flight=state.in_flight + state.others,
        first_token_seconds=_predicted(state),
        token_seconds=state.token_seconds,
        is_ejected=state.until > now or trying or state.is_down,
        is_draining=state.is_draining,
    )


def _predicted(state: _State) -> float:
    """What was learned at this load, else at the nearest; of a server that never answered nothing bad is thought."""
    if not state.first_token:
        return 0.0
    load = _load(state.in_flight + 1)
    return state.first_token[min(state.first_token, key=lambda known: (abs(known - load), known))]


def _load(in_flight: int) -> int:
    """0, 1, 2-3, 4-7, ... requests at once."""
    return int(math.log2(in_flight)) + 1 if in_flight > 0 else 0
