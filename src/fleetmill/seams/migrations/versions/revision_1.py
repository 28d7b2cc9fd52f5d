"""The tables of format 1: the loop's first landing (version 0.1)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make facts and their projections, as version 0.1 made them."""
    op.create_table(
        "fact",
        _number("seq", primary=True),
        _number("time_ns"),
        _text("kind"),
        _text("key"),
        _text("record"),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("kind", "key"),
    )
    op.create_index("fact_kind", "fact", ["kind", "seq"])
    _spans()
    _balances()
    op.create_table(
        "device_journal",
        _number("device", primary=True),
        _number("entry"),
        _text("digest"),
        _number("lived_until_ns"),
        _number("lived_ns"),
        _number("lived_bytes"),
    )
    _uses()


def _spans() -> None:
    op.create_table(
        "span",
        _number("device", primary=True),
        _number("track", primary=True),
        _number("start_ns", primary=True),
        _number("end_ns"),
        _number("bytes"),
        _number("messages"),
        _text("account"),
        _text("reason"),
        sa.Column("recording", sa.Text()),
        _number("seq"),
        sa.CheckConstraint("end_ns > start_ns"),
        sqlite_with_rowid=False,
    )
    op.create_index("span_recording", "span", ["recording"], sqlite_where=sa.text("recording IS NOT NULL"))


def _balances() -> None:
    op.create_table(
        "balance",
        _number("device", primary=True),
        _number("day", primary=True),
        _text("account", primary=True),
        _text("reason", primary=True),
        _number("ns"),
        _number("bytes"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "fleet_balance",
        _number("day", primary=True),
        _text("account", primary=True),
        _text("reason", primary=True),
        _number("ns"),
        _number("bytes"),
        sqlite_with_rowid=False,
    )


def _uses() -> None:
    op.create_table(
        "role",
        _text("line", primary=True),
        _text("session", primary=True),
        _text("role"),
        _number("seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "member",
        _text("dataset", primary=True),
        _number("device", primary=True),
        _number("track", primary=True),
        _number("start_ns", primary=True),
        _number("end_ns"),
        _text("episode"),
        sqlite_with_rowid=False,
    )
    op.create_index("member_fate", "member", ["device", "track", "start_ns"])


def _number(name: str, *, primary: bool = False) -> sa.Column[int]:
    return sa.Column(name, _NUMBER, primary_key=primary, nullable=False, autoincrement=False)


def _text(name: str, *, primary: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), primary_key=primary, nullable=False)
