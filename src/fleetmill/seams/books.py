"""The books: where every lived interval is, read from the projections, and proof that facts and books agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, Table, func, select

from fleetmill.core import canonical
from fleetmill.core.custody import DAY_NS, LIVED, Span
from fleetmill.core.journal import Totals
from fleetmill.core.split import BY_TIME
from fleetmill.seams import projections, schema
from fleetmill.seams.ledger import SqlLedger, open_ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """One row: a device's (or with device -1 the fleet's) time and bytes in an account on a UTC day."""

    device: int
    day: int
    account: str
    reason: str
    ns: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """A span with the track that it is on and the number of the fact that moved it last."""

    track: int
    span: Span
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An episode of a dataset version that covers an interval of a device; `fact` is the dataset's."""

    dataset: str
    episode: str
    track: int
    start_ns: int
    end_ns: int
    fact: int


class Books:
    """Reads the projections of a ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    def balances(self) -> list[Balance]:
        """Every row with something in it, by device, day, account and reason."""
        t = schema.balance
        query = select(t).order_by(t.c.device, t.c.day, t.c.account, t.c.reason)
        return [
            Balance(device=r.device, day=r.day, account=r.account, reason=r.reason, ns=r.ns, bytes=r.bytes)
            for r in self._rows(query)
            if r.ns or r.bytes
        ]

    def balances_at(self, seq: int) -> list[Balance]:
        """What `balances` gave when the fact with that number was the last: every posting is made again."""
        then = open_ledger("sqlite://", clock=lambda: 0)
        try:
            _replay(self._ledger, then, upto=seq)
            return Books(then).balances()
        finally:
            then.close()

    def fleet(self) -> list[Balance]:
        """The same over all devices, by day, account and reason; the device is -1."""
        t = schema.fleet_balance
        query = select(t).order_by(t.c.day, t.c.account, t.c.reason)
        return [
            Balance(device=-1, day=r.day, account=r.account, reason=r.reason, ns=r.ns, bytes=r.bytes)
            for r in self._rows(query)
            if r.ns or r.bytes
        ]

    def journals(self) -> list[Totals]:
        """What each device signed last."""
        t = schema.device_journal
        return [
            Totals(
                device=r.device,
                entry=r.entry,
                digest=r.digest,
                lived_until_ns=r.lived_until_ns,
                lived_ns=r.lived_ns,
                lived_bytes=r.lived_bytes,
            )
            for r in self._rows(select(t).order_by(t.c.device))
        ]

    def journal(self, device: int) -> Totals | None:
        """What one device signed last, if it ever did."""
        return next((j for j in self.journals() if j.device == device), None)

    def spans(self, device: int, start_ns: int, end_ns: int, *, track: int = 0) -> list[Span]:
        """The device's spans that touch an interval, in order."""
        t = schema.span
        query = (
            select(t)
            .where(t.c.device == device, t.c.track == track, t.c.start_ns < end_ns, t.c.end_ns > start_ns)
            .order_by(t.c.start_ns)
        )
        return [projections.span_of(r) for r in self._rows(query)]

    def holdings(self, device: int, start_ns: int, end_ns: int) -> list[Holding]:
        """As `spans`, over all tracks, whole spans, each with the fact that moved it last."""
        t = schema.span
        query = (
            select(t)
            .where(t.c.device == device, t.c.start_ns < end_ns, t.c.end_ns > start_ns)
            .order_by(t.c.track, t.c.start_ns)
        )
        return [Holding(track=r.track, span=projections.span_of(r), fact=r.seq) for r in self._rows(query)]

    def members(self, device: int, start_ns: int, end_ns: int) -> list[Member]:
        """The episodes of dataset versions that touch an interval, by time, then by dataset in the order of facts."""
        t, f = schema.member, schema.fact
        query = (
            select(t, f.c.seq)
            .join(f, (f.c.kind == "dataset") & (f.c.key == t.c.dataset))
            .where(t.c.device == device, t.c.start_ns < end_ns, t.c.end_ns > start_ns)
            .order_by(t.c.track, t.c.start_ns, f.c.seq)
        )
        return [
            Member(
                dataset=r.dataset, episode=r.episode, track=r.track, start_ns=r.start_ns, end_ns=r.end_ns, fact=r.seq
            )
            for r in self._rows(query)
        ]

    def lived(self, device: int) -> tuple[int, int] | None:
        """(first instant, end of the last span) that the books hold of a device; None: nothing yet."""
        t = schema.span
        query = select(func.min(t.c.start_ns).label("first"), func.max(t.c.end_ns).label("last"))
        (row,) = self._rows(query.where(t.c.device == device))
        return None if row.first is None else (int(row.first), int(row.last))

    def roles(self, line: str, dataset: str | None = None) -> dict[str, str]:
        """Each session's role on a line in a dataset version, by default its newest: train, validation or held_out.

        Most are given once, whatever the version. Where the line is split by time the version decides; a session that
        is not in it has the role ``by_time``.
        """
        t = schema.role
        given = {r.session: r.role for r in self._rows(select(t.c.session, t.c.role).where(t.c.line == line))}
        if BY_TIME not in given.values():
            return given
        return dict.fromkeys(given, BY_TIME) | dict(self._parts(line, dataset))

    def _parts(self, line: str, dataset: str | None) -> list[tuple[str, str]]:
        """(session, role) by the manifest of a dataset version; without `dataset` of the line's newest."""
        t = schema.fact
        query = select(t.c.record).where(t.c.kind == "dataset").order_by(t.c.seq.desc())
        for row in self._rows(query if dataset is None else query.where(t.c.key == dataset)):
            manifest = canonical.loads(row.record)["manifest"]
            if manifest["line"] == line:
                return [(part["session"], part["role"]) for part in manifest["parts"]]
        return []

    def faults(self) -> list[str]:
        """Why the books do not balance; none when they do. Each names device, day, account and difference."""
        return [*self._unbalanced_days(), *self._against_journals()]

    def verify(self) -> list[str]:
        """Make every projection again from the facts in memory and name each row that differs."""
        again = open_ledger("sqlite://", clock=lambda: 0)
        try:
            _replay(self._ledger, again)
            faults = []
            for table in schema.PROJECTIONS:
                mine, theirs = _contents(self._ledger, table), _contents(again, table)
                faults += [f"{table.name}: {row} stands in the books, not in the facts" for row in mine - theirs]
                faults += [f"{table.name}: {row} follows from the facts, is not in the books" for row in theirs - mine]
            return faults
        finally:
            again.close()

    def _unbalanced_days(self) -> list[str]:
        t = schema.balance
        query = select(t.c.device, t.c.day, func.sum(t.c.ns).label("ns"), func.sum(t.c.bytes).label("bytes"))
        return [
            f"device {r.device}, day {r.day}: accounts differ by {r.ns} ns and {r.bytes} bytes"
            for r in self._rows(query.group_by(t.c.device, t.c.day))
            if r.ns or r.bytes
        ]

    def _against_journals(self) -> list[str]:
        t = schema.balance
        lived = {
            r.device: (-int(r.ns), -int(r.bytes))
            for r in self._rows(
                select(t.c.device, func.sum(t.c.ns).label("ns"), func.sum(t.c.bytes).label("bytes"))
                .where(t.c.account == LIVED)
                .group_by(t.c.device)
            )
        }
        return [
            f"device {j.device}: signed {j.lived_ns} ns and {j.lived_bytes} bytes lived, "
            f"the books hold {lived.get(j.device, (0, 0))[0]} ns and {lived.get(j.device, (0, 0))[1]} bytes"
            for j in self.journals()
            if lived.get(j.device, (0, 0)) != (j.lived_ns, j.lived_bytes)
        ]

    def _rows(self, query: Select[Any]) -> list[Row[Any]]:
        with self._ledger.engine.connect() as connection:
            return list(connection.execute(query))


def day_name(day: int) -> str:
    """A UTC day as its date.

    >>> day_name(19675)
    '2023-11-14'
    """
    import datetime

    return str(datetime.datetime.fromtimestamp(day * DAY_NS // 10**9, tz=datetime.timezone.utc).date())


def _replay(source: SqlLedger, target: SqlLedger, *, upto: int | None = None) -> None:
    with target.engine.connect() as connection:
        for fact in source.read():
            if upto is not None and fact.seq > upto:
                return
            projections.apply(connection, fact.seq, fact.kind, fact.record)


def _contents(ledger: SqlLedger, table: Table) -> set[tuple[object, ...]]:
    with ledger.engine.connect() as connection:
        return {tuple(row) for row in connection.execute(select(table))}
