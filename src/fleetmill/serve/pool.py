"""The servers and what is known of each: load, speed, failures. Servers join and leave at run time.

One that fails three times in a row, or is far slower than it was three times in a row while others are not, is left
alone for a second, then two, four, up to a minute; then one request tries it. At most half of the servers of a model
are left alone at once: a bad hour of all is no reason to ask nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fleetmill.core.errors import ConflictError, NotFoundError
from fleetmill.core.serve import Ask, Load, Server, Standing
from fleetmill.serve.learned import Learned, load_of

_FAILURES = 3
_EJECTED_SECONDS = (1.0, 60.0)
_MOST_EJECTED = 0.5
_BEGINNINGS = 4096  # prompts' beginnings that are remembered per server
_PREFIX_BYTES, _BYTES_PER_TOKEN = 1024, 3
_LEAST_HIGH = 0.05  # seconds: nobody is called late before


@dataclass(slots=True)
class _State:
    server: Server
    learned: Learned
    in_flight: int = 0
    unread: float = 0.0  # tokens of requests that have no first byte yet
    failures: int = 0  # in a row
    ejections: int = 0  # in a row
    era: int = 0  # ejections ever
    until: float = 0.0  # left alone until then
    paused: float = 0.0  # it said itself that it takes nothing until then
    is_draining: bool = False
    is_down: bool = False  # it says so itself, or says nothing
    others: int = 0  # requests that it has beside those of this process, as it said
    answered: int = 0
    failed: int = 0
    held: OrderedDict[str, None] = field(default_factory=OrderedDict)  # beginnings of prompts that it has read

    @property
    def limit(self) -> int:
        """Requests at once."""
        return min(int(self.learned.limit), self.server.capacity)


@dataclass(slots=True)
class Seat:
    """A place at a server, taken before it is asked and given back when all is over."""

    name: str
    in_flight: int  # when it was taken, itself included
    tokens: float  # to be read before its first token
    own: float  # of these its own
    at_once: bool
    predicted: float  # seconds to the first byte
    has_spoken: float = 0.0  # seconds after which it did; 0: not yet
    era: int = 0  # ejections of the server before it was taken: of an earlier era it is old news


class Pool:
    """All servers of one gateway process. `clock`: seconds, monotonic."""

    on_free: Callable[[], None] | None = None  # called when a server may have room again

    def __init__(self, servers: Iterable[Server] = (), *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._states = {s.name: _state(s) for s in servers}
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
            self._states[server.name] = _state(server)
        else:
            known.is_draining = False
        self._servers = [s.server for s in self._states.values()]
        self._freed()

    def leave(self, name: str) -> bool:
        """It gets nothing new and goes when its last answer is whole; whether it is gone already."""
        self.server(name)
        self._states[name].is_draining = True
        return self._gone(name)

    def standings(self, ask: Ask | None = None) -> Mapping[str, Standing]:
        """How each stands now; `ask`: what the predictions are for."""
        now = self._clock()
        return {name: _standing(state, now, ask) for name, state in self._states.items()}

    def free(self) -> set[str]:
        """Servers that may be asked one more."""
        now = self._clock()
        return {
            name
            for name, s in self._states.items()
            if s.in_flight + s.others < s.limit and s.paused <= now and not (s.is_draining or _is_left(s, now))
        }

    def rate(self, names: Iterable[str]) -> float:
        """Answers per second that these servers end when all their places are taken; infinite: not known yet."""
        now, found = self._clock(), 0.0
        for name in names:
            state = self._states.get(name)
            if state is None or state.is_draining or _is_left(state, now):
                continue
            if not state.learned.answer_seconds:
                return float("inf")
            found += max(1.0, min(state.learned.limit, state.server.capacity)) / state.learned.answer_seconds
        return found

    def began(self, name: str, ask: Ask | None = None, predicted: float | None = None) -> Seat:
        """Take a place at it, right after it was chosen. `predicted`: seconds to its first byte, where it is known."""
        state = self._states.get(name)
        if state is None:
            return _told(name, 1)
        state.in_flight += 1
        own, at_once = (0.0, False) if ask is None else (ask.tokens_in * (1.0 - _hit(state, ask)), ask.at_once)
        tokens = state.unread + own
        if predicted is None:
            predicted = state.learned.kind(at_once).seconds(load_of(state.in_flight), tokens)
        seat = Seat(name, state.in_flight, tokens, own, at_once, predicted, era=state.era)
        state.unread = tokens
        if ask is not None and ask.prefix:
            for digest in ask.prefix:
                state.held[digest] = None
                state.held.move_to_end(digest)
            while len(state.held) > _BEGINNINGS:
                state.held.popitem(last=False)
        return seat

    def spoke(self, name: str, seconds: float, seat: Seat | None = None) -> None:
        """Its first byte came so long after it was asked."""
        state = self._states.get(name)
        if state is None:
            return
        if seat is None:
            seat = Seat(
                name=name, in_flight=state.in_flight, tokens=0, own=0, at_once=False, predicted=0.0, era=state.era
            )
        elif seat.has_spoken:
            return
        seat.has_spoken = seconds or 1e-9
        state.unread = max(0.0, state.unread - seat.own)
        state.learned.spoke(
            at_once=seat.at_once,
            in_flight=seat.in_flight,
            tokens=seat.tokens,
            seconds=seconds,
            predicted=seat.predicted,
        )
        if seat.era == state.era:
            self._judge_pace(state)

    def ended(self, seat: Seat, *, good: bool | None, tokens: int = 0, seconds: float = 0.0) -> None:
        """Its answer is over: whole, or the server failed at it; None: neither (the client left, another was faster).

        `tokens` that it wrote, `seconds` since it was asked. How long nothing was heard of it is learned in each case.
        """
        state = self._states.get(seat.name)
        if state is None:
            return
        state.in_flight -= 1
        if not seat.has_spoken:
            state.unread = max(0.0, state.unread - seat.own)
        if good:
            state.failures = 0
            state.answered += 1
            spoken = 0.0 if seat.at_once else seat.has_spoken
            state.learned.wrote(at_once=seat.at_once, tokens=tokens, seconds=max(0.0, seconds - spoken))
            state.learned.took(seconds)
            if state.learned.slow == 0:
                state.ejections = 0
        elif good is None:
            if not seat.has_spoken and not seat.at_once:
                state.learned.waited(seconds, seat.predicted, is_over=False)
        else:
            state.failed += 1
            state.failures += 1
        if seat.era == state.era:
            if state.failures >= _FAILURES and good is False:
                self._eject(state)
            self._judge_pace(state)
        self._gone(seat.name)
        self._freed()

    def refused(self, seat: Seat, seconds: float) -> None:
        """It says that it takes no more for so long. Nothing is held against it, and it gets fewer at once after that.

        Others that were under way may hear the same: that is one refusal.
        """
        state, now = self._states.get(seat.name), self._clock()
        if state is not None:
            if state.paused <= now:
                state.learned.refused(state.in_flight)
            state.paused = max(state.paused, now + min(seconds, _EJECTED_SECONDS[1]))

    def pause(self, name: str) -> float:
        """Seconds for which it takes nothing, as it said."""
        return max(0.0, self._states[name].paused - self._clock()) if name in self._states else 0.0

    def told(self, name: str, *, is_up: bool, load: Load | None = None, own: int = 0) -> None:
        """What it says of itself. `own`: requests of this process that it may have counted, see `in_flight`."""
        state = self._states.get(name)
        if state is not None:
            state.is_down = not is_up
            state.others = 0 if load is None else max(0, load.running + load.waiting - max(own, state.in_flight))
            self._freed()  # who waits may have a place now

    def in_flight(self, name: str) -> int:
        """Requests of this process that it has now."""
        return self._states[name].in_flight if name in self._states else 0

    def tallies(self) -> dict[str, dict[str, int]]:
        """Answers and failures by server, for the metrics."""
        return {
            name: {
                "answered": s.answered,
                "failed": s.failed,
                "in_flight": s.in_flight,
                "limit": s.limit,
                "ejected": int(_is_left(s, self._clock())),
            }
            for name, s in self._states.items()
        }

    def _judge_pace(self, state: _State) -> None:
        """Slow three times in a row, while at least half of those with the same model are not."""
        if state.learned.slow < _FAILURES:
            return
        peers = [s for s in self._peers(state) if s is not state]
        if 2 * sum(s.learned.slow == 0 for s in peers) >= len(peers):
            self._eject(state)

    def _eject(self, state: _State) -> None:
        now = self._clock()
        if state.until > now:  # it is already; what was begun before says nothing new
            return
        peers = self._peers(state)
        ejected = sum(s.until > now for s in peers if s is not state)
        if len(peers) < 2 or ejected + 1 > _MOST_EJECTED * len(peers):
            return
        least, most = _EJECTED_SECONDS
        state.until = now + min(least * 2**state.ejections, most)
        state.ejections += 1
        state.era += 1

    def _peers(self, state: _State) -> list[_State]:
        models = set(state.server.models)
        return [s for s in self._states.values() if models & set(s.server.models)]

    def _gone(self, name: str) -> bool:
        state = self._states[name]
        if state.is_draining and state.in_flight <= 0:
            del self._states[name]
            self._servers = [s.server for s in self._states.values()]
            return True
        return False

    def _freed(self) -> None:
        if self.on_free is not None:
            self.on_free()


def _told(name: str, in_flight: int) -> Seat:
    """A seat of which nothing else is known."""
    return Seat(name=name, in_flight=in_flight, tokens=0.0, own=0.0, at_once=False, predicted=0.0)


def _state(server: Server) -> _State:
    return _State(server=server, learned=Learned(server.capacity))


def _is_left(state: _State, now: float) -> bool:
    """Left alone now, down, or tried by one request just now."""
    if state.until > now or state.is_down:
        return True
    is_tried = state.ejections > 0 and (state.failures >= _FAILURES or state.learned.slow >= _FAILURES)
    return is_tried and state.in_flight > 0


def _hit(state: _State, ask: Ask) -> float:
    """The share of the prompt that it has read before."""
    known = 0
    for digest in ask.prefix:
        if digest not in state.held:
            break
        known += 1
    return 0.0 if not known else min(1.0, (_PREFIX_BYTES << known - 1) / (_BYTES_PER_TOKEN * max(ask.tokens_in, 1)))


def _standing(state: _State, now: float, ask: Ask | None) -> Standing:
    learned = state.learned
    hit = _hit(state, ask) if ask is not None and ask.prefix else 0.0
    kind = learned.kind(ask is not None and ask.at_once)
    tokens = state.unread + (ask.tokens_in * (1.0 - hit) if ask is not None else 0.0)
    seconds = kind.seconds(load_of(state.in_flight + 1), tokens)
    return Standing(
        in_flight=state.in_flight + state.others,
        limit=0 if state.paused > now else int(learned.limit),
        first_token_seconds=seconds,
        high_seconds=max(_LEAST_HIGH, seconds * kind.high),
        hit=hit,
        token_seconds=kind.pace or 0.02,
        is_ejected=_is_left(state, now),
        is_draining=state.is_draining,
    )
