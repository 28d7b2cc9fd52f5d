"""Alembic runs this for each command: the connection, with its transaction, is the caller's."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
