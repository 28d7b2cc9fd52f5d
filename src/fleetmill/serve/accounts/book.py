"""Accounts: budgets, and what was reserved and used of them. Reserve the worst, then settle what it was.

For every budget (of a tenant or of one key, in one measure, per period): spent + reserved <= budget, whatever dies
when. What was used beyond its reservation, or after that had run out, is `overrun`: told and recorded, and no budget's
spending. A budget that is set below what is gone already takes nothing back; nothing more is given out of it.

Many at once: each call is one transaction, however many reservations it brings, and each of them is granted or not on
its own. What names a reservation or a lease may be said again after a crash. Processes and threads may share accounts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, bindparam, delete, insert, select, tuple_, update

from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError
from fleetmill.core.serve import MEASURES, Measure
from fleetmill.serve.accounts import leases, marks
from fleetmill.serve.accounts.page import (
    DAY_NS,
    MOST_AMOUNT,
    NOTHING,
    OVERRUN,
    PERIODS,
    RESERVED,
    SPENT,
    Amounts,
    Page,
    added,
    amounts,
    lesser,
    named,
    period_start,
    without,
)
from fleetmill.serve.accounts.schema import (
    ALL_KEYS,
    api_key,
    balance,
    budget,
    by_id,
    columns,
    lease,
    open_folder,
    open_store,
    reading,
    reservation,
    rules_changed,
    rules_number,
    tenant,
    writing,
)

SETTLED, RELEASED, EXPIRED, LATE = "settled", "released", "expired", "late"
_KEPT_NS = DAY_NS  # so long a settled reservation is known, that settling it again changes nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """A reservation to be. The caller chooses the id: asking again with it gives the same reservation, not another."""

    id: str
    tenant: str
    key: str
    worst: Mapping[Measure, int]
    until_ns: int  # it comes back then, unless it was settled


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What a settled reservation cost."""

    charged: Mapping[Measure, int]
    overrun: Mapping[Measure, int]  # used, but not reserved any more or never


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What was used without a reservation: of a tenant that had no budget then, or beyond what was reserved."""

    tenant: str
    key: str
    used: Amounts = NOTHING
    overrun: Amounts = NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """At most so much in a measure per period; `key` "": of the whole tenant."""

    tenant: str
    key: str
    measure: Measure
    period: str
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """How an account stands in one period."""

    tenant: str
    key: str
    period: str
    start_ns: int
    spent: Mapping[Measure, int]
    reserved: Mapping[Measure, int]
    overrun: Mapping[Measure, int]
    presumed: Mapping[Measure, int]  # part of spent: the worst of requests whose gateway died under them


class Accounts:
    """The accounts of one home. Threads may share it."""

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = time.time_ns, marks: Path | None = None) -> None:
        self.engine, self.clock, self.marks = engine, clock, marks

    def reserve(self, wants: Sequence[Want]) -> list[bool]:
        """Reserve each, or not where a budget does not reach for it.

        Raises:
            ConflictError: an id is there with other values. Nothing was reserved.
            UnavailableError: disk full, locked or gone. Nothing was reserved.
        """
        granted = []
        with self._page() as page:
            now, rows = self.clock(), by_id(page.connection, reservation, [w.id for w in wants])
            known = {name: _worth(row) for name, row in rows.items()}
            page.load((w.tenant, w.key, now) for w in wants)
            new = []
            for want in wants:
                worth = (want.tenant, want.key, amounts(want.worst))
                if want.id in known and known[want.id] != worth:
                    raise ConflictError(f"reservation {want.id}: is there with other values")
                if want.id in known:  # said again
                    granted.append(want.id not in rows or rows[want.id].state in (leases.OPEN, SETTLED))
                    continue
                granted.append(page.take(want.tenant, want.key, now, worth[2]))
                if granted[-1]:
                    known[want.id] = worth
                    new.append(_row(want, now, worth[2]))
            if new:
                page.connection.execute(insert(reservation), new)
        return granted

    def settle(self, used: Mapping[str, Mapping[Measure, int]]) -> dict[str, Bill]:
        """Charge what was used, at most what was reserved; ids that are not known (any more) are left out.

        A reservation that had run out or was released costs nothing of a budget: all that it used is overrun.
        """
        found: dict[str, Bill] = {}
        with self._page() as page:
            rows = by_id(page.connection, reservation, list(used))
            page.load((row.tenant, row.key, row.at_ns) for row in rows.values())
            changed = []
            for name, row in rows.items():
                if row.state in (SETTLED, LATE):
                    found[name] = Bill(charged=named(_of(row, "spent")), overrun=named(_of(row, "overrun")))
                    continue
                whole, worst = amounts(used[name]), _of(row, "worst")
                is_open = row.state == leases.OPEN
                charged = lesser(whole, worst) if is_open else NOTHING
                overrun = without(whole, charged)
                back = without(NOTHING, worst) if is_open else NOTHING
                page.book(row.tenant, row.key, row.at_ns, (SPENT, charged), (RESERVED, back), (OVERRUN, overrun))
                changed.append(_over(name, SETTLED if is_open else LATE, charged, overrun))
                found[name] = Bill(charged=named(charged), overrun=named(overrun))
            if changed:
                page.connection.execute(_UPDATE, changed)
        return found

    def release(self, ids: Sequence[str]) -> int:
        """Give reservations back unused; how many were open."""
        with self._page() as page:
            rows = by_id(page.connection, reservation, ids).values()
            return _give_back(page, [row for row in rows if row.state == leases.OPEN], RELEASED)

    def expire(self) -> None:
        """Take back what has run out, and forget what was settled long ago. Every other call takes back too."""
        with self._page() as page:
            old = self.clock() - _KEPT_NS
            for table in (reservation, lease):
                page.connection.execute(delete(table).where(table.c.state != leases.OPEN, table.c.until_ns < old))
            owners = set(page.connection.scalars(select(lease.c.owner)))
        if self.marks is not None:
            marks.sweep(self.marks, owners, old)

    def turn(self, owner: str, turns: Sequence[leases.Turn], uses: Sequence[Use] = ()) -> list[leases.Turned]:
        """What a gateway process says of its leases and of what was used without one: see `leases.turn`.

        `uses` are not known again: bring each once.
        """
        with self._page() as page:
            now = self.clock()
            page.load((use.tenant, use.key, now) for use in uses)
            for use in uses:
                charged = lesser(use.used, page.room(use.tenant, use.key, now))
                over = added(use.overrun, without(use.used, charged))
                page.book(use.tenant, use.key, now, (SPENT, charged), (OVERRUN, over))
            return leases.turn(page, owner, turns)

    def set_budget(self, of: str, key: str, measure: Measure, period: str, most: int | None) -> None:
        """Set the budget of a tenant, or of one of its keys; None takes it away. It counts what was used before too.

        Raises:
            NotFoundError: no such tenant, or the key is not its own.
            InvalidInputError: an unknown measure or period, or no amount from 0 to 10^15.
        """
        if measure not in MEASURES or period not in PERIODS:
            raise InvalidInputError(
                f"budget {measure} per {period}: measures are {', '.join(MEASURES)}; periods {', '.join(PERIODS)}"
            )
        if most is not None and not 0 <= most <= MOST_AMOUNT:
            raise InvalidInputError(f"budget {most}: must be from 0 to 10^15")
        place = {"tenant": of, "key": key, "measure": measure, "period": period}
        with writing(self.engine) as connection:
            if connection.execute(select(tenant).where(tenant.c.name == of)).first() is None:
                raise NotFoundError(f"tenant {of!r}: there is none. Make it: fleetmill serve tenant set {of}")
            owned = select(api_key).where(api_key.c.digest == key, api_key.c.tenant == of)
            if key != ALL_KEYS and connection.execute(owned).first() is None:
                raise NotFoundError(f"key {key[:12]}: tenant {of!r} has none such")
            connection.execute(delete(budget).where(*(budget.c[name] == value for name, value in place.items())))
            if most is not None:
                connection.execute(insert(budget).values(**place, most=most))
            rules_changed(connection)

    def budgets(self) -> list[Budget]:
        """All of them, sorted."""
        with reading(self.engine) as connection:
            rows = connection.execute(select(budget).order_by(*budget.primary_key)).fetchall()
        return [Budget(tenant=r.tenant, key=r.key, measure=r.measure, period=r.period, most=r.most) for r in rows]

    def rules(self) -> int:
        """A number that grows whenever a tenant, a key or a budget changes."""
        with reading(self.engine) as connection:
            return rules_number(connection)

    def balances(self, *, since_ns: int | None = None, until_ns: int | None = None, **places: str) -> list[Balance]:
        """How accounts stand, e.g. `tenant="t"`, `period="day"`; by default each period's current one.

        Of periods that began within [since_ns, until_ns) where these are given.
        """
        query = select(balance).order_by(*balance.primary_key)
        query = query.where(*(balance.c[name] == value for name, value in places.items()))
        if since_ns is not None:
            query = query.where(balance.c.start_ns >= since_ns)
        if until_ns is not None:
            query = query.where(balance.c.start_ns < until_ns)
        if since_ns is None and until_ns is None:
            now = [(period, period_start(period, self.clock())) for period in PERIODS]
            query = query.where(tuple_(balance.c.period, balance.c.start_ns).in_(now))
        with reading(self.engine) as connection:
            rows = connection.execute(query).fetchall()
        return [_balance(row) for row in rows]

    def close(self) -> None:
        """May be called twice."""
        self.engine.dispose()

    @contextmanager
    def _page(self) -> Iterator[Page]:
        """One transaction over balances, what has run out taken back first."""
        with writing(self.engine) as connection:
            page, now = Page(connection), self.clock()
            query = select(reservation).where(reservation.c.state == leases.OPEN, reservation.c.until_ns <= now)
            _give_back(page, connection.execute(query).fetchall(), EXPIRED)
            leases.reap(page, now, self._marked())
            yield page
            page.write()

    def _marked(self) -> leases.Marked:
        seen: dict[str, dict[str, tuple[Amounts, Amounts]]] = {}

        def marked(owner: str, name: str) -> tuple[Amounts, Amounts] | None:
            if self.marks is None:
                return None
            if owner not in seen:
                seen[owner] = marks.marks_of(self.marks, owner)
            return seen[owner].get(name)

        return marked


def open_accounts(folder: Path, *, clock: Callable[[], int] = time.time_ns) -> Accounts:
    """The accounts in `folder` (a home's `serve`), made when absent.

    Raises:
        UnavailableError: the disk refused.
        TooNewError: a newer version made them.
    """
    return Accounts(open_folder(folder), clock=clock, marks=folder / "leases")


def fake_accounts(clock: Callable[[], int] = time.time_ns) -> Accounts:
    """Accounts in memory."""
    return Accounts(open_store("sqlite://"), clock=clock)


def _give_back(page: Page, rows: Sequence[Any], state: str) -> int:
    if rows:
        page.load((row.tenant, row.key, row.at_ns) for row in rows)
        for row in rows:
            page.book(row.tenant, row.key, row.at_ns, (RESERVED, without(NOTHING, _of(row, "worst"))))
        page.connection.execute(_UPDATE, [_over(row.id, state, NOTHING, NOTHING) for row in rows])
    return len(rows)


def _worth(row: Any) -> tuple[str, str, Amounts]:
    return row.tenant, row.key, _of(row, "worst")


def _of(row: Any, kind: str) -> Amounts:
    one, two, three, four = (getattr(row, name) for name in columns(kind))
    return one, two, three, four


def _balance(row: Any) -> Balance:
    return Balance(
        tenant=row.tenant,
        key=row.key,
        period=row.period,
        start_ns=row.start_ns,
        spent=named(_of(row, "spent")),
        reserved=named(_of(row, "reserved")),
        overrun=named(_of(row, "overrun")),
        presumed=named(_of(row, "presumed")),
    )


_WORST, _CHARGED = columns("worst"), columns("spent", "overrun")


def _row(want: Want, now: int, worst: Amounts) -> dict[str, Any]:
    found = {"id": want.id, "tenant": want.tenant, "key": want.key, "at_ns": now, "until_ns": want.until_ns}
    return {**found, "state": leases.OPEN, **dict(zip(_WORST, worst)), **dict.fromkeys(_CHARGED, 0)}


def _over(name: str, state: str, charged: Amounts, overrun: Amounts) -> dict[str, Any]:
    return {"p_id": name, "state": state, **dict(zip(_CHARGED, (*charged, *overrun)))}


_UPDATE = (
    update(reservation)
    .where(reservation.c.id == bindparam("p_id"))
    .values({name: bindparam(name) for name in ("state", *_CHARGED)})
)
