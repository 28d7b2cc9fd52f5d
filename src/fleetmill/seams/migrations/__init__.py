"""Versions of a home's tables, under Alembic; there is no alembic.ini: `migrate` is the only way in.

A home keeps the revision that it is at in its own table. The tables of format 1 had none: they count as revision 1.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from fleetmill.core.errors import TooNewError

_FIRST = "1"  # the tables of format 1
_TABLE = "alembic_version"


def migrate(connection: Connection, *, upto: str = "head") -> tuple[str, str]:
    """Bring the tables from where they are to the newest revision; (revision before, revision now), "" for no tables.

    Everything happens in the transaction that the caller has begun, so a crash leaves the old tables. May be called
    again: at the newest revision nothing changes.

    Raises:
        TooNewError: a newer version of the code changed them.
    """
    config = _config()
    config.attributes["connection"] = connection
    before = revision(connection)
    if before and before not in {r.revision for r in ScriptDirectory.from_config(config).walk_revisions()}:
        raise TooNewError("ledger tables", found=int(before), newest_known=int(newest()))
    if before == _FIRST and not inspect(connection).has_table(_TABLE):
        command.stamp(config, _FIRST)
    command.upgrade(config, upto)
    return before, revision(connection)


def revision(connection: Connection) -> str:
    """The revision that the tables are at; "": there are none."""
    tables = inspect(connection)
    if tables.has_table(_TABLE):
        found = connection.exec_driver_sql(f"SELECT version_num FROM {_TABLE}").scalar()  # noqa: S608 - a constant
        return str(found or "")
    return _FIRST if tables.has_table("fact") else ""


def newest() -> str:
    """The revision that this version of the code makes."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
