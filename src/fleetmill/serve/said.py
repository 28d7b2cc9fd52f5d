"""What went to a client of one answer: kept as bytes, read as JSON only when somebody must go on with it."""

from __future__ import annotations

from fleetmill.core.serve import Ask
from fleetmill.serve import stream


class Said:
    """All events that went to the client; read as JSON only when somebody must go on."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._read: stream.Spoken | None = None
        self._before = 0  # tokens that servers before this one wrote

    def add(self, events: bytes) -> None:
        """Whole events that were handed on."""
        self._size += len(events)
        self._read = None
        self._pieces.append(events)
        if self._size > stream.MOST_KEPT:  # too long to go on with; its end is still needed for the bill
            self._pieces = self._pieces[-8:]

    @property
    def is_empty(self) -> bool:
        """Nothing was handed on yet."""
        return not self._size

    @property
    def spoken(self) -> stream.Spoken:
        """What was said so far."""
        if self._read is None:
            self._read = stream.spoken(b"".join(self._pieces))
        return self._read

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
