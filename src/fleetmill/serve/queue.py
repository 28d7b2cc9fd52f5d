"""Who waits at the gateway, who is next, and who would be too late: a rule without clock, task or socket.

Order: the higher priority; within it the tenant that was given least lately (start-time fair queueing: a tenant pays
for each of its requests with what it may cost in tokens, and one that was idle has saved nothing); within a tenant the
earliest deadline. While no tenant takes more than others, that is the earliest deadline of all.

Who comes is taken only if it would be in time at the rate at which the servers that may answer it end answers, and if
nobody who was taken before would be late by it. A tenant with fewer waiting takes the place of the latest of the one
with most, rather than be refused because of it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

_SLACK = 1e-6  # seconds: sums of floats may be off by that
Rate = Callable[[frozenset[str]], float]  # answers per second that these servers end together


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Place:
    """Somebody who waits; ordered as a tenant's own requests are."""

    until: float  # its first token must be there by then, seconds
    number: int  # in the order of coming
    tenant: str = field(compare=False)
    servers: frozenset[str] = field(compare=False)  # that may answer it
    seconds: float = field(compare=False)  # predicted to its first token once it is asked
    cost: float = field(compare=False, default=1.0)  # in tokens
    priority: int = field(compare=False, default=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turned:
    """Nobody more can wait, or not in time."""

    is_late: bool  # else the queue is full
    seconds: float  # after which it is worth to ask again


@dataclass(slots=True)
class _Tenant:
    waiting: dict[int, list[Place]] = field(default_factory=dict)  # by priority, earliest deadline first
    paid: float = 0.0

    @property
    def number(self) -> int:
        return sum(map(len, self.waiting.values()))


class Queue:
    """At most `most` places."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tenants: dict[str, _Tenant] = {}
        self._time = 0.0  # what the tenant served last had paid before: what an idle one is taken to have paid
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def join(self, place: Place, *, now: float, rate: Rate) -> tuple[Place, ...] | Turned:
        """Take it in; those that have to go for it, or why it cannot wait."""
        gone: list[Place] = []
        if self._size >= self._most:
            last = max((p for p in self.order() if self._yields(p, place)), default=None)
            if last is None:
                return Turned(is_late=False, seconds=self._drained(place, rate))
            gone.append(last)
            self.leave(last)
        self._put(place)
        while (late := self._late_by(place, now, rate)) is not None:
            late_by, behind = late
            if behind is None or not self._yields(behind, place):
                self.leave(place)
                for one in gone:
                    self._put(one)
                return Turned(is_late=True, seconds=late_by)
            gone.append(behind)
            self.leave(behind)
        return tuple(gone)

    def leave(self, place: Place) -> None:
        """It waits no longer; once is enough."""
        tenant = self._tenants.get(place.tenant)
        waiting = tenant.waiting.get(place.priority, []) if tenant is not None else []
        at = bisect_left(waiting, place)
        if at < len(waiting) and waiting[at].number == place.number:
            del waiting[at]
            self._size -= 1

    def served(self, place: Place) -> None:
        """It was given a server: it leaves, and its tenant pays."""
        least = min(self._begun(t) for t in self._tenants.values() if t.number)
        tenant = self._tenants[place.tenant]
        tenant.paid = self._begun(tenant) + place.cost
        self._time = max(self._time, least)
        self.leave(place)
        if not self._size:  # nobody waits: nobody is behind
            self._tenants.clear()
            self._time = 0.0

    def order(self, but: int = -1) -> Iterator[Place]:
        """All that wait, but for one, who is next first. Not to be changed meanwhile.

        A tenant pays for what it is given before, at a higher priority too.
        """
        paid = {name: self._begun(tenant) for name, tenant in self._tenants.items()}
        levels = {level for t in self._tenants.values() for level, waiting in t.waiting.items() if waiting}
        for level in sorted(levels, reverse=True):
            heads = [
                (paid[name], tenant.waiting[level][0], 0, tenant.waiting[level])
                for name, tenant in self._tenants.items()
                if tenant.waiting.get(level)
            ]
            heapq.heapify(heads)
            while heads:
                _, place, at, waiting = heads[0]
                if place.number != but:
                    yield place
                    paid[place.tenant] += place.cost
                if at + 1 < len(waiting):
                    heapq.heapreplace(heads, (paid[place.tenant], waiting[at + 1], at + 1, waiting))
                else:
                    heapq.heappop(heads)

    def late(self, now: float) -> list[Place]:
        """Those that could not be in time any more."""
        return [place for place in self.order() if now + place.seconds > place.until]

    def next(self, free: Collection[str], passed: Collection[int] = ()) -> Place | None:
        """Who is next for one of these servers, but for those passed over."""
        for place in self.order():
            if place.number not in passed and not place.servers.isdisjoint(free):
                return place
        return None

    def _put(self, place: Place) -> None:
        tenant = self._tenants.setdefault(place.tenant, _Tenant())
        insort(tenant.waiting.setdefault(place.priority, []), place)
        self._size += 1

    def _begun(self, tenant: _Tenant) -> float:
        return max(tenant.paid, self._time)

    def _late_by(self, new: Place, now: float, rate: Rate) -> tuple[float, Place | None] | None:
        """(seconds, who) of the first that would be late with the new one in: itself (None), or one behind it.

        Whoever would be late without it too does not count; of whom that is said, a turn may be half over.
        """
        ahead, is_behind, turns = 0, False, dict[frozenset[str], float]()
        before: dict[int, int] | None = None
        for place in self.order():
            is_new = place.number == new.number
            is_behind = is_behind or is_new
            if place.servers.isdisjoint(new.servers):
                continue
            ahead += 1
            if not is_behind:
                continue
            if place.servers not in turns:
                pace = rate(place.servers)
                turns[place.servers] = 1.0 / pace if pace > 0.0 else float("inf")
            turn = turns[place.servers]
            late = now + ahead * turn + place.seconds - place.until
            if late <= _SLACK:
                continue
            if is_new:
                return late, None
            before = before or self._ahead(new)
            if late - (ahead - before[place.number] + 1) * turn <= _SLACK:
                return late, place
        return None

    def _ahead(self, but: Place) -> dict[int, int]:
        """By number: how many come no later than that one, of those that share a server with `but`, which is not in."""
        rivals = (p for p in self.order(but.number) if not p.servers.isdisjoint(but.servers))
        return {place.number: ahead for ahead, place in enumerate(rivals, start=1)}

    def _yields(self, place: Place, new: Place) -> bool:
        """Whether it gives way: of a lower priority, or of a tenant with more waiting than the new one's would have."""
        if place.priority != new.priority:
            return place.priority < new.priority
        mine = self._tenants.get(new.tenant)
        is_in = mine is not None and new in mine.waiting.get(new.priority, [])
        return self._tenants[place.tenant].number > (mine.number if mine is not None else 0) + (not is_in)

    def _drained(self, new: Place, rate: Rate) -> float:
        pace = rate(new.servers)
        ahead = sum(not p.servers.isdisjoint(new.servers) for p in self.order())
        return ahead / pace if pace > 0.0 else 1.0
