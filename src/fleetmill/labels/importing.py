"""Labels come in: a file's rows are checked against what was recorded, and what is new in them becomes one set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.ids import sha256
from fleetmill.core.label import RECORDED, Label, LabelSet, Value, array_of, clock_of, plain_of
from fleetmill.core.line import Array, Feature, Line
from fleetmill.core.recording import Session
from fleetmill.labels.formats import READ, checked, detect
from fleetmill.labels.known import Known, look
from fleetmill.labels.placing import Piece, placed, reader_of
from fleetmill.labels.rows import Looked, Reader
from fleetmill.refine import outside
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Draft, Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Entered:
    """What an import came to. `digest` and `fact` are "" and 0 where nothing was new."""

    digest: str
    fact: int
    format: str
    rows: int  # that the file holds
    new: int  # labels that say something new
    sessions: int
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How a file is to be read."""

    source: str = ""  # who says what the file's rows do not say themselves
    feature: str = ""  # of rows that name none
    format: str = ""  # "": it is detected
    classes: Mapping[str, float] = field(default_factory=dict)
    elsewhere: str = ""  # the value of what was looked at and not marked; "": it stays unsaid


def import_labels(
    ledger: Ledger, books: Books, blobs: Blobs, line: Line, name: str, data: bytes, asked: Asked
) -> Entered:
    """Enter the labels of a file; those that say what is known already, by the same source, are passed over.

    All rows are checked before anything is entered.

    Raises:
        InvalidInputError, NotFoundError: something in a row cannot be; names file and row.
    """
    form = checked(asked.format) if asked.format else detect(name, data)
    reader = reader_of(ledger, books, line, asked.source, asked.feature, asked.classes)
    found = READ[form](name, data, reader)
    if not found.rows:
        raise InvalidInputError(f"{name}: holds no label; read as {form}")
    by_session = placed(ledger, line, found)
    sets, labels = outside.read_sets(ledger, blobs, line), list[Label]()
    for key in sorted(by_session):
        session, pieces, looked = by_session[key]
        labels += _session(line, blobs, session, pieces, looked, sets, reader, asked, explicit=found.explicit)
    sources = tuple(sorted({label.source for label in labels}))
    entered = Entered(
        digest="",
        fact=0,
        format=form,
        rows=len(found.rows),
        new=len(labels),
        sessions=len(by_session),
        sources=sources,
    )
    if not labels:
        return entered
    digest = blobs.put(outside.written(line, labels))
    number = sum(f.record["line"] == line.name for f in ledger.read(kind="labels"))
    record = {
        "line": line.name,
        "digest": digest,
        "sources": list(sources),
        "format": form,
        "file": sha256(data),
        "rows": len(labels),
        "sessions": sorted({f"{label.device}/{label.session}" for label in labels}),
    }
    (fact,) = ledger.append([Draft(kind="labels", key=f"{line.name}/{number}", record=record)])
    return replace(entered, digest=digest, fact=fact.seq)


def _session(
    line: Line,
    blobs: Blobs,
    session: Session,
    pieces: Sequence[Piece],
    looked: Sequence[Looked],
    sets: Sequence[LabelSet],
    reader: Reader,
    asked: Asked,
    *,
    explicit: bool,
) -> Iterator[Label]:
    """The labels of one session that say something new."""
    for name in sorted({p.feature.name for p in pieces} | {seen.feature for seen in looked}):
        feature, mine = reader.features[name], [p for p in pieces if p.feature.name == name]
        known = look(line, blobs, session, feature, sets)
        covered = _covered(line, known, feature, mine, session)
        for piece in [*mine, *_rest(known, feature, covered, looked, reader, asked)]:
            source = _source(known, feature, piece, asked, explicit=explicit)
            if source is not None:
                yield Label(
                    device=session.device,
                    session=session.name,
                    feature=name,
                    start_ns=piece.start_ns,
                    end_ns=piece.end_ns,
                    value=plain_of(feature, piece.value),
                    source=source,
                )


def _covered(line: Line, known: Known, feature: Feature, pieces: Sequence[Piece], session: Session) -> dict[int, Piece]:
    """Which piece speaks of which instant.

    Raises:
        InvalidInputError: one speaks of none, or two say different things of one.
    """
    found: dict[int, Piece] = {}
    for piece in pieces:
        inside = known.between(piece.start_ns, piece.end_ns)
        if not inside:
            clock = clock_of(line, feature.name, known.recorded_channels) or "no channel that it could describe"
            raise InvalidInputError(
                f"{piece.row.where}: [{piece.start_ns}, {piece.end_ns}) holds no instant of session {session.key}; "
                f"{feature.name} speaks of those of {clock}"
            )
        for at in inside:
            other = found.setdefault(at, piece)
            if other is not piece and not _equal(feature, other.value, piece.value):
                raise InvalidInputError(
                    f"{piece.row.where}: says of {at} something else than {other.row.where}. Keep one of them"
                )
    return found


def _rest(
    known: Known,
    feature: Feature,
    covered: Mapping[int, Piece],
    looked: Sequence[Looked],
    reader: Reader,
    asked: Asked,
) -> Iterator[Piece]:
    """What was looked at and not marked, in runs of instants, with the value that `--elsewhere` gives it."""
    if not asked.elsewhere:
        return
    value: Value = reader.value(asked.elsewhere, feature, "--elsewhere")
    for seen in looked:
        if seen.feature != feature.name:
            continue
        whole = seen.start_ns == seen.end_ns
        inside = known.times_ns.tolist() if whole else known.between(seen.start_ns, seen.end_ns)
        for run in _runs(inside, covered):
            row = replace(seen, start_ns=run[0], end_ns=run[-1] + 1).row(value, "")
            held = array_of(feature, value)
            yield Piece(row=row, feature=feature, start_ns=run[0], end_ns=run[-1] + 1, value=held)


def _runs(times: Sequence[int], covered: Mapping[int, Any]) -> Iterator[list[int]]:
    run: list[int] = []
    for at in times:
        if at in covered:
            if run:
                yield run
            run = []
        else:
            run.append(at)
    if run:
        yield run


def _source(known: Known, feature: Feature, piece: Piece, asked: Asked, *, explicit: bool) -> str | None:
    """Who says a piece; None: it says what is known already.

    Raises:
        InvalidInputError: nobody is named, or the recording itself, which says otherwise.
    """
    told = piece.row.source
    said = [known.at[t] for t in known.between(piece.start_ns, piece.end_ns) if t in known.at]
    whole = len(said) == len(known.between(piece.start_ns, piece.end_ns))
    if whole and all(k.source in (told, asked.source) and _equal(feature, k.value, piece.value) for k in said):
        return None
    source = (told or asked.source) if explicit else (asked.source or told)
    if not source:
        raise InvalidInputError(f"{piece.row.where}: nobody is named who says so. Give --source NAME")
    if source == RECORDED:
        raise InvalidInputError(
            f"{piece.row.where}: says that it was {RECORDED}, and the recording says otherwise. Give another source"
        )
    return source


def _equal(feature: Feature, a: Array | str, b: Array | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    is_float = np.issubdtype(np.dtype(feature.dtype), np.floating)
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=is_float)
