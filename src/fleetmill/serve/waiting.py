"""The hand of the queue: requests wait here for a server, in the order and within the bounds of `queue`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fleetmill.serve.policy import Reason, Refusal
from fleetmill.serve.pool import Pool
from fleetmill.serve.queue import Place, Queue, Turned

WAIT_SECONDS = 30.0  # for a first token, where the client does not say
WAITING = 256  # places
_LOOK_SECONDS = 0.1  # who can no more be in time is told after so long at the latest
_MOST_RETRY = 60.0
Taken = TypeVar("Taken")


@dataclass(slots=True)
class _Guest(Generic[Taken]):
    place: Place
    take: Callable[[], Taken | Refusal]
    found: asyncio.Future[Taken | Refusal] = field(repr=False)


class Room(Generic[Taken]):
    """Where requests wait. `most`: places; 0: nobody waits. `clock`: seconds, monotonic."""

    def __init__(self, pool: Pool, *, most: int = WAITING, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._most, self._clock = pool, most, clock
        self._queue = Queue(most)
        self._guests: dict[int, _Guest[Taken]] = {}
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        pool.on_free = self.look

    def __len__(self) -> int:
        return len(self._guests)

    @property
    def is_open(self) -> bool:
        """Whether anybody may wait at all."""
        return self._most > 0

    async def wait(
        self,
        take: Callable[[], Taken | Refusal],
        give_back: Callable[[Taken], None],
        *,
        tenant: str,
        servers: frozenset[str],
        until: float,
        seconds: float,
        cost: float,
        priority: int,
    ) -> Taken | Refusal:
        """Until `take` gives something else than that all are busy; it is called when one of `servers` has room.

        What it gives is given on; a refusal if the queue is full or it would be late. Cancelled: it leaves the queue,
        and what it was just being given goes back.
        """
        now = self._clock()
        place = Place(
            until=until,
            number=next(self._numbers),
            tenant=tenant,
            servers=servers,
            seconds=seconds,
            cost=cost,
            priority=priority,
        )
        gone = self._queue.join(place, now=now, rate=self._pool.rate)
        if isinstance(gone, Turned):
            return _turned(gone)
        for other in gone:
            self._tell(other, _turned(Turned(is_late=False, seconds=1.0)))
        found: asyncio.Future[Taken | Refusal] = asyncio.get_running_loop().create_future()
        self._guests[place.number] = _Guest(place, take, found)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._tick)
        try:
            return await found
        except asyncio.CancelledError:
            if found.done() and not found.cancelled() and not isinstance(given := found.result(), Refusal):
                give_back(given)
            raise
        finally:
            if self._guests.pop(place.number, None) is not None:
                self._queue.leave(place)

    def look(self) -> None:
        """Give what is free to those who are next."""
        passed: set[int] = set()
        while self._guests and (free := self._pool.free()):
            place = self._queue.next(free, passed)
            if place is None:
                return
            if self._clock() + place.seconds > place.until:
                self._queue.leave(place)
                self._tell(place, _LATE)
                continue
            guest = self._guests[place.number]
            if guest.found.done():  # it has just left
                self._queue.leave(place)
                continue
            try:
                taken = guest.take()
            except Exception as error:  # noqa: BLE001 - it is the guest's, not of whoever just gave a place back
                self._queue.leave(place)
                del self._guests[place.number]
                guest.found.set_exception(error)
                continue
            if not isinstance(taken, Refusal):
                self._queue.served(place)
            elif taken.reason in (Reason.BUSY, Reason.DOWN):
                passed.add(place.number)
                continue
            self._queue.leave(place)
            self._tell(place, taken)

    def _tell(self, place: Place, found: Taken | Refusal) -> None:
        guest = self._guests.pop(place.number, None)
        if guest is not None and not guest.found.done():
            guest.found.set_result(found)

    def _tick(self) -> None:
        self._timer = None
        for place in self._queue.late(self._clock()):
            self._queue.leave(place)
            self._tell(place, _LATE)
        self.look()
        if self._guests:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._tick)


_LATE = Refusal(reason=Reason.LATE, sentence="no server got free in time", retry_seconds=1.0)


def _turned(turned: Turned) -> Refusal:
    seconds = min(max(turned.seconds, 1.0), _MOST_RETRY)
    if turned.is_late:
        return Refusal(reason=Reason.LATE, sentence="so many wait that it would be late", retry_seconds=seconds)
    return Refusal(reason=Reason.BUSY, sentence="all servers are full, and so is the queue", retry_seconds=seconds)
