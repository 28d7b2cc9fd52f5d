"""Where a file's rows lie in what was recorded: checked against devices, sessions and features of the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.label import RECORDED, array_of
from fleetmill.core.line import Array, Feature, Line
from fleetmill.core.moment import read_moment
from fleetmill.core.recording import Session
from fleetmill.labels.rows import Found, Looked, Reader, Row
from fleetmill.receive import inbox, roll
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Ledger

_MOST_TEXT = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A row's share of one session."""

    row: Row
    feature: Feature
    start_ns: int
    end_ns: int
    value: Array | str


def reader_of(
    ledger: Ledger, books: Books, line: Line, source: str, feature: str, classes: Mapping[str, float]
) -> Reader:
    """What a format needs to read rows of a line.

    Raises:
        InvalidInputError: no such label feature, or a source that nobody can be.
    """
    features = {f.name: f for f in line.features if f.kind == "label"}
    if feature and feature not in features:
        raise InvalidInputError(
            f"--feature {feature!r}: line {line.name} has no such label feature; it has {', '.join(features) or 'none'}"
        )
    if not source.isprintable() or len(source) > _MOST_TEXT or source == RECORDED:
        raise InvalidInputError(
            f"--source {source[:80]!r}: must be at most {_MOST_TEXT} printable characters, and not {RECORDED!r}, "
            "which is what recordings say themselves"
        )
    only = next(iter(features)) if len(features) == 1 else ""

    def moment(device: str, text: str, where: str) -> int:
        first = books.lived(_device(ledger, line, device, where)) if text.startswith("+") else None
        try:
            return read_moment(text, "time", first_ns=first[0] if first else None)
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}: {error}") from None

    return Reader(features=features, feature=feature or only, classes=classes, moment=moment)


def _device(ledger: Ledger, line: Line, name: str, where: str) -> int:
    try:
        device = roll.find(ledger, name)
    except NotFoundError:
        raise NotFoundError(f"{where}: no device {name[:80]!r} here. See: fleetmill status") from None
    if device.line != line.name:
        raise InvalidInputError(f"{where}: device {name} is on line {device.line}, not {line.name}")
    return device.number


Work = dict[str, tuple[Session, list[Piece], list[Looked]]]


def placed(ledger: Ledger, line: Line, found: Found) -> Work:
    """By session what the file says of it.

    Raises:
        InvalidInputError, NotFoundError: unknown device or session, a value that the feature cannot hold, or an
            interval that nothing was recorded in.
    """
    sessions = inbox.sessions(ledger, line.name)
    features = {f.name: f for f in line.features}
    work: Work = {}
    for row in found.rows:
        _device(ledger, line, row.device, row.where)
        for session, start_ns, end_ns in _within(sessions, row):
            try:
                value = array_of(features[row.feature], row.value)
            except InvalidInputError as error:
                raise InvalidInputError(f"{row.where}: {error}") from None
            piece = Piece(row=row, feature=features[row.feature], start_ns=start_ns, end_ns=end_ns, value=value)
            work.setdefault(session.key, (session, [], []))[1].append(piece)
    for seen in found.looked:
        for session in sessions:
            if session.device == seen.device and seen.session in ("", session.name) and session.key in work:
                work[session.key][2].append(seen)
    return work


def _within(sessions: Sequence[Session], row: Row) -> Iterator[tuple[Session, int, int]]:
    mine = [s for s in sessions if s.device == row.device and row.session in ("", s.name)]
    if not mine:
        what = f"session {row.session!r}" if row.session else "session"
        raise NotFoundError(f"{row.where}: device {row.device} has no closed {what} on this line")
    if row.end_ns <= row.start_ns:
        raise InvalidInputError(f"{row.where}: ends at {row.end_ns}, which is not after its start {row.start_ns}")
    touched = [s for s in mine if s.start_ns < row.end_ns and s.end_ns > row.start_ns]
    inside = (
        touched and min(s.start_ns for s in touched) <= row.start_ns and max(s.end_ns for s in touched) >= row.end_ns
    )
    if not inside:
        lived = f"{min(s.start_ns for s in mine)} to {max(s.end_ns for s in mine)}"
        raise InvalidInputError(
            f"{row.where}: [{row.start_ns}, {row.end_ns}) lies outside of what was recorded, {lived}"
        )
    yield from ((s, max(s.start_ns, row.start_ns), min(s.end_ns, row.end_ns)) for s in touched)
