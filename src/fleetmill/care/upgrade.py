"""Bring a home to this version's format: copy what will change, change it in one transaction, say so last.

Killed anywhere, the home works as before and this may be called again: the tables are old or new and both are read, and
home.json, written last, only says which of the two is the case.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version as installed_version
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError, UnavailableError
from fleetmill.home import FORMAT, LEDGER, MARK, check_format, in_use, owned, url, write_mark
from fleetmill.seams.files import sync_file, sync_folder, write_whole
from fleetmill.seams.ledger import bring_up, open_ledger, revisions
from fleetmill.settings import FILE, Settings

BACKUPS = "backups"
HALF = ".making."


@dataclass(frozen=True, kw_only=True, slots=True)
class Upgraded:
    """What an upgrade did. `backup` is "" when there was nothing to do."""

    home: str
    format_before: int
    format: int
    tables_before: str  # revision of the ledger's tables
    tables: str
    facts: int
    backup: str


def upgrade(settings: Settings, *, now_ns: int) -> Upgraded:
    """Bring the home of `settings` to this version's format; one that is there already is left as it is.

    Raises:
        ConflictError: a factory runs on it, or a command has it open.
        IntegrityError: its ledger is damaged; nothing was changed.
        TooNewError: a newer version made it.
        UnavailableError: no space for the copy; nothing was changed.
    """
    folder = settings.home
    before = check_format(folder)
    if not (folder / LEDGER).exists():
        raise IntegrityError(f"{folder / LEDGER}: the ledger is gone. Restore the home from a copy")
    with owned(folder), in_use(folder, alone=True), closing(open_ledger(url(folder))) as ledger:
        facts, backup = ledger.verify(), ""
        old, new = revisions(ledger)
        if (before, old) != (FORMAT, new):
            backup = str(_copy(folder, before, now_ns))
            bring_up(ledger)
            if ledger.verify() != facts:
                raise IntegrityError(f"{folder / LEDGER}: facts changed while its tables did. Restore {backup}")
            _mark(folder)
        return Upgraded(
            home=str(folder),
            format_before=before,
            format=FORMAT,
            tables_before=old,
            tables=new,
            facts=facts,
            backup=backup,
        )


def _copy(folder: Path, before: int, now_ns: int) -> Path:
    """What the upgrade will change, whole and durable. Keys, blobs and the signed list stay as they are: no copy."""
    backups = folder / BACKUPS
    try:
        backups.mkdir(exist_ok=True)
        for half in backups.glob(f"{HALF}*"):
            shutil.rmtree(half)
        stamp = datetime.fromtimestamp(now_ns // 10**9, tz=timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        half, whole = backups / f"{HALF}{stamp}", _free(backups / f"format-{before}-{stamp}")
        half.mkdir()
        _copy_ledger(folder / LEDGER, half / LEDGER)
        for name in (MARK, FILE):
            if (folder / name).exists():
                write_whole(half / name, (folder / name).read_bytes())
        sync_folder(half)
        half.rename(whole)
        sync_folder(backups)
        sync_folder(folder)
    except (OSError, sqlite3.Error) as error:
        raise UnavailableError(f"{backups}: no copy could be made: {error}. Free some space, then try again") from error
    return whole


def _copy_ledger(source: Path, target: Path) -> None:
    """By SQLite's own backup, which takes in what still stands in the write-ahead log."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
    sync_file(target)


def _free(wanted: Path) -> Path:
    """A name that is not taken: an upgrade that was killed may have made a copy in this very second."""
    taken, number = wanted, 1
    while taken.exists():
        number += 1
        taken = wanted.with_name(f"{wanted.name}-{number}")
    return taken


def _mark(folder: Path) -> None:
    said = canonical.loads((folder / MARK).read_bytes())
    write_mark(folder, made_by=said.get("made_by", "0.1"), upgraded_by=installed_version("fleetmill"))
