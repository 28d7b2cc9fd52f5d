"""The tables of a home: facts, the only truth, and projections that are made again from them (CONTRACTS, 3).

What is changed here needs a revision in `migrations/` that brings older homes to it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()
Number = BigInteger().with_variant(Integer, "sqlite")


def _number(name: str, *, primary: bool = False) -> Column[int]:
    return Column(name, Number, primary_key=primary, nullable=False, autoincrement=False)


def _text(name: str, *, primary: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary, nullable=False)


fact = Table(
    "fact",
    metadata,
    _number("seq", primary=True),
    _number("time_ns"),
    _text("kind"),
    _text("key"),
    _text("record"),
    Column("prev", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    UniqueConstraint("kind", "key"),
)
Index("fact_kind", fact.c.kind, fact.c.seq)
Index("fact_digest", fact.c.digest, unique=True)

span = Table(
    "span",
    metadata,
    _number("device", primary=True),
    _number("track", primary=True),
    _number("start_ns", primary=True),
    _number("end_ns"),
    _number("bytes"),
    _number("messages"),
    _text("account"),
    _text("reason"),
    Column("recording", Text),
    _number("seq"),
    CheckConstraint("end_ns > start_ns"),
    sqlite_with_rowid=False,
)
Index("span_recording", span.c.recording, sqlite_where=text("recording IS NOT NULL"))

balance = Table(
    "balance",
    metadata,
    _number("device", primary=True),
    _number("day", primary=True),
    _text("account", primary=True),
    _text("reason", primary=True),
    _number("ns"),
    _number("bytes"),
    sqlite_with_rowid=False,
)

fleet_balance = Table(
    "fleet_balance",
    metadata,
    _number("day", primary=True),
    _text("account", primary=True),
    _text("reason", primary=True),
    _number("ns"),
    _number("bytes"),
    sqlite_with_rowid=False,
)

device_journal = Table(
    "device_journal",
    metadata,
    _number("device", primary=True),
    _number("entry"),
    _text("digest"),
    _number("lived_until_ns"),
    _number("lived_ns"),
    _number("lived_bytes"),
)

role = Table(
    "role",
    metadata,
    _text("line", primary=True),
    _text("session", primary=True),
    _text("role"),
    _number("seq"),
    sqlite_with_rowid=False,
)

member = Table(
    "member",
    metadata,
    _text("dataset", primary=True),
    _number("device", primary=True),
    _number("track", primary=True),
    _number("start_ns", primary=True),
    _number("end_ns"),
    _text("episode"),
    sqlite_with_rowid=False,
)
Index("member_fate", member.c.device, member.c.track, member.c.start_ns)

PROJECTIONS = (span, balance, fleet_balance, device_journal, role, member)
