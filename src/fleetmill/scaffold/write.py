"""A new line's package is written into a folder of its own."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path

from fleetmill import lines
from fleetmill.core.errors import ConflictError, InvalidInputError, UnavailableError
from fleetmill.seams.files import write_whole


def checked_new(name: str, folder: Path) -> str:
    """`name` itself when a new line may have it and its package may lie in `folder`.

    Raises:
        InvalidInputError: it is no name of a Python module.
        ConflictError: a line of that name is installed, or the folder holds something.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or keyword.iskeyword(name):
        raise InvalidInputError(f"line name {name!r}: use a-z, 0-9 and '_', beginning with a letter, at most 41")
    if name in lines.names():
        raise ConflictError(f"line {name}: is installed already. Take another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder}: is there already and not empty. Give another folder with --out")
    return name


def write(name: str, texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Write the package of the line `name`, its `texts` by file; the files.

    Raises:
        InvalidInputError, ConflictError: as `checked_new`.
        UnavailableError: the folder cannot be made.
    """
    checked_new(name, folder)
    try:
        for file in texts:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}. Give another folder with --out") from error
    written = []
    for file, text in texts.items():
        write_whole(folder / file, text.encode())
        written.append(folder / file)
    return written
