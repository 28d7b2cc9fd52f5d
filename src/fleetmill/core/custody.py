"""Where each lived interval is: accounts, legal moves and the posting rule (CONTRACTS, 3).

An interval of a track is at any time in exactly one account. A posting moves ``[start_ns, end_ns)``; the first one
of an interval comes out of the contra account ``lived``, so that all accounts of a device and day sum to zero.
The device's journal, the factory's books and the memory books apply this one rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fleetmill.core.errors import ConflictError, InvalidInputError

DAY_NS = 86_400 * 1_000_000_000
LIVED = "lived"
FACTORY = ("landed", "quarantined", "refined", "left_out")
ACCOUNTS = ("buffered", "dropped", "kept", "sent", *FACTORY, "forgotten")
NEEDS_REASON = ("dropped", "quarantined", "left_out")
MOVES: dict[str, tuple[str, ...]] = {
    LIVED: ("buffered", "dropped", "landed"),  # landed: an import has no device journal before it
    "buffered": ("kept", "dropped"),
    "kept": ("sent", "dropped"),
    "sent": ("landed", "kept", "dropped"),
    "landed": ("refined", "left_out", "quarantined", "forgotten"),
    "quarantined": ("landed", "forgotten"),
    "refined": ("forgotten",),
    "left_out": ("refined", "forgotten"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Posting:
    """One movement of an interval from an account to another. Times in ns UTC of the device's lived clock."""

    device: int
    track: int
    start_ns: int
    end_ns: int
    bytes: int
    messages: int
    source: str
    to: str
    reason: str = ""
    recording: str = ""
    by: str = "device"
    entry: int = -1  # the device's journal entry; -1: posted by the factory

    @property
    def ns(self) -> int:
        """Length of the interval."""
        return self.end_ns - self.start_ns

    @property
    def key(self) -> str:
        """Unique among postings: (device, track, entry) for the device's, the move itself for the factory's."""
        if self.entry >= 0:
            return f"{self.device}/{self.track}/{self.entry}"
        return f"{self.device}/{self.track}/{self.start_ns}-{self.end_ns}/{self.to}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Where a piece of a track is now."""

    start_ns: int
    end_ns: int
    bytes: int
    messages: int
    account: str
    reason: str = ""
    recording: str = ""


def check(posting: Posting) -> None:
    """Refuse a posting that no books could take.

    Raises:
        InvalidInputError: empty interval, negative amounts, an illegal move, or a missing reason.
    """
    p = posting
    if p.end_ns <= p.start_ns or p.bytes < 0 or p.messages < 0:
        raise InvalidInputError(f"posting {p.key}: [{p.start_ns}, {p.end_ns}) with {p.bytes} bytes is no interval")
    if p.to not in MOVES.get(p.source, ()):
        raise InvalidInputError(f"posting {p.key}: {p.source} -> {p.to} is no legal move")
    if p.to in NEEDS_REASON and not p.reason:
        raise InvalidInputError(f"posting {p.key}: {p.to} needs a reason")


def move(posting: Posting, overlapping: Sequence[Span]) -> list[Span]:
    """The spans that replace `overlapping` (all of the track's spans that touch the posting's interval, by time).

    Raises:
        ConflictError: new time over old, a piece that is not in `source`, a hole, or amounts that do not agree.
        InvalidInputError: see `check`.
    """
    check(posting)
    p = posting
    if p.source == LIVED:
        if overlapping:
            raise ConflictError(f"posting {p.key}: [{p.start_ns}, {p.end_ns}) was lived before")
        return [_span(p, p.start_ns, p.end_ns, p.bytes, p.messages)]
    result: list[Span] = []
    at, moved_bytes, moved_messages = p.start_ns, 0, 0
    for span in overlapping:
        if span.start_ns > at or span.account != p.source:
            raise ConflictError(f"posting {p.key}: not all of [{p.start_ns}, {p.end_ns}) is in {p.source}")
        before, inside, after = cut(span, p.start_ns, p.end_ns)
        result += [piece for piece in (before,) if piece]
        recording = p.recording or inside.recording
        result.append(replace(inside, account=p.to, reason=p.reason, recording=recording))
        result += [piece for piece in (after,) if piece]
        at, moved_bytes, moved_messages = inside.end_ns, moved_bytes + inside.bytes, moved_messages + inside.messages
    if at < p.end_ns:
        raise ConflictError(f"posting {p.key}: [{at}, {p.end_ns}) was never lived")
    if (moved_bytes, moved_messages) != (p.bytes, p.messages):
        raise ConflictError(
            f"posting {p.key}: says {p.bytes} bytes in {p.messages} messages, "
            f"the books hold {moved_bytes} in {moved_messages}"
        )
    return result


def cut(span: Span, start_ns: int, end_ns: int) -> tuple[Span | None, Span, Span | None]:
    """`span` before, inside and after the interval; amounts by integer proportion, so that pieces sum to the whole."""
    a, b = max(span.start_ns, start_ns), min(span.end_ns, end_ns)
    before = _part(span, span.start_ns, a) if a > span.start_ns else None
    after = _part(span, b, span.end_ns) if b < span.end_ns else None
    return before, _part(span, a, b), after


def days(start_ns: int, end_ns: int, amount: int) -> Iterator[tuple[int, int, int]]:
    """(day, ns, share of `amount`) for each UTC day that the interval touches."""
    whole, at, given = end_ns - start_ns, start_ns, 0
    while at < end_ns:
        day = at // DAY_NS
        until = min((day + 1) * DAY_NS, end_ns)
        upto = amount * (until - start_ns) // whole
        yield day, until - at, upto - given
        at, given = until, upto


def _part(span: Span, start_ns: int, end_ns: int) -> Span:
    whole = span.end_ns - span.start_ns

    def share(amount: int) -> int:
        return amount * (end_ns - span.start_ns) // whole - amount * (start_ns - span.start_ns) // whole

    return replace(span, start_ns=start_ns, end_ns=end_ns, bytes=share(span.bytes), messages=share(span.messages))


def _span(p: Posting, start_ns: int, end_ns: int, size: int, messages: int) -> Span:
    return Span(
        start_ns=start_ns,
        end_ns=end_ns,
        bytes=size,
        messages=messages,
        account=p.to,
        reason=p.reason,
        recording=p.recording,
    )
