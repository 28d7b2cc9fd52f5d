"""Format 2: a fact is found by its digest, which receipts and signed reports name."""

from __future__ import annotations

from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add the index."""
    op.create_index("fact_digest", "fact", ["digest"], unique=True)
