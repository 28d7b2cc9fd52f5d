"""The tables of accounts.db: tenants, keys, budgets, and what was reserved and used of them; and how it is opened.

Its portable parts are in SQLAlchemy Core, so that PostgreSQL can follow: only `_settings` and `_BEGIN` are SQLite's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Index,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import StaticPool

from fleetmill.core.errors import IntegrityError, TooNewError, UnavailableError
from fleetmill.core.serve import MEASURES
from fleetmill.seams.schema import Number

FORMAT = 1  # of accounts.db
FILE = "accounts.db"
ALL_KEYS = ""  # stands for a key where a budget or a balance is the tenant's own
_BEGIN = "BEGIN IMMEDIATE"  # takes the writer's lock at once, so that nothing read afterwards is out of date
_MOST_ASKED = 500  # values in one IN (...)
T = TypeVar("T")

metadata = MetaData()


def _number(name: str, *, primary: bool = False, may_miss: bool = False) -> Column[int]:
    return Column(name, Number, primary_key=primary, nullable=may_miss, autoincrement=False)


def _text(name: str, *, primary: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary, nullable=False)


def columns(*kinds: str) -> list[str]:
    """Names of the columns that hold amounts of these kinds: four each, in the order of `MEASURES`."""
    return [f"{kind}_{measure}" for kind in kinds for measure in MEASURES]


def _amounts(*kinds: str) -> list[Any]:
    names = columns(*kinds)
    return [*(_number(name) for name in names), *(CheckConstraint(f"{name} >= 0") for name in names)]


about = Table("about", metadata, _text("what", primary=True), _number("number"))  # format; count of rule changes

tenant = Table(
    "tenant",
    metadata,
    _text("name", primary=True),
    _number("label"),
    _number("consent"),
    _text("detectors"),  # JSON list
    _number("made_ns"),
)

api_key = Table(
    "api_key",
    metadata,
    _text("digest", primary=True),  # SHA-256; the key itself is nowhere
    _text("tenant"),
    _text("note"),
    _number("made_ns"),
    _number("revoked_ns", may_miss=True),
)

budget = Table(
    "budget",
    metadata,
    _text("tenant", primary=True),
    _text("key", primary=True),
    _text("measure", primary=True),
    _text("period", primary=True),
    _number("most"),
    sqlite_with_rowid=False,
)

# Kept for every period, whether a budget stands on it or not: one that is set today knows what was used before.
BALANCE = ("spent", "reserved", "overrun", "presumed")  # presumed: part of spent, of requests whose process died
balance = Table(
    "balance",
    metadata,
    _text("tenant", primary=True),
    _text("key", primary=True),
    _text("period", primary=True),
    _number("start_ns", primary=True),
    *_amounts(*BALANCE),
    sqlite_with_rowid=False,
)

reservation = Table(
    "reservation",
    metadata,
    _text("id", primary=True),
    _text("tenant"),
    _text("key"),
    _number("at_ns"),  # it counts in the periods of this moment
    _number("until_ns"),
    _text("state"),  # open, settled, released, expired, late
    *_amounts("worst", "spent", "overrun"),
    sqlite_with_rowid=False,
)
Index("reservation_until", reservation.c.state, reservation.c.until_ns)

lease = Table(
    "lease",
    metadata,
    _text("id", primary=True),
    _text("tenant"),
    _text("key"),
    _text("owner"),  # the process
    _number("at_ns"),
    _number("until_ns"),
    _text("state"),  # open, reaped, closed
    *_amounts("held", "spent", "presumed"),
    sqlite_with_rowid=False,
)
Index("lease_until", lease.c.state, lease.c.until_ns)


def open_store(url: str) -> Engine:
    """The accounts at `url` (``sqlite:///path`` or ``sqlite://`` for memory), made when absent.

    Raises:
        UnavailableError: it cannot be opened.
        TooNewError: a newer version made it.
    """
    memory = url == "sqlite://"
    options: dict[str, Any] = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} if memory else {}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _settings)
    try:
        with writing(engine) as connection:
            metadata.create_all(connection)
            found = connection.scalar(select(about.c.number).where(about.c.what == "format"))
            if found is None:
                connection.execute(
                    insert(about), [{"what": "format", "number": FORMAT}, {"what": "rules", "number": 0}]
                )
        if found is not None and found > FORMAT:
            raise TooNewError(f"{FILE} of the gateway", found=found, newest_known=FORMAT)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_folder(folder: Path) -> Engine:
    """The accounts in a home's folder `serve`, which is made when absent; errors as `open_store`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}") from error
    return open_store(f"sqlite:///{folder / FILE}")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction under the writer's lock: all of it or nothing, durable when the block has ended."""
    with translated(), engine.connect() as connection:
        connection.exec_driver_sql(_BEGIN)
        try:
            yield connection
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            with suppress(DatabaseError):  # a full disk has made SQLite roll back by itself
                connection.exec_driver_sql("ROLLBACK")
            raise


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Look without a lock."""
    with translated(), engine.connect() as connection:
        yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the database as ours."""
    try:
        yield
    except OperationalError as error:
        raise UnavailableError(f"accounts: {error.orig}. Check the disk's free space and permissions") from error
    except DatabaseError as error:
        raise IntegrityError(f"accounts: {error.orig}. Restore {FILE} from a copy") from error


def rules_number(connection: Connection) -> int:
    """Grows whenever a tenant, key or budget changes: who keeps a copy of them looks at this."""
    return connection.scalar(select(about.c.number).where(about.c.what == "rules")) or 0


def rules_changed(connection: Connection) -> None:
    """To be called in each transaction that changes tenants, keys or budgets."""
    connection.execute(update(about).where(about.c.what == "rules").values(number=about.c.number + 1))


def by_id(connection: Connection, table: Table, ids: Sequence[str]) -> dict[str, Any]:
    """Rows of `reservation` or `lease` by id."""
    found: dict[str, Any] = {}
    for some in chunks(ids):
        rows = connection.execute(select(table).where(table.c.id.in_(some)))
        found.update((row.id, row) for row in rows)
    return found


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """`values` in pieces that one IN (...) takes."""
    rest = iter(values)
    while some := list(islice(rest, _MOST_ASKED)):
        yield some


def _settings(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are ours
    for pragma in ("busy_timeout=20000", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
