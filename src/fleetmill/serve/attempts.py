"""Asking servers: one after another until one answers, a second beside it when the first is late, waiting for room.

Every way to a server is here, and each goes the same way: a plan of the policy, a place at the server, a reservation, a
record that it is sent, the socket rule. What came of it is settled and recorded once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from fleetmill.core.serve import Measure, Server
from fleetmill.serve import busy
from fleetmill.serve.asked import Job
from fleetmill.serve.egress import Answer, Egress, ServerLostError, ServerSlowError, ServerUnreachedError
from fleetmill.serve.policy import Choice, Plan, Reason, Refusal, answering, decide, same_answer
from fleetmill.serve.pool import Pool, Seat
from fleetmill.serve.waiting import Room
from fleetmill.serve.words import Purse, Sent, Witness

_LOG = logging.getLogger("fleetmill.serve")
FIRST_BYTE_SECONDS = 60.0
HEDGE_SHARE = 0.05  # of the requests: so many may be asked of a second server
_RETRY_RATIO, _RETRY_MOST = 0.1, 10.0
_HEDGE_MOST = 5.0
_BEGUN = 1  # priority of an answer that has begun
_NOTHING: Mapping[Measure, int] = {}
_LATE = Refusal(reason=Reason.LATE, sentence="the server did not begin in time", retry_seconds=1.0)
_NO_OTHER = (Reason.NO_MODEL, Reason.NOT_ALLOWED, Reason.NO_CONSENT, Reason.CANNOT)  # beside those that were asked
_TOO_MANY = Refusal(reason=Reason.DOWN, sentence="too many servers fail just now", retry_seconds=2.0)
STORED = Refusal(
    reason=Reason.DOWN,
    sentence="the server failed, and may have stored what was asked: no other is asked, send store=false to allow it",
    retry_seconds=2.0,
)


@dataclass(slots=True)
class Taken:
    """A place at a server, and what the policy said beside it."""

    choice: Choice
    seat: Seat
    plan: Plan
    reservation: str = ""
    if_cut: str = "client_left"  # what is recorded when it is cancelled


@dataclass(slots=True)
class Attempt:
    """One server asked."""

    server: Server
    taken: Taken
    answer: Answer
    began: float


_Asking: TypeAlias = "asyncio.Future[Attempt | Refusal | None]"


class Attempts:
    """Of one gateway process. `hedge_share`: of all requests that may be asked of a second server at most."""

    def __init__(
        self,
        pool: Pool,
        *,
        purse: Purse,
        witness: Witness,
        egress: Egress,
        secrets: Mapping[str, str],
        clock: Callable[[], int],
        now: Callable[[], float],
        waiting: int,
        hedge_share: float,
    ) -> None:
        self.room: Room[Taken] = Room(pool, most=waiting, clock=now)
        self.hedged = 0
        self._pool, self._purse, self._witness, self._egress = pool, purse, witness, egress
        self._secrets = secrets  # server name -> what it wants as Authorization
        self._clock, self._now = clock, now  # ns of the day; seconds, monotonic
        self._retries, self._hedges, self._share = _RETRY_MOST, 0.0, hedge_share

    def came(self) -> None:
        """One more request: what failing and late servers may cost grows with them."""
        self._retries = min(_RETRY_MOST, self._retries + _RETRY_RATIO)
        self._hedges = min(_HEDGE_MOST, self._hedges + self._share)

    async def begin(self, job: Job, body: bytes, like: Server | None = None) -> Attempt | Refusal:
        """Ask one server after another until one answers; each that fails is tried once.

        `like`: only those that can go on with what that one began.
        """
        while True:
            if self._witness.fault:
                _LOG.error("nothing is sent", extra={"why": self._witness.fault})
                return Refusal(reason=Reason.DOWN, sentence="what is sent cannot be recorded now", retry_seconds=5.0)
            if job.tried and like is None:  # going on with what was begun is no retry
                if self._retries < 1.0:
                    return job.busy or _TOO_MANY
                self._retries -= 1.0
            if len(self.room):
                self.room.look()  # who waits goes first
            taken = self._take(job, like)
            if isinstance(taken, Refusal) and taken.reason is Reason.BUSY and self.room.is_open:
                taken = await self._waited(job, like)
            if isinstance(taken, Refusal):
                return job.busy if job.busy and taken.reason in (Reason.BUSY, Reason.DOWN) else taken
            if not await self._reserved(job, taken):
                return Refusal(reason=Reason.BUDGET, sentence="the budget does not reach for the longest answer")
            may_hedge = taken.plan.hedge and self._hedges >= 1.0 and not job.is_stored
            found = await (self._race(job, taken, body, like) if may_hedge else self._ask(job, taken, body))
            if found is not None:
                return found

    def settle(
        self,
        job: Job,
        attempt: Attempt,
        *,
        outcome: str,
        good: bool | None = True,
        tokens: tuple[int, int] = (0, 0),
    ) -> None:
        """It is over: `tokens` (read, written) are paid for. `good`: see `Pool.ended`."""
        seconds = self._now() - attempt.began
        self._over(job, attempt.taken, good=good, outcome=outcome, tokens=tokens, seconds=seconds)

    # a place

    def _plan(self, job: Job, like: Server | None) -> Plan | Refusal:
        """The servers that may be asked now."""
        pool, ask = self._able(job, like), job.ask
        if ask.seconds is not None:  # a deadline is for the first token: what has begun is not late
            ask = replace(ask, seconds=None if job.resumed else max(job.until - self._now(), 0.0))
        left = self._purse.left(ask.tenant, ask.key)
        standings = self._pool.standings(ask)
        found = decide(ask, pool, standings, left)
        if isinstance(found, Refusal) and found.reason is Reason.DOWN and like is not None:
            # who is left alone may still save an answer that has begun
            found = decide(ask, pool, {n: replace(s, is_ejected=False) for n, s in standings.items()}, left)
        if isinstance(found, Refusal) and found.reason in _NO_OTHER and job.tried:
            return Refusal(reason=Reason.DOWN, sentence="every server that may answer failed", retry_seconds=2.0)
        return found

    def _able(self, job: Job, like: Server | None) -> list[Server]:
        """Those not tried yet; when there is none left, those that were only slower than another."""
        pool = self._pool.servers
        if like is not None:
            pool = [s for s in pool if same_answer(like, s, job.ask.model)]
        if not job.tried:
            return pool
        return [s for s in pool if s.name not in job.tried] or [s for s in pool if s.name in job.outrun]

    def _take(self, job: Job, like: Server | None) -> Taken | Refusal:
        """A place at the best server that has one, taken before anybody else can be given it."""
        plan = self._plan(job, like)
        if isinstance(plan, Refusal):
            return plan
        choice = plan.choices[0]
        seat = self._pool.began(choice.server.name, job.ask, choice.first_token_seconds)
        return Taken(choice, seat, plan)

    async def _waited(self, job: Job, like: Server | None) -> Taken | Refusal:
        """The same, when one is free. What was begun waits before all others."""
        standings = self._pool.standings(job.ask)
        able = answering(job.ask, self._able(job, like), standings)
        first = min(standings[s.name].first_token_seconds for s in able)
        until = job.until if like is None else self._now() + FIRST_BYTE_SECONDS
        pause = min(self._pool.pause(s.name) for s in able)
        if pause > 0.0 and self._now() + pause + first > until:
            return Refusal(reason=Reason.BUSY, sentence="all servers that may answer are full", retry_seconds=pause)
        return await self.room.wait(
            lambda: self._take(job, like),
            lambda taken: self._pool.ended(taken.seat, good=None),
            tenant=job.ask.tenant,
            servers=frozenset(s.name for s in able),
            until=until,
            seconds=first,
            cost=float(job.ask.tokens_in + job.ask.tokens_most),
            priority=job.ask.priority if like is None else _BEGUN,
        )

    async def _reserved(self, job: Job, taken: Taken) -> bool:
        try:
            found = await self._purse.reserve(job.ask.tenant, job.ask.key, taken.choice.worst)
        except BaseException:
            self._pool.ended(taken.seat, good=None)
            raise
        if found is None:
            self._pool.ended(taken.seat, good=None)
            return False
        taken.reservation = found
        job.outrun.discard(taken.choice.server.name)
        job.tried.add(taken.choice.server.name)
        return True

    # asking

    async def _ask(self, job: Job, taken: Taken, body: bytes, *, first: bool = False) -> Attempt | Refusal | None:
        """Ask it; None: it failed, and another may be tried. `first`: wait for the first piece too."""
        server, began, seconds = taken.choice.server, self._now(), FIRST_BYTE_SECONDS
        if job.ask.seconds is not None and not job.resumed:
            seconds = min(seconds, max(job.until - began, 0.001))
        secret = self._secrets.get(server.name)
        stored, answer = job.is_stored, None
        try:
            self._tell(job, server, outcome="begun")
            answer = await self._egress.send(
                server,
                job.path,
                body,
                label=job.ask.label,
                consent=job.ask.consent,
                headers={"authorization": f"Bearer {secret}"} if secret else None,
                seconds=seconds,
                again=not stored,
            )
            if first and answer.status == 200:
                await answer.first()
        except ServerLostError as error:
            is_ours = isinstance(error, ServerSlowError) and seconds < FIRST_BYTE_SECONDS  # the client's own deadline
            self._over(
                job,
                taken,
                good=None if is_ours else False,
                outcome="late" if is_ours else "broken",
                seconds=self._now() - began,
            )
            if is_ours:
                return _LATE
            return None if not stored or isinstance(error, ServerUnreachedError) else STORED
        except BaseException:
            if answer is not None:
                answer.cut()
            seconds = self._now() - began
            self._over(job, taken, good=None, outcome=taken.if_cut, seconds=seconds)
            raise
        said = busy.seconds(answer.status, answer.headers.get(b"retry-after"))
        if said is not None:
            self._pool.refused(taken.seat, said)
            if not stored:
                answer.cut()
                job.busy = _full(answer.status, said, job.busy)
                self._over(job, taken, good=None, outcome="busy")
                return None
        if answer.status >= 500 and not stored:
            answer.cut()
            self._over(job, taken, good=False, outcome="refused_by_server")
            return None
        return Attempt(server, taken, answer, began)

    async def _race(self, job: Job, taken: Taken, body: bytes, like: Server | None) -> Attempt | Refusal | None:
        """Ask it, and a second one if its first piece comes later than 19 of 20 would; who begins first answers."""
        one = asyncio.ensure_future(self._ask(job, taken, body, first=job.is_stream))
        racing: dict[_Asking, Taken] = {one: taken}
        winner, cut = None, "client_left"
        try:
            await asyncio.wait(racing, timeout=taken.plan.hedge_seconds)
            if not one.done() and (other := await self._second(job, taken, like)) is not None:
                racing[asyncio.ensure_future(self._ask(job, other, body, first=job.is_stream))] = other
            while True:
                left = [t for t in racing if not t.done()]
                ended = [t for t in racing if t.done() and t.result() is not None]
                winner = next((t for t in ended if not left or _is_good(t.result())), None)
                if winner is not None or not left:
                    cut = "outrun"
                    return None if winner is None else winner.result()
                await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._cut({t: one for t, one in racing.items() if t is not winner}, job, cut)

    async def _second(self, job: Job, taken: Taken, like: Server | None) -> Taken | None:
        """A place at one more server, no farther than the first, if nobody waits for one and there are not too many."""
        if self._hedges < 1.0 or len(self.room) or self._witness.fault:
            return None
        found = self._take(job, like)
        if isinstance(found, Refusal):
            return None
        if found.choice.server.tier > taken.choice.server.tier:
            self._pool.ended(found.seat, good=None)
            return None
        if not await self._reserved(job, found):
            return None
        self._hedges -= 1.0
        self.hedged += 1
        return found

    async def _cut(self, losers: Mapping[_Asking, Taken], job: Job, outcome: str) -> None:
        """End those that lost; each is settled once, and nothing of it is billed."""
        for task, taken in losers.items():
            taken.if_cut = outcome
            task.cancel()
        if losers:
            await asyncio.wait(losers)
        for task, taken in losers.items():
            found = None if task.cancelled() or task.exception() is not None else task.result()
            if task.cancelled() or isinstance(found, Attempt):  # it did not fail
                job.outrun.add(taken.choice.server.name)
            if isinstance(found, Attempt):  # it began at the same moment
                found.answer.cut()
                self.settle(job, found, outcome=outcome, good=None)

    # what it took

    def _over(
        self,
        job: Job,
        taken: Taken,
        *,
        good: bool | None,
        outcome: str,
        tokens: tuple[int, int] = (0, 0),
        seconds: float = 0.0,
    ) -> None:
        server = taken.choice.server
        used = {} if outcome in ("outrun", "busy") else server.price.of(*tokens)
        self._pool.ended(taken.seat, good=good, tokens=tokens[1], seconds=seconds)
        self._purse.settle(taken.reservation, used)
        self._tell(job, server, outcome=outcome, tokens=tokens, used=used)

    def _tell(
        self,
        job: Job,
        server: Server,
        *,
        outcome: str,
        tokens: tuple[int, int] = (0, 0),
        used: Mapping[Measure, int] = _NOTHING,
    ) -> None:
        """Keep that something is sent, before it is, and what came of it."""
        self._witness.saw(
            Sent(
                time_ns=self._clock(),
                request=job.id,
                tenant=job.ask.tenant,
                key=job.ask.key,
                label=job.ask.label,
                tier=server.tier,
                server=server.name,
                model=server.models[job.ask.model].model,
                consent=job.ask.consent,
                tokens_in=tokens[0],
                tokens_out=tokens[1],
                used=used,
                resumed=job.resumed,
                outcome=outcome,
            )
        )


def _full(status: int, seconds: float, before: Refusal | None) -> Refusal:
    """What the client is told if nobody else can answer; of several servers, the one that may be asked soonest."""
    if before is not None and before.retry_seconds is not None and before.retry_seconds <= seconds:
        return before
    reason = Reason.BUSY if status == 429 else Reason.DOWN
    return Refusal(reason=reason, sentence="the servers that may answer say that they are full", retry_seconds=seconds)


def _is_good(found: Attempt | Refusal | None) -> bool:
    """An answer; what a server refuses may be its own trouble, and the other is waited for."""
    return isinstance(found, Attempt) and found.answer.status < 400
