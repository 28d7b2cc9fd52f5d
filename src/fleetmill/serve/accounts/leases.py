"""Leases: slices of budgets that a gateway process hands out by itself, without asking the accounts for each request.

A lease's total (used + in use + free) is reserved in the accounts, so the sum of all leases and of what was spent never
exceeds a budget. Each turn the owner says how much it has used and how much of the rest it still wants.

When a lease's time runs out, its owner is taken for dead: what it had used and not yet told is charged, and so is the
worst of the requests that were under way (`presumed`), both as its marks say (`marks`). Without believable marks
all of the lease is charged. So nothing is ever overspent; what comes back is what nobody had in hand. An owner that was
only slow says later what those requests really used, and the difference comes back too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from fleetmill.serve.accounts.page import (
    ENDLESS,
    NOTHING,
    PRESUMED,
    RESERVED,
    SPENT,
    Amounts,
    Page,
    added,
    lesser,
    without,
)
from fleetmill.serve.accounts.schema import by_id, columns, lease

OPEN, REAPED, CLOSED = "open", "reaped", "closed"
_SHARE = 4  # a lease grows beyond what is needed now by at most this part of what is left of the budget
_AMOUNTS = columns("held", "spent", "presumed")
Marked = Callable[[str, str], tuple[Amounts, Amounts] | None]  # (owner, lease) -> (used, held); None: not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What the owner of a lease says and wants; saying it twice changes nothing."""

    id: str
    tenant: str
    key: str
    at_ns: int  # when the lease was made: it counts in that moment's periods
    until_ns: int
    used: Amounts  # since the lease was made
    total: Amounts  # used, in use by requests, and free: the rest is given back
    need: Amounts = NOTHING  # what waits now
    wish: Amounts = NOTHING  # what is likely to come soon
    is_last: bool = False  # nothing is in use: close it


@dataclass(frozen=True, kw_only=True, slots=True)
class Turned:
    """What became of it."""

    state: str  # open; closed; reaped: its time had run out and it was settled without the owner
    grown: Amounts  # added to the total
    room: Amounts  # what the budgets still allow beside all leases


def turn(page: Page, owner: str, turns: Sequence[Turn]) -> list[Turned]:
    """Charge what was used, take back what is not wanted, then give what is wanted as far as budgets reach."""
    rows = by_id(page.connection, lease, [t.id for t in turns])
    page.load((t.tenant, t.key, t.at_ns) for t in turns)
    new, changed, kept = [], [], {}
    for t in turns:  # what comes back first, so that it can be given out again below
        row = rows.get(t.id)
        if row is None and t.total != NOTHING:
            continue  # reaped so long ago that it is forgotten
        if row is None or row.state == OPEN:
            kept[t.id] = _charge(page, t, row)
        elif row.state == REAPED and t.is_last:
            changed.append(_late(page, t, row))
    found: list[Turned] = []
    for t in turns:
        if t.id not in kept:
            state = rows[t.id].state if t.id in rows else REAPED
            found.append(Turned(state=state, grown=NOTHING, room=page.room(t.tenant, t.key, t.at_ns)))
            continue
        grown = NOTHING if t.is_last else _grow(page, t)
        held = added(kept[t.id], grown)
        state = CLOSED if t.is_last else OPEN
        values = _values(t.id, state, t.until_ns, held, t.used, NOTHING)
        if t.id in rows:
            changed.append(values)
        elif any(held) or any(t.used):
            new.append({**_inserted(values), "tenant": t.tenant, "key": t.key, "owner": owner, "at_ns": t.at_ns})
        else:
            state = CLOSED  # nothing was given, so there is nothing to keep
        found.append(Turned(state=state, grown=grown, room=page.room(t.tenant, t.key, t.at_ns)))
    if new:
        page.connection.execute(insert(lease), new)
    if changed:
        page.connection.execute(_UPDATE, changed)
    return found


def reap(page: Page, now_ns: int, marked: Marked) -> list[str]:
    """Settle leases whose time has run out; the owners that they were of."""
    query = select(lease).where(lease.c.state == OPEN, lease.c.until_ns <= now_ns)
    rows = page.connection.execute(query).fetchall()
    if not rows:
        return []
    page.load((row.tenant, row.key, row.at_ns) for row in rows)
    changed = []
    for row in rows:
        held, spent = _of(row, "held"), _of(row, "spent")
        marks = marked(row.owner, row.id)
        used, in_use = (spent, held) if marks is None else marks
        untold = lesser(held, _above(without(used, spent)))
        presumed = lesser(without(held, untold), in_use)
        charged = added(untold, presumed)
        page.book(row.tenant, row.key, row.at_ns, (SPENT, charged), (RESERVED, _minus(held)), (PRESUMED, presumed))
        changed.append(_values(row.id, REAPED, row.until_ns, NOTHING, added(spent, charged), presumed))
    page.connection.execute(_UPDATE, changed)
    return sorted({row.owner for row in rows})


def _charge(page: Page, t: Turn, row: Any) -> Amounts:
    """Book what is new in `used` and give back what is not in `total` any more; what is still held."""
    if row is None:
        return NOTHING
    held, spent = _of(row, "held"), _of(row, "spent")
    fresh = without(t.used, spent)
    keep = NOTHING if t.is_last else without(t.total, t.used)
    page.book(t.tenant, t.key, t.at_ns, (SPENT, fresh), (RESERVED, without(keep, held)))
    return keep


def _grow(page: Page, t: Turn) -> Amounts:
    room = page.room(t.tenant, t.key, t.at_ns)
    need = lesser(t.need, room)
    rest = without(room, need)
    more = [min(wish, left if left > ENDLESS // 2 else left // _SHARE) for wish, left in zip(t.wish, rest)]
    grown = added(need, (more[0], more[1], more[2], more[3]))
    page.book(t.tenant, t.key, t.at_ns, (RESERVED, grown))
    return grown


def _late(page: Page, t: Turn, row: Any) -> dict[str, Any]:
    """The owner lives: what its requests really used takes the place of what was presumed."""
    spent, presumed = _of(row, "spent"), _of(row, "presumed")
    really = lesser(t.used, spent)
    page.book(t.tenant, t.key, t.at_ns, (SPENT, without(really, spent)), (PRESUMED, _minus(presumed)))
    return _values(t.id, CLOSED, row.until_ns, NOTHING, really, NOTHING)


def _of(row: Any, kind: str) -> Amounts:
    one, two, three, four = (getattr(row, name) for name in columns(kind))
    return one, two, three, four


def _above(values: Amounts) -> Amounts:
    return (max(0, values[0]), max(0, values[1]), max(0, values[2]), max(0, values[3]))


def _minus(values: Amounts) -> Amounts:
    return without(NOTHING, values)


def _values(name: str, state: str, until_ns: int, held: Amounts, spent: Amounts, presumed: Amounts) -> dict[str, Any]:
    amounts = dict(zip(_AMOUNTS, (*held, *spent, *presumed)))
    return {"p_id": name, "state": state, "until_ns": until_ns, **amounts}


def _inserted(values: dict[str, Any]) -> dict[str, Any]:
    return {"id" if name == "p_id" else name: value for name, value in values.items()}


_UPDATE = (
    update(lease)
    .where(lease.c.id == bindparam("p_id"))
    .values({name: bindparam(name) for name in ("state", "until_ns", *_AMOUNTS)})
)
