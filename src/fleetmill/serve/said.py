"""An answer in pieces: what went to its client so far, and the part that one server has in it.

It is kept as bytes and read as JSON only when another server must go on with it. Only whole events are handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fleetmill.core.serve import Ask
from fleetmill.serve import stream
from fleetmill.serve.egress import Answer
from fleetmill.serve.http import Reply
from fleetmill.serve.watch import Watch

_DONE_END = (b"[DONE]\n\n", b"[DONE]\r\n\r\n")
_BROKEN = b'data: {"error"'


class Said:
    """All events that went to the client; read as JSON only when somebody must go on."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._read: tuple[int, stream.Spoken] | None = None  # up to which size, what it was
        self._before = 0  # tokens that servers before this one wrote

    def add(self, events: bytes) -> None:
        """Whole events that are handed on."""
        self._pieces.append(events)
        self._size += len(events)
        if self._size > stream.MOST_KEPT:  # too long to go on with; its end is still needed for the bill
            self._pieces = self._pieces[-8:]

    @property
    def is_empty(self) -> bool:
        """Nothing was handed on yet."""
        return not self._size

    @property
    def spoken(self) -> stream.Spoken:
        """What was said so far."""
        if self._read is None or self._read[0] != self._size:
            self._read = self._size, stream.spoken(b"".join(self._pieces))
        return self._read[1]

    @property
    def can_go_on(self) -> bool:
        """Whether another server could go on with it."""
        return self._size <= stream.MOST_KEPT and self.spoken.can_go_on

    @property
    def is_finished(self) -> bool:
        """The model had ended it."""
        return not self.is_empty and self.spoken.is_finished

    def rewriter(self, resumed: int) -> stream.Rewriter | None:
        """For the events of a server that goes on; None for the first."""
        if self.is_empty:
            return None
        return stream.Rewriter(self.spoken.head, resumed=resumed, events=self.spoken.events)

    def tokens(self, ask: Ask) -> tuple[int, int]:
        """(read, written) by the server that spoke last, as it counted; else one token an event. To be asked once."""
        events = b"".join(self._pieces)
        read, written = stream.usage(events[-4096:], events=events.count(b"data: {"), tokens_in=ask.tokens_in)
        own, self._before = max(written - self._before, 0), max(written, self._before)
        return read, own


class Turn:
    """One server's part, from its first piece until it ends, dies, stalls, or the client leaves.

    `seconds`: between two pieces, more is death; `first`: the same before the first one. `spoke` is called then.
    """

    def __init__(
        self,
        said: Said,
        answer: Answer,
        reply: Reply,
        *,
        resumed: int,
        seconds: float,
        first: float,
        spoke: Callable[[], None],
    ) -> None:
        self._answer, self._reply, self._spoke = answer, reply, spoke
        self._add, self._piece, self._rewriter = said.add, reply.piece, said.rewriter(resumed)
        self._done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._watch = Watch(self._done, seconds, first=first)
        self._rest = b""  # of an event that is not whole yet
        self._has_spoken = False
        self.is_done = False  # [DONE] was among its events
        self.is_whole = False  # it ended as HTTP ends an answer
        self.last = b""  # its last events, which are to go out with the end

    async def run(self) -> None:
        """Until it is over; a server that is not through is cut off."""
        reply = self._reply
        reply.on_gone, reply.on_full = self._end, self._full
        try:
            self._answer.listen(self._hear, self._end)
            reply.flush()
            self.is_whole = await self._done
        finally:
            self._watch.end()
            reply.on_gone = reply.on_full = None
        if not self.is_whole:
            self._answer.cut()

    def _hear(self, data: bytes) -> None:
        """Bytes of the server. Each piece takes this way: what stands here is what it costs."""
        self._watch.is_silent = False
        if not self._has_spoken:
            self._has_spoken = True
            self._spoke()
        if self._rest or data[-3:] != b"}\n\n":  # most servers send whole events of JSON
            data = self._cut(data)
        broken = data.find(_BROKEN)  # `in` takes longer: it asks for a number first
        if broken >= 0:
            data = data[:broken]
            self._end()
        if self._rewriter is not None:
            data = self._rewriter.rewrite(data)
        if data:
            self._add(data)
            if self.is_done and self._answer.is_whole:
                self.last = data
            else:
                self._piece(data)

    def _cut(self, data: bytes) -> bytes:
        """Up to the end of the last whole event, which may say that all was said; the rest waits for more."""
        data = self._rest + data
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
        if end < 3:
            end = 0
        data, self._rest = data[:end], data[end:]
        if data.endswith(_DONE_END):
            self.is_done = data.rstrip().endswith(b"data: [DONE]")
        return data

    def _full(self, on: bool) -> None:
        """The client takes no more for now: no more is fetched, and the server is not silent by itself."""
        self._watch.is_paused = on
        self._answer.pause(on)

    def _end(self, whole: bool = False) -> None:
        if not self._done.done():
            self._done.set_result(whole)
