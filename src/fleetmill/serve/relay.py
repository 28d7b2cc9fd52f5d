"""The gateway: one request in, one server's answer out, byte by byte; another server where the first one fails.

Each request's JSON is read once, to know model and bounds. Its bytes go on as they came, and so do the answer's. What a
retry, a hedge or a resumed answer sends goes through the same policy and the same socket rule as the first attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from fleetmill.core.serve import Server, Tier
from fleetmill.serve import stream, words
from fleetmill.serve.asked import WANTS, Conversations, Job, key_digest, read_job
from fleetmill.serve.attempts import FIRST_BYTE_SECONDS, HEDGE_SHARE, STORED, Attempt, Attempts
from fleetmill.serve.egress import Answer, Egress
from fleetmill.serve.http import Reply, Request
from fleetmill.serve.policy import Refusal
from fleetmill.serve.pool import Pool
from fleetmill.serve.said import Said, Turn
from fleetmill.serve.waiting import WAIT_SECONDS, WAITING
from fleetmill.serve.watch import Watch
from fleetmill.serve.words import Keys, Purse, Witness

STALL_SECONDS = 15.0  # between two pieces of a stream: longer counts as death
MOST_RESUMED = 3
MOST_WHOLE = 32 * 1024 * 1024  # bytes of an answer that comes at once


class Relay:
    """Everything between a client's request and its answer. One per process."""

    def __init__(
        self,
        pool: Pool,
        *,
        keys: Keys,
        purse: Purse,
        witness: Witness,
        egress: Egress | None = None,
        secrets: Mapping[str, str] | None = None,
        clock: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.monotonic,
        stall_seconds: float = STALL_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        waiting: int = WAITING,
        hedge_share: float = HEDGE_SHARE,
    ) -> None:
        self.pool, self.egress = pool, egress or Egress()
        self._keys, self._stall, self._wait, self._now = keys, stall_seconds, wait_seconds, now
        self._attempts = Attempts(
            pool,
            purse=purse,
            witness=witness,
            egress=self.egress,
            secrets={} if secrets is None else secrets,  # may grow
            clock=clock,
            now=now,
            waiting=waiting,
            hedge_share=hedge_share,
        )
        self._settle = self._attempts.settle
        self._talks = Conversations()
        self.refusals: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait for a server."""
        return len(self._attempts.room)

    @property
    def hedged(self) -> int:
        """Requests that were asked of a second server because the first was late."""
        return self._attempts.hedged

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        key = key_digest(request)
        tenant = self._keys.tenant(key) if key else None
        if request.path == "/health":
            reply.whole(200, b'{"status":"ok"}')
        elif tenant is None:
            self._error(reply, 401, "no such API key; send Authorization: Bearer KEY", "authentication_error", "no_key")
        elif request.path == "/v1/models" and request.method == "GET":
            reply.whole(200, words.models(self.pool.servers))
        elif request.path not in WANTS:
            self._error(reply, 404, f"nothing is served at {request.path[:80]}", "invalid_request_error", "no_route")
        elif request.method != "POST":
            self._error(reply, 405, "this path takes POST", "invalid_request_error", "no_method")
        else:
            try:
                job = read_job(request, tenant, key, self._talks)
            except ValueError as error:
                self._error(reply, 400, str(error), "invalid_request_error", "bad_request")
                return
            job.until = self._now() + (self._wait if job.ask.seconds is None else job.ask.seconds)
            self._attempts.came()
            await (self._streamed(job, reply) if job.is_stream else self._at_once(job, reply))

    # answers at once

    async def _at_once(self, job: Job, reply: Reply) -> None:
        while True:
            found = await self._attempt(job, job.body, reply)
            if isinstance(found, Refusal):
                self._refuse(reply, found)
                return
            body = await self._whole(job, found, reply)
            if reply.is_gone:  # what it had read is paid for
                self._settle(job, found, outcome="client_left", good=None, tokens=(job.ask.tokens_in, 0))
                return
            if body is None:
                self._settle(job, found, outcome="broken", good=False)
                if job.is_stored:
                    self._refuse(reply, STORED)
                    return
                continue
            self.pool.spoke(found.server.name, self._now() - found.began, found.taken.seat)
            read, written = stream.usage(body, tokens_in=job.ask.tokens_in)
            self._settle(job, found, outcome="whole", good=found.answer.status < 500, tokens=(read, written))
            more = _told(job, found.server) + _terms(found.server.tier, found.server.may_train)
            reply.whole(found.answer.status, body, kind=_kind(found.answer), more=more + _after(found.answer))
            return

    async def _whole(self, job: Job, attempt: Attempt, reply: Reply) -> bytes | None:
        """The answer's body; None: it broke off, or is longer than anything that comes at once."""
        body = attempt.answer.taken()
        if body is not None:
            return body
        with self._held(job, attempt):
            return await self._rest(attempt, reply)

    async def _rest(self, attempt: Attempt, reply: Reply) -> bytes | None:
        """The same, of one that is not all here yet."""
        pieces: list[bytes] = []
        size = 0
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        watch = Watch(done, FIRST_BYTE_SECONDS, first=FIRST_BYTE_SECONDS)

        def on_body(data: bytes) -> None:
            nonlocal size
            watch.is_silent = False
            size += len(data)
            pieces.append(data)
            if size > MOST_WHOLE:
                _set(done, False)
                attempt.answer.cut()

        reply.on_gone = lambda: _set(done, False)
        try:
            attempt.answer.listen(on_body, lambda whole: _set(done, whole))
            is_whole = await done
        finally:
            watch.end()
            reply.on_gone = None
        if not is_whole:
            attempt.answer.cut()
        return b"".join(pieces) if is_whole else None

    # answers in pieces

    async def _streamed(self, job: Job, reply: Reply) -> None:
        said, body, last = Said(), job.body, None
        while True:
            found = await self._attempt(job, body, reply, like=last)
            if isinstance(found, Refusal):
                self._cannot_go_on(reply, found, said)
                return
            if found.answer.status != 200:
                whole = await self._whole(job, found, reply)
                self._settle(job, found, outcome="refused_by_server", good=found.answer.status < 500)
                if said.is_empty:
                    reply.whole(found.answer.status, whole or b"", kind=_kind(found.answer), more=_after(found.answer))
                else:
                    self._cannot_go_on(reply, None, said)
                return
            if not reply.is_begun:
                reply.begin(200, kind=b"text/event-stream", more=_told(job, found.server), hold=True)
            with self._held(job, found):
                turn = await self._turn(job, found, reply, said)
            if reply.is_gone:
                self._settle(job, found, outcome="client_left", good=None, tokens=said.tokens(job.ask))
                return
            if turn.is_whole and (turn.is_done or job.path not in _RESUMABLE):
                self._settle(job, found, outcome="whole", tokens=said.tokens(job.ask))
                reply.end(turn.last)
                return
            self._settle(job, found, outcome="broken", good=False, tokens=said.tokens(job.ask))
            onward = self._onward(job, said)
            if onward is None:
                if said.is_finished:
                    reply.piece(stream.DONE)
                    reply.end()
                else:
                    self._cannot_go_on(reply, None, said)
                return
            body, last = onward, found.server
            if said.is_empty:
                last = None  # nothing was said: any server may begin

    async def _turn(self, job: Job, attempt: Attempt, reply: Reply, said: Said) -> Turn:
        """One server's events, handed on."""

        def spoke() -> None:
            self.pool.spoke(attempt.server.name, self._now() - attempt.began, attempt.taken.seat)

        turn = Turn(
            said,
            attempt.answer,
            reply,
            resumed=job.resumed,
            seconds=self._stall,
            first=max(self._stall, FIRST_BYTE_SECONDS),
            spoke=spoke,
        )
        await turn.run()
        return turn

    def _onward(self, job: Job, said: Said) -> bytes | None:
        """The request with which another server goes on; None: that cannot be."""
        if job.is_stored:  # asked again it would be stored again
            return None
        if said.is_empty:
            return job.body
        if job.path not in _RESUMABLE or not stream.can_resume(job.asked) or job.resumed >= MOST_RESUMED:
            return None
        if not said.can_go_on or said.is_finished:
            return None
        job.resumed += 1
        return stream.going_on(job.asked, said.spoken)

    def _cannot_go_on(self, reply: Reply, why: Refusal | None, said: Said) -> None:
        """The answer ends here: as an error if nothing was said yet, else with the event that says so and no end."""
        if why is not None and said.is_empty and not reply.is_begun:
            self._refuse(reply, why)
            return
        reply.piece(stream.broken_off("the server failed in the middle and no other can go on; ask again"))
        reply.end()

    async def _attempt(self, job: Job, body: bytes, reply: Reply, like: Server | None = None) -> Attempt | Refusal:
        """See `Attempts.begin`; a client that hangs up meanwhile ends it."""
        task = asyncio.current_task()
        assert task is not None
        reply.on_gone = task.cancel
        try:
            return await self._attempts.begin(job, body, like)
        finally:
            reply.on_gone = None

    @contextmanager
    def _held(self, job: Job, attempt: Attempt) -> Iterator[None]:
        """If this ends in the middle (the gateway ends, or a fault of ours), what was reserved does not stay so."""
        try:
            yield
        except BaseException:
            attempt.answer.cut()
            self._settle(job, attempt, outcome="client_left", good=None, tokens=(job.ask.tokens_in, 0))
            raise

    def _refuse(self, reply: Reply, found: Refusal) -> None:
        self.refusals[found.reason.value] = self.refusals.get(found.reason.value, 0) + 1
        status, body, more = words.refusal(found)
        reply.whole(status, body, more=more)

    def _error(self, reply: Reply, status: int, message: str, kind: str, code: str) -> None:
        reply.whole(status, words.error(message, kind=kind, code=code))


_RESUMABLE = (stream.CHAT, stream.COMPLETIONS)


def _set(done: asyncio.Future[bool], value: bool) -> None:
    if not done.done():
        done.set_result(value)


def _kind(answer: Answer) -> bytes:
    return answer.headers.get(b"content-type", b"application/json")


def _after(answer: Answer) -> bytes:
    seconds = answer.headers.get(b"retry-after")
    return b"" if seconds is None else b"retry-after: %b\r\n" % seconds


def _told(job: Job, server: Server) -> bytes:
    return f"x-request-id: {job.id}\r\nx-fleetmill-server: {server.name}\r\n".encode()


@lru_cache(maxsize=8)
def _terms(tier: Tier, may_train: bool) -> bytes:
    """From how far a whole answer came, and whether one may learn from it: an answer in pieces may go on elsewhere."""
    may = "true" if tier < Tier.ATTESTED or may_train else "false"
    return f"x-fleetmill-tier: {tier.name.lower()}\r\nx-fleetmill-may-train: {may}\r\n".encode()
