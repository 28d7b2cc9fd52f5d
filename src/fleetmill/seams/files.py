"""Commit a file so that a power cut leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from fleetmill.core.errors import UnavailableError

UNFINISHED = ".part"  # ends what is being written: a crash may leave one


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Make `path` hold exactly `data`, or leave what was there: temp file, fsync, rename, fsync of the folder.

    When it returns, the file survives a power cut. May be called again with the same data. `mode` is what the file is
    born with, so that a key (0o600) is at no moment readable by others.

    Raises:
        UnavailableError: the disk refused (full, read-only, no such folder); nothing was changed.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{UNFINISHED}")
    try:
        _fill(temp, data, mode)
        temp.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise UnavailableError(f"{path}: cannot be written: {error.strerror}") from error


def copy_whole(source: Path, to: Path) -> None:
    """Make `to` a copy of a file, or leave what was there. A copy and no link: who changes it must not reach `source`.

    Raises:
        UnavailableError: see `write_whole`.
    """
    temp = to.with_name(f".{to.name}{UNFINISHED}")
    try:
        shutil.copyfile(source, temp)
        sync_file(temp)
        temp.replace(to)
        sync_folder(to.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise UnavailableError(f"{to}: cannot be written: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: a rename is on the disk only after this (fsync(2), notes)."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Make the bytes of a file that was closed durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what a killed `write_whole` left in `folder`. Only while no other writer can be at work there."""
    for left in folder.glob(f".*{UNFINISHED}"):
        left.unlink(missing_ok=True)


def _fill(temp: Path, data: bytes, mode: int) -> None:
    temp.unlink(missing_ok=True)  # of a process that had our number and died
    handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
