"""Usage for whoever pays: by tenant, key and day from the accounts; by server, tier and model from what was sent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import MEASURES
from fleetmill.serve.accounts.book import Accounts
from fleetmill.serve.accounts.journal import BEGUN
from fleetmill.serve.accounts.proof import records
from fleetmill.serve.accounts.schema import ALL_KEYS

Row = Mapping[str, Any]
COUNTED = ("tenant", "key", "day", "tier", "server", "model", "outcome", "resumed")  # what sent records group by


def booked(accounts: Accounts, *, since_ns: int, until_ns: int) -> list[Row]:
    """Per tenant, key and day: what was charged, of it presumed, and what was overrun.

    Money in 1e-6 of the unit, energy in joules. Days are UTC, those that begin within [since_ns, until_ns).
    """
    found: list[Row] = []
    for balance in accounts.balances(since_ns=since_ns, until_ns=until_ns, period="day"):
        if balance.key == ALL_KEYS:
            continue
        row: dict[str, Any] = {"tenant": balance.tenant, "key": balance.key, "day": day(balance.start_ns)}
        row.update({m: balance.spent[m] for m in MEASURES})
        row.update({f"presumed_{m}": balance.presumed[m] for m in MEASURES})
        row.update({f"overrun_{m}": balance.overrun[m] for m in MEASURES})
        found.append(row)
    return found


def sent(folder: Path, *, since_ns: int, until_ns: int) -> list[Row]:
    """Per tenant, key, day, tier, server, model, outcome and servers that broke off before: what it took there.

    Every server that was asked counts, also those that broke off; so requests are tries, and more than were made.
    """
    sums: dict[tuple[Any, ...], dict[str, int]] = {}
    for one in records(folder, since_ns=since_ns, until_ns=until_ns):
        if one["outcome"] == BEGUN:
            continue
        place = tuple({**one, "day": day(one["time_ns"])}[name] for name in COUNTED)
        row = sums.setdefault(place, dict.fromkeys((*MEASURES, "tokens_in", "tokens_out"), 0))
        for measure in MEASURES:
            row[measure] += one["used"].get(measure, 0)
        row["tokens_in"] += one["tokens_in"]
        row["tokens_out"] += one["tokens_out"]
    return [{**dict(zip(COUNTED, place)), **sums[place]} for place in sorted(sums)]


def as_csv(rows: Sequence[Row]) -> str:
    """CSV with a head line (RFC 4180); nothing where there are no rows.

    A field that a spreadsheet would take for a formula gets a quote before it.
    """
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """One JSON list."""
    return json.dumps(list(rows))


def day(at_ns: int) -> str:
    """The day (UTC) as 2026-01-31."""
    return f"{datetime.fromtimestamp(at_ns // 10**9, tz=timezone.utc):%Y-%m-%d}"


def day_ns(text: str) -> int:
    """When a day (UTC) begins, in ns.

    Raises:
        InvalidInputError: no date as 2026-01-31.
    """
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc).timestamp()) * 10**9
    except ValueError:
        raise InvalidInputError(f"day {text[:40]!r}: write it as 2026-01-31") from None


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
