"""A model that the owner brings in a folder, for a training to begin from: its files, and the digest that names it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError, InvalidInputError, NotFoundError, UnavailableError
from fleetmill.core.line import Line
from fleetmill.core.model import BASE_FILE

ENDINGS = (".json", ".safetensors")  # of files that decide what a base is; what else lies there is passed over
_PART = 2**20


class Base:
    """The files of a folder, as they were when it was opened; implements `core.line.Files`."""

    def __init__(self, folder: Path, digests: Mapping[str, str]) -> None:
        self._folder, self._digests = folder, digests

    @property
    def digest(self) -> str:
        """Of {file name: digest}, as a model version's."""
        return canonical.digest(dict(self._digests))

    def names(self) -> Sequence[str]:
        """Every file that counts."""
        return sorted(self._digests)

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            IntegrityError: they are others than when the folder was opened.
            UnavailableError: it cannot be read.
        """
        try:
            data = (self._folder / name).read_bytes()
        except OSError as error:
            raise UnavailableError(f"{self._folder / name}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self._digests[name]:
            raise IntegrityError(f"{self._folder / name}: was changed while it was read. Leave it alone and turn again")
        return data


def open_base(line: Line, folder: Path) -> Base:
    """The base in `folder`, for a line that takes one.

    Raises:
        InvalidInputError: the line takes none.
        NotFoundError: no such folder, or nothing in it that counts.
        UnavailableError: a file cannot be read.
    """
    where = f"[lines.{line.name}] base = {str(folder)!r}"
    if line.adopt is None:
        raise InvalidInputError(f"{where}: this line begins from nothing and takes no base. Leave it out")
    try:
        found = {p.name: _digest(p) for p in sorted(folder.glob("*")) if p.suffix in ENDINGS and p.is_file()}
    except OSError as error:
        raise UnavailableError(f"{where}: cannot be read: {error.strerror}") from error
    if not found:
        raise NotFoundError(f"{where}: there is no folder with {' and '.join(ENDINGS)} files. Say where the base lies")
    return Base(folder, found)


def parent(line: Line, base: Base) -> dict[str, bytes]:
    """What a training goes on from where there is no champion: the line's reading of the base, and which base it was.

    Raises:
        InvalidInputError: the line does not take this base.
    """
    assert line.adopt is not None  # `open_base` has asked
    return {**line.adopt(base), BASE_FILE: canonical.dumps({"digest": base.digest})}


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            found.update(part)
    return found.hexdigest()
