"""The gateway: one request in, one server's answer out, byte by byte; another server where the first one fails.

Each request's JSON is read once, to know model and bounds. Its bytes go on as they came, and so do the answer's. What a
retry, a hedge or a resumed answer sends goes through the same policy and the same socket rule as the first attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from fleetmill.core.serve import Server
from fleetmill.serve import stream, words
from fleetmill.serve.asked import WANTS, Conversations, Job, key_digest, read_job
from fleetmill.serve.egress import Answer, Egress, ServerLostError
from fleetmill.serve.http import Reply, Request
from fleetmill.serve.policy import Choice, Plan, Reason, Refusal, decide, same_answer
from fleetmill.serve.pool import Pool
from fleetmill.serve.said import Said
from fleetmill.serve.words import Keys, Purse, Sent, Witness

_LOG = logging.getLogger("fleetmill.serve")
STALL_SECONDS = 15.0  # between two pieces of a stream: longer counts as death
FIRST_BYTE_SECONDS = 60.0
MOST_RESUMED = 3
MOST_WHOLE = 32 * 1024 * 1024  # bytes of an answer that comes at once
_RETRY_RATIO, _RETRY_MOST = 0.1, 10.0


@dataclass(slots=True)
class _Attempt:
    """One server asked."""

    choice: Choice
    reservation: str
    answer: Answer
    began: float

    @property
    def server(self) -> Server:
        return self.choice.server


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
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.pool, self.egress = pool, egress or Egress()
        self._keys, self._purse, self._witness = keys, purse, witness
        self._secrets = {} if secrets is None else secrets  # may grow; server name -> what it wants as Authorization
        self._clock, self._stall = clock, stall_seconds
        self._retries = _RETRY_MOST
        self._talks = Conversations()
        self.refusals: dict[str, int] = {}

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
            self._retries = min(_RETRY_MOST, self._retries + _RETRY_RATIO)
            await (self._streamed(job, reply) if job.is_stream else self._at_once(job, reply))

    # who answers

    def _plan(self, job: Job, like: Server | None = None) -> Plan | Refusal:
        """The servers that may be asked now. `like`: only those that can go on with what that one began."""
        pool = [s for s in self.pool.servers if s.name not in job.tried]
        if like is not None:
            pool = [s for s in pool if same_answer(like, s, job.ask.model)]
        left = self._purse.left(job.ask.tenant, job.ask.key)
        found = decide(job.ask, pool, self.pool.standings(), left)
        if isinstance(found, Refusal) and found.reason is Reason.NO_MODEL and job.tried:
            return Refusal(reason=Reason.DOWN, sentence="every server that may answer failed", retry_seconds=2.0)
        return found

    async def _attempt(self, job: Job, body: bytes, like: Server | None = None) -> _Attempt | Refusal:
        """Ask one server after another until one answers; each that fails is tried once."""
        while True:
            plan = self._plan(job, like)
            if isinstance(plan, Refusal):
                return plan
            if self._witness.fault:
                _LOG.error("nothing is sent", extra={"why": self._witness.fault})
                return Refusal(reason=Reason.DOWN, sentence="what is sent cannot be recorded now", retry_seconds=5.0)
            choice = plan.choices[0]
            if job.tried and like is None:  # going on with what was begun is no retry
                if self._retries < 1.0:
                    return Refusal(reason=Reason.DOWN, sentence="too many servers fail just now", retry_seconds=2.0)
                self._retries -= 1.0
            reservation = await self._purse.reserve(job.ask.tenant, job.ask.key, choice.worst)
            if reservation is None:
                return Refusal(reason=Reason.BUDGET, sentence="the budget does not reach for the longest answer")
            job.tried.add(choice.server.name)
            found = await self._ask(job, choice, body, reservation)
            if found is not None:
                return found

    async def _ask(self, job: Job, choice: Choice, body: bytes, reservation: str) -> _Attempt | None:
        server, began = choice.server, time.monotonic()
        secret = self._secrets.get(server.name)
        self.pool.began(server.name)
        try:
            self._tell(job, server, outcome="begun")
            answer = await self.egress.send(
                server,
                job.path,
                body,
                label=job.ask.label,
                consent=job.ask.consent,
                headers={"authorization": f"Bearer {secret}"} if secret else None,
                seconds=job.ask.seconds or FIRST_BYTE_SECONDS,
            )
        except ServerLostError:
            self._over(job, choice, reservation, good=False, outcome="broken")
            return None
        except BaseException:
            self._over(job, choice, reservation, good=True, outcome="client_left")
            raise
        if answer.status >= 500:
            answer.cut()
            self._over(job, choice, reservation, good=False, outcome="refused_by_server")
            return None
        return _Attempt(choice=choice, reservation=reservation, answer=answer, began=began)

    # answers at once

    async def _at_once(self, job: Job, reply: Reply) -> None:
        while True:
            found = await self._attempt(job, job.body)
            if isinstance(found, Refusal):
                self._refuse(reply, found)
                return
            with self._held(job, found):
                body = await self._whole(found, reply)
            if reply.is_gone:  # what it had read is paid for
                self._settle(job, found, outcome="client_left", tokens=(job.ask.tokens_in, 0))
                return
            if body is None:
                self._settle(job, found, outcome="broken", good=False)
                continue
            self.pool.spoke(found.server.name, time.monotonic() - found.began)
            read, written = stream.usage(body, tokens_in=job.ask.tokens_in)
            self._settle(job, found, outcome="whole", tokens=(read, written))
            reply.whole(found.answer.status, body, kind=_kind(found.answer), more=_told(job, found.server))
            return

    async def _whole(self, attempt: _Attempt, reply: Reply) -> bytes | None:
        """The answer's body; None: it broke off, or is longer than anything that comes at once."""
        pieces: list[bytes] = []
        size = 0
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        watch = _Watch(done, max(self._stall, FIRST_BYTE_SECONDS))

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
            found = await self._attempt(job, body, like=last)
            if isinstance(found, Refusal):
                self._cannot_go_on(reply, found, said)
                return
            if found.answer.status != 200:
                whole = await self._whole(found, reply)
                self._settle(job, found, outcome="refused_by_server")
                if said.is_empty:
                    reply.whole(found.answer.status, whole or b"", kind=_kind(found.answer))
                else:
                    self._cannot_go_on(reply, None, said)
                return
            if not reply.is_begun:
                reply.begin(200, kind=b"text/event-stream", more=_told(job, found.server))
            with self._held(job, found):
                events = await self._relayed(job, found, reply, said)
            if reply.is_gone:
                self._settle(job, found, outcome="client_left", tokens=said.tokens(job.ask))
                return
            if events.is_done or (job.path not in _RESUMABLE and events.is_whole):
                self._settle(job, found, outcome="whole", tokens=said.tokens(job.ask))
                reply.end()
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

    async def _relayed(self, job: Job, attempt: _Attempt, reply: Reply, said: Said) -> _Relayed:
        """Hand on one server's events until it ends, dies, stalls, or the client leaves."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        events, rewriter = stream.Events(), said.rewriter(job.resumed)
        watch, has_spoken = _Watch(done, self._stall), False
        feed, add, piece = events.feed, said.add, reply.piece  # found once, called for each piece

        def on_body(data: bytes) -> None:
            nonlocal has_spoken
            watch.is_silent = False
            if not has_spoken:
                has_spoken = True
                self.pool.spoke(attempt.server.name, time.monotonic() - attempt.began)
            whole = feed(data)
            if rewriter is not None and whole:
                whole = rewriter.rewrite(whole)
            if whole:
                add(whole)
                piece(whole)
            if events.is_broken:
                _set(done, False)

        def full(on: bool) -> None:
            watch.is_paused = on
            attempt.answer.pause(on)

        reply.on_gone, reply.on_full = (lambda: _set(done, False)), full
        try:
            attempt.answer.listen(on_body, lambda whole: _set(done, whole))
            is_whole = await done
        finally:
            watch.end()
            reply.on_gone = reply.on_full = None
        if not is_whole:
            attempt.answer.cut()
        return _Relayed(is_done=is_whole and events.is_done, is_whole=is_whole)

    def _onward(self, job: Job, said: Said) -> bytes | None:
        """The request with which another server goes on; None: that cannot be."""
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

    # what it took

    @contextmanager
    def _held(self, job: Job, attempt: _Attempt) -> Iterator[None]:
        """If this ends in the middle (the gateway ends, or a fault of ours), what was reserved does not stay so."""
        try:
            yield
        except BaseException:
            attempt.answer.cut()
            self._settle(job, attempt, outcome="client_left", tokens=(job.ask.tokens_in, 0))
            raise

    def _settle(
        self, job: Job, attempt: _Attempt, *, outcome: str, good: bool = True, tokens: tuple[int, int] = (0, 0)
    ) -> None:
        seconds = time.monotonic() - attempt.began
        self._over(job, attempt.choice, attempt.reservation, good=good, outcome=outcome, tokens=tokens, seconds=seconds)

    def _over(
        self,
        job: Job,
        choice: Choice,
        reservation: str,
        *,
        good: bool,
        outcome: str,
        tokens: tuple[int, int] = (0, 0),
        seconds: float = 0.0,
    ) -> None:
        server = choice.server
        used = server.price.of(*tokens)
        self.pool.ended(server.name, good=good, tokens=tokens[1], seconds=seconds)
        self._purse.settle(reservation, used)
        self._tell(job, server, outcome=outcome, tokens=tokens)

    def _tell(self, job: Job, server: Server, *, outcome: str, tokens: tuple[int, int] = (0, 0)) -> None:
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
                used=server.price.of(*tokens) if outcome != "begun" else {},
                resumed=job.resumed,
                outcome=outcome,
            )
        )

    def _refuse(self, reply: Reply, found: Refusal) -> None:
        self.refusals[found.reason.value] = self.refusals.get(found.reason.value, 0) + 1
        status, body, more = words.refusal(found)
        reply.whole(status, body, more=more)

    def _error(self, reply: Reply, status: int, message: str, kind: str, code: str) -> None:
        reply.whole(status, words.error(message, kind=kind, code=code))


class _Watch:
    """Ends an answer of which nothing is heard for so long: it looks twice in that time, and silent twice is dead."""

    def __init__(self, done: asyncio.Future[bool], seconds: float) -> None:
        self.is_silent, self.is_paused = True, False  # paused: the client is slow, not the server
        self._done, self._half, self._halves = done, seconds / 2, 0
        self._timer = asyncio.get_running_loop().call_later(self._half, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._halves = self._halves + 1 if self.is_silent and not self.is_paused else 0
        self.is_silent = True
        if self._halves >= 2:
            _set(self._done, False)
        else:
            self._timer = asyncio.get_running_loop().call_later(self._half, self._look)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Relayed:
    is_done: bool
    is_whole: bool


_RESUMABLE = (stream.CHAT, stream.COMPLETIONS)


def _set(done: asyncio.Future[bool], value: bool) -> None:
    if not done.done():
        done.set_result(value)


def _kind(answer: Answer) -> bytes:
    return answer.headers.get(b"content-type", b"application/json")


def _told(job: Job, server: Server) -> bytes:
    return f"x-request-id: {job.id}\r\nx-fleetmill-server: {server.name}\r\n".encode()
