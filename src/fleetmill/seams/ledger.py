"""The ledger: an append-only, hash-chained table of facts. Everything else that a home knows is made from it.

`Ledger` is the seam; `open_ledger` gives the embedded one (SQLite through SQLAlchemy Core; ``sqlite://`` is the
fake). One owner writes at a time; any number of processes may read.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import StaticPool

from fleetmill.core import canonical
from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError, UnavailableError
from fleetmill.seams import projections, schema

LEAST_DIGITS = 6  # of a digest's beginning that may name a fact
_GENESIS = bytes(32)
_PREFIX = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},64}}")
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A fact to be: (kind, key) names it, `record` is plain JSON that holds no wall time."""

    kind: str
    key: str
    record: Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One entry of the ledger."""

    seq: int
    time_ns: int
    kind: str
    key: str
    record: Record
    digest: str


class Ledger(Protocol):
    """Facts in, facts out."""

    def append(self, drafts: Sequence[Draft]) -> list[Fact]:
        """Append all or nothing, durably. A fact that is there already is given back, not written again.

        Raises:
            ConflictError: (kind, key) is there with another record, or the books cannot take a posting.
            UnavailableError: disk full, locked, or gone; nothing was written.
        """

    def read(self, *, kind: str | None = None, after: int = 0) -> Iterator[Fact]:
        """Facts in order, of one kind or of all."""

    def get(self, kind: str, key: str) -> Fact:
        """One fact.

        Raises:
            NotFoundError: there is none.
        """

    def head(self) -> tuple[int, str]:
        """(number, digest) of the last fact; (0, zeros) when there is none."""

    def verify(self) -> int:
        """Walk the chain; the number of facts.

        Raises:
            IntegrityError: names the first fact that does not fit.
        """

    def close(self) -> None:
        """May be called twice."""


class SqlLedger:
    """`Ledger` over SQLAlchemy Core."""

    def __init__(self, engine: Engine, clock: Callable[[], int]) -> None:
        self.engine = engine
        self._clock = clock
        self._lock = threading.Lock()

    def append(self, drafts: Sequence[Draft]) -> list[Fact]:
        """See `Ledger.append`."""
        with self._lock, _translated(), self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                facts = self._append(connection, drafts)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(DatabaseError):  # a full disk has made SQLite roll back by itself
                    connection.exec_driver_sql("ROLLBACK")
                raise
            return facts

    def _append(self, connection: Connection, drafts: Sequence[Draft]) -> list[Fact]:
        seq, digest = _head(connection)
        facts, prev = [], bytes.fromhex(digest)
        for draft in drafts:
            record = canonical.dumps(draft.record).decode()
            known = _find(connection, draft.kind, draft.key)
            if known is not None:
                if canonical.dumps(known.record).decode() != record:
                    raise ConflictError(f"{draft.kind} {draft.key}: fact {known.seq} says otherwise")
                facts.append(known)
                continue
            seq, now = seq + 1, self._clock()
            link = _link(seq, now, draft.kind, draft.key, record, prev)
            connection.execute(
                insert(schema.fact).values(
                    seq=seq, time_ns=now, kind=draft.kind, key=draft.key, record=record, prev=prev, digest=link
                )
            )
            projections.apply(connection, seq, draft.kind, draft.record)
            prev = link
            facts.append(
                Fact(seq=seq, time_ns=now, kind=draft.kind, key=draft.key, record=draft.record, digest=link.hex())
            )
        return facts

    def read(self, *, kind: str | None = None, after: int = 0) -> Iterator[Fact]:
        """See `Ledger.read`."""
        t = schema.fact
        query = select(t).where(t.c.seq > after).order_by(t.c.seq)
        if kind is not None:
            query = query.where(t.c.kind == kind)
        with _translated(), self.engine.connect() as connection:
            rows = connection.execute(query).fetchall()
        return (_fact(row) for row in rows)

    def get(self, kind: str, key: str) -> Fact:
        """See `Ledger.get`."""
        with _translated(), self.engine.connect() as connection:
            found = _find(connection, kind, key)
        if found is None:
            raise NotFoundError(f"no {kind} {key!r} in the ledger")
        return found

    def find(self, digest: str) -> Fact:
        """The fact with that digest, or with that beginning of one; outside the seam, for who holds a receipt.

        Raises:
            InvalidInputError: it is no digest, nor at least 6 digits of one.
            NotFoundError: no fact has it.
            ConflictError: several begin so.
        """
        if not _PREFIX.fullmatch(digest):
            raise InvalidInputError(f"digest {digest[:80]!r}: give {LEAST_DIGITS} to 64 of its lower-case hex digits")
        t = schema.fact
        first, last = bytes.fromhex(digest.ljust(64, "0")), bytes.fromhex(digest.ljust(64, "f"))
        query = select(t).where(t.c.digest.between(first, last)).order_by(t.c.seq).limit(2)
        with _translated(), self.engine.connect() as connection:
            found = connection.execute(
                query
            ).fetchall()  # a home of format 1 has no index on it and is searched through
        if not found:
            raise NotFoundError(f"no fact {digest!r} in the ledger")
        if len(found) > 1:
            raise ConflictError(f"fact {digest!r}: facts {found[0].seq} and {found[1].seq} begin so. Give more digits")
        return _fact(found[0])

    def head(self) -> tuple[int, str]:
        """See `Ledger.head`."""
        with _translated(), self.engine.connect() as connection:
            return _head(connection)

    def verify(self) -> int:
        """See `Ledger.verify`."""
        t, prev, number = schema.fact, _GENESIS, 0
        with _translated(), self.engine.connect() as connection:
            for row in connection.execute(select(t).order_by(t.c.seq)):
                number += 1
                link = _link(row.seq, row.time_ns, row.kind, row.key, row.record, prev)
                if row.seq != number or bytes(row.prev) != prev or bytes(row.digest) != link:
                    raise IntegrityError(
                        f"ledger: fact {row.seq} ({row.kind} {row.key}) does not follow from fact {number - 1}: "
                        "it was changed, removed or reordered. Restore the home from a copy"
                    )
                prev = link
        return number

    def close(self) -> None:
        """See `Ledger.close`."""
        self.engine.dispose()


def open_ledger(url: str, *, clock: Callable[[], int] = time.time_ns) -> SqlLedger:
    """The ledger at `url` (``sqlite:///path`` or ``sqlite://`` for memory), its tables made when absent.

    Tables of an older revision are opened as they are and work: `bring_up` is what changes them.

    Raises:
        UnavailableError: it cannot be opened.
    """
    memory = url == "sqlite://"
    options: dict[str, Any] = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} if memory else {}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _sqlite_settings)
    ledger = SqlLedger(engine, clock)
    try:
        with _translated():
            if memory:
                schema.metadata.create_all(engine)
            elif not inspect(engine).has_table(schema.fact.name):
                bring_up(ledger)
    except BaseException:
        engine.dispose()
        raise
    return ledger


def bring_up(ledger: SqlLedger) -> tuple[str, str]:
    """Bring the ledger's tables to the newest revision, in one transaction; (revision before, revision now).

    Raises:
        UnavailableError: the disk refused; nothing was changed.
    """
    from fleetmill.seams import migrations  # a device and a running factory load no Alembic

    with _translated(), ledger.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            found = migrations.migrate(connection)
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            with suppress(DatabaseError):
                connection.exec_driver_sql("ROLLBACK")
            raise
        return found


def revisions(ledger: SqlLedger) -> tuple[str, str]:
    """(revision that the ledger's tables are at, the newest one)."""
    from fleetmill.seams import migrations

    with _translated(), ledger.engine.connect() as connection:
        return migrations.revision(connection), migrations.newest()


def _sqlite_settings(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are ours: BEGIN IMMEDIATE takes the writer's lock at once
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=20000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        what = f"ledger: {error.orig}"
        raise UnavailableError(f"{what}. Check the disk's free space and permissions, then try again") from error
    except DatabaseError as error:
        raise IntegrityError(f"ledger: {error.orig}. Restore the home from a copy") from error


def _link(seq: int, time_ns: int, kind: str, key: str, record: str, prev: bytes) -> bytes:
    head = canonical.dumps([seq, time_ns, kind, key, prev.hex()])
    return hashlib.sha256(head + b"\n" + record.encode()).digest()


def _head(connection: Connection) -> tuple[int, str]:
    t = schema.fact
    row = connection.execute(select(t.c.seq, t.c.digest).order_by(t.c.seq.desc()).limit(1)).first()
    return (row.seq, bytes(row.digest).hex()) if row else (0, _GENESIS.hex())


def _find(connection: Connection, kind: str, key: str) -> Fact | None:
    t = schema.fact
    row = connection.execute(select(t).where(t.c.kind == kind, t.c.key == key)).first()
    return _fact(row) if row else None


def _fact(row: Any) -> Fact:
    try:
        record = canonical.loads(row.record)
    except InvalidInputError as error:
        raise IntegrityError(
            f"ledger: fact {row.seq} ({row.kind} {row.key}) is damaged: {error}. Restore the home from a copy"
        ) from error
    return Fact(
        seq=row.seq,
        time_ns=row.time_ns,
        kind=row.kind,
        key=row.key,
        record=record,
        digest=bytes(row.digest).hex(),
    )
