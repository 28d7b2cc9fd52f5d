"""The rule of accounts: the balances that one transaction touches, reckoned in memory and written back as one.

A use of (tenant, key) counts in six balances: the tenant's and the key's, each for ever, for its day and for its month
(UTC). Budgets stand on some of them. `Page.take` gives nothing out that would bring spent + reserved above any; the
UPDATE that writes it says so again in its WHERE, so that no mistake here and no second writer gets past it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, insert, select, tuple_, update

from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.serve import MEASURES, Measure
from fleetmill.serve.accounts.schema import ALL_KEYS, BALANCE, balance, budget, chunks, columns

Amounts = tuple[int, int, int, int]  # in the order of MEASURES
Place = tuple[str, str, str, int]  # tenant, key, period, its start
NOTHING: Amounts = (0, 0, 0, 0)
ENDLESS = 2**62  # where no budget stands
MOST_AMOUNT = 10**15  # of one reservation, in any measure
PERIODS = ("none", "day", "month")
DAY_NS = 86_400 * 10**9
SPENT, RESERVED, OVERRUN, PRESUMED = 0, 4, 8, 12  # where a kind begins in a row of a page
_COLUMNS = columns(*BALANCE)


def amounts(given: Mapping[Measure, int]) -> Amounts:
    """The four amounts of a mapping; what is not named is 0.

    Raises:
        InvalidInputError: an unknown measure, or no whole number from 0 to 10^15.
    """
    found = (given.get("requests", 0), given.get("tokens", 0), given.get("money", 0), given.get("energy", 0))
    for value in found:
        if type(value) is not int or not 0 <= value <= MOST_AMOUNT:
            raise InvalidInputError(f"amount {value!r}: must be a whole number from 0 to 10^15")
    if len(given) > 4 or not given.keys() <= set(MEASURES):
        raise InvalidInputError(f"measures {', '.join(given)}: choose of {', '.join(MEASURES)}")
    return found


def named(values: Sequence[int]) -> dict[Measure, int]:
    """Four amounts under their names."""
    return dict(zip(MEASURES, values))


def added(one: Amounts, other: Amounts) -> Amounts:
    """Sum, measure by measure."""
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])


def without(one: Amounts, other: Amounts) -> Amounts:
    """Difference, measure by measure."""
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2], one[3] - other[3])


def lesser(one: Amounts, other: Amounts) -> Amounts:
    """The smaller of each measure."""
    return (min(one[0], other[0]), min(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3]))


def period_start(period: str, at_ns: int) -> int:
    """When the period began that `at_ns` lies in, ns UTC; 0 for `none`."""
    if period == "none":
        return 0
    day = at_ns - at_ns % DAY_NS
    if period == "day":
        return day
    first = datetime.fromtimestamp(day // 10**9, tz=timezone.utc).replace(day=1)
    return int(first.timestamp()) * 10**9


@lru_cache(maxsize=65_536)
def _places(tenant: str, key: str, day_ns: int) -> tuple[Place, ...]:
    keys = (ALL_KEYS,) if key == ALL_KEYS else (ALL_KEYS, key)
    return tuple((tenant, k, period, period_start(period, day_ns)) for k in keys for period in PERIODS)


class Page:
    """What one transaction reads, changes and writes of the balances. Write it once, at the end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._rows: dict[Place, list[int]] = {}
        self._was: dict[Place, list[int]] = {}  # absent: the row is not in the table yet
        self._most: dict[tuple[str, str, str], Amounts] = {}
        self._tenants: set[str] = set()
        self._views: dict[tuple[str, str, int], list[tuple[list[int], Amounts | None]]] = {}

    def load(self, uses: Iterable[tuple[str, str, int]]) -> None:
        """Read what (tenant, key, moment) count in, as far as it was not read before."""
        wanted = {(tenant, key, at_ns - at_ns % DAY_NS) for tenant, key, at_ns in uses}
        wanted.difference_update(self._views)
        self._load_budgets({tenant for tenant, _, _ in wanted} - self._tenants)
        missing = {place for use in wanted for place in _places(*use)}.difference(self._rows)
        where = tuple_(balance.c.tenant, balance.c.key, balance.c.period, balance.c.start_ns)
        for some in chunks(sorted(missing)):
            for row in self.connection.execute(select(balance).where(where.in_(some)).with_for_update()):
                place = (row[0], row[1], row[2], row[3])
                self._was[place] = list(row[4:])
                self._rows[place] = list(row[4:])
        for place in missing:
            self._rows.setdefault(place, [0] * len(_COLUMNS))
        for use in wanted:
            self._views[use] = [(self._rows[p], self._most.get(p[:3])) for p in _places(*use)]

    def _load_budgets(self, tenants: set[str]) -> None:
        for some in chunks(sorted(tenants)):
            for row in self.connection.execute(select(budget).where(budget.c.tenant.in_(some))):
                place = (row.tenant, row.key, row.period)
                most = list(self._most.get(place, (ENDLESS,) * 4))
                most[MEASURES.index(row.measure)] = row.most
                self._most[place] = (most[0], most[1], most[2], most[3])
        self._tenants |= tenants

    def room(self, tenant: str, key: str, at_ns: int) -> Amounts:
        """What could still be reserved in each measure; `ENDLESS` where no budget stands."""
        least = [ENDLESS] * 4
        for row, most in self._views[tenant, key, at_ns - at_ns % DAY_NS]:
            if most is not None:
                least = [min(a, max(0, most[i] - row[i] - row[i + RESERVED])) for i, a in enumerate(least)]
        return (least[0], least[1], least[2], least[3])

    def take(self, tenant: str, key: str, at_ns: int, worst: Amounts) -> bool:
        """Reserve all of `worst`, or nothing where a budget does not reach."""
        room = self.room(tenant, key, at_ns)
        if worst[0] > room[0] or worst[1] > room[1] or worst[2] > room[2] or worst[3] > room[3]:
            return False
        self.book(tenant, key, at_ns, (RESERVED, worst))
        return True

    def book(self, tenant: str, key: str, at_ns: int, *changes: tuple[int, Amounts]) -> None:
        """Add to kinds (SPENT, RESERVED, OVERRUN, PRESUMED), in all balances that this use counts in."""
        flat = [(kind + i, change[i]) for kind, change in changes for i in range(4) if change[i]]
        for row, _ in self._views[tenant, key, at_ns - at_ns % DAY_NS]:
            for at, change in flat:
                row[at] += change

    def write(self) -> None:
        """Bring the changed balances to the table; nothing that grows may go above its budget."""
        new = [place for place in self._rows if place not in self._was and any(self._rows[place])]
        if new:
            names = ("tenant", "key", "period", "start_ns", *_COLUMNS)
            zeros = [0] * len(_COLUMNS)
            self.connection.execute(insert(balance), [dict(zip(names, [*place, *zeros])) for place in new])
        changed = [self._change(p, row) for p, row in self._rows.items() if row != self._was.get(p, _ZEROS)]
        if changed:
            done = self.connection.execute(_UPDATE, changed).rowcount
            if done != len(changed):
                raise UnavailableError("accounts: a budget was changed by another writer meanwhile. Try again")

    def _change(self, place: Place, row: list[int]) -> dict[str, Any]:
        was, most = self._was.get(place, _ZEROS), self._most.get(place[:3])
        found: dict[str, Any] = dict(zip(_PLACE_PARAMETERS, place))
        found.update((f"d_{name}", now - before) for name, now, before in zip(_COLUMNS, row, was))
        for i, measure in enumerate(MEASURES):
            grows = row[i] + row[i + RESERVED] > was[i] + was[i + RESERVED]
            found[f"most_{measure}"] = most[i] if most is not None and grows else 2**63 - 1
        return found


def _after(name: str) -> ColumnElement[int]:
    return balance.c[name] + bindparam(f"d_{name}")


_ZEROS = [0] * len(_COLUMNS)
_PLACE_PARAMETERS = ("p_tenant", "p_key", "p_period", "p_start_ns")
_UPDATE = (
    update(balance)
    .where(
        balance.c.tenant == bindparam("p_tenant"),
        balance.c.key == bindparam("p_key"),
        balance.c.period == bindparam("p_period"),
        balance.c.start_ns == bindparam("p_start_ns"),
        *(
            _after(f"spent_{measure}") + _after(f"reserved_{measure}") <= bindparam(f"most_{measure}")
            for measure in MEASURES
        ),
    )
    .values({name: _after(name) for name in _COLUMNS})
)
