"""Facts become spans, balances, journals, roles and members: in the transaction that appends them.

What a fact of which kind does is one table, `APPLY`; the rule of a posting is `core.custody.move`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Row, Table, and_, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from fleetmill.core.custody import LIVED, Posting, Span, days, move
from fleetmill.core.errors import ConflictError
from fleetmill.core.plain import build, plain
from fleetmill.seams import schema

Record = Mapping[str, Any]


def apply(connection: Connection, seq: int, kind: str, record: Record) -> None:
    """What the fact changes in the projections.

    Raises:
        ConflictError: the books cannot take it; the caller rolls back, nothing is written.
    """
    if kind in APPLY:
        APPLY[kind](connection, seq, record)


def _moved(connection: Connection, seq: int, record: Record) -> None:
    posting = build(Posting, record)
    overlapping = _overlapping(connection, posting)
    after = move(posting, overlapping)
    t = schema.span
    for span in overlapping:
        connection.execute(
            delete(t).where(t.c.device == posting.device, t.c.track == posting.track, t.c.start_ns == span.start_ns)
        )
    rows = [
        {
            **plain(span),
            "recording": span.recording or None,
            "seq": seq,
            "device": posting.device,
            "track": posting.track,
        }
        for span in after
    ]
    connection.execute(insert(t), rows)
    touched = [s for s in overlapping if s.account == posting.source] if posting.source != LIVED else []
    _balance(connection, posting, touched)


def _overlapping(connection: Connection, p: Posting) -> list[Span]:
    t = schema.span
    rows = connection.execute(
        select(t)
        .where(and_(t.c.device == p.device, t.c.track == p.track, t.c.start_ns < p.end_ns, t.c.end_ns > p.start_ns))
        .order_by(t.c.start_ns)
    )
    return [span_of(row) for row in rows]


def span_of(row: Row[Any]) -> Span:
    """A row of the span table."""
    return Span(
        start_ns=row.start_ns,
        end_ns=row.end_ns,
        bytes=row.bytes,
        messages=row.messages,
        account=row.account,
        reason=row.reason,
        recording=row.recording or "",
    )


def _balance(connection: Connection, p: Posting, before: list[Span]) -> None:
    """Take the interval out of where it was, by its reasons, and put it where it goes; by UTC day."""
    if p.source == LIVED:
        pieces = [(p.start_ns, p.end_ns, p.bytes, "")]
    else:
        pieces = []
        for span in before:
            start, end = max(span.start_ns, p.start_ns), min(span.end_ns, p.end_ns)
            whole = span.end_ns - span.start_ns
            share = span.bytes * (end - span.start_ns) // whole - span.bytes * (start - span.start_ns) // whole
            pieces.append((start, end, share, span.reason))
    moves: dict[tuple[int, str, str], list[int]] = {}
    for start, end, size, reason in pieces:
        for day, ns, part in days(start, end, size):
            for key, sign in (((day, p.source, reason), -1), ((day, p.to, p.reason), 1)):
                found = moves.setdefault(key, [0, 0])
                found[0] += sign * ns
                found[1] += sign * part
    rows = [
        {"day": day, "account": account, "reason": reason, "ns": ns, "bytes": size}
        for (day, account, reason), (ns, size) in moves.items()
    ]
    if rows:
        dialect = connection.dialect.name
        connection.execute(_add(schema.balance, dialect), [{"device": p.device, **row} for row in rows])
        connection.execute(_add(schema.fleet_balance, dialect), rows)


@cache
def _add(table: Table, dialect: str) -> Executable:
    """Put a row in, or add its ns and bytes to the one that is there."""
    new = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return new.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={name: table.c[name] + new.excluded[name] for name in ("ns", "bytes")},
    )


def _journal(connection: Connection, seq: int, record: Record) -> None:  # noqa: ARG001
    t = schema.device_journal
    connection.execute(delete(t).where(t.c.device == record["device"]))
    connection.execute(insert(t).values({c.name: record[c.name] for c in t.columns}))


def _role(connection: Connection, seq: int, record: Record) -> None:
    connection.execute(
        insert(schema.role).values(line=record["line"], session=record["session"], role=record["role"], seq=seq)
    )


def _dataset(connection: Connection, seq: int, record: Record) -> None:  # noqa: ARG001
    rows = [{"dataset": record["digest"], "track": 0, **row} for row in record["members"]]
    if len({(r["device"], r["track"], r["start_ns"]) for r in rows}) != len(rows):
        raise ConflictError(f"dataset {record['digest'][:12]}: two episodes begin at one instant")
    if rows:
        connection.execute(insert(schema.member), rows)


APPLY: dict[str, Callable[[Connection, int, Record], None]] = {
    "moved": _moved,
    "journal": _journal,
    "role": _role,
    "dataset": _dataset,
}
