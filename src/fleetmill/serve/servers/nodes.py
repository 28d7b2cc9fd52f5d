"""Servers that came or went while gateways run: one file each in the home, so that a restart knows them too.

Every gateway process of the home reads the folder once a second and does what it says: who is new is asked what it
serves and then gets requests; who left gets nothing new, and goes when its last answer is whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError
from fleetmill.core.ids import checked_name
from fleetmill.core.plain import build, plain
from fleetmill.seams.files import write_whole
from fleetmill.settings import BackendSettings, check_backend

FOLDER = "nodes"
_LEFT = {"left": True}  # what stands in the file of one that the settings name and that left


class Nodes:
    """The files of a home's folder `nodes`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def join(self, backend: BackendSettings, named: Sequence[BackendSettings]) -> None:
        """A server comes in; `named`: those of the settings. Doing it again with the same changes nothing.

        Raises:
            InvalidInputError: it makes no sense.
            ConflictError: another one has that name.
        """
        checked_name(backend.name)
        check_backend(backend)
        known = self._read().get(backend.name)
        if (known is not None and known != backend) or backend.name in {b.name for b in named}:
            raise ConflictError(f"server {backend.name}: another one has that name. Let it leave first, or rename this")
        self._write(backend.name, plain(backend))

    def leave(self, name: str, named: Sequence[BackendSettings]) -> None:
        """A server goes.

        Raises:
            NotFoundError: there is none of that name.
        """
        if name in {b.name for b in named}:
            self._write(name, _LEFT)
        elif self._path(name).exists() and self._read().get(name) is not None:
            self._path(name).unlink(missing_ok=True)
        else:
            raise NotFoundError(f"server {name}: is not in the pool. See `fleetmill serve status`")

    def come_back(self, name: str, named: Sequence[BackendSettings]) -> None:
        """One that the settings name, and that left, takes part again.

        Raises:
            NotFoundError: the settings do not name it.
        """
        if name not in {b.name for b in named}:
            raise NotFoundError(f"server {name}: the settings do not name it. Give its address")
        self._path(name).unlink(missing_ok=True)

    def wanted(self, named: Sequence[BackendSettings]) -> list[BackendSettings]:
        """The servers that there shall be: those of the settings that did not leave, then those that joined."""
        found = self._read()
        stay = [b for b in named if b.name not in found]
        return [*stay, *(b for b in found.values() if b is not None)]

    def _read(self) -> dict[str, BackendSettings | None]:
        """By name; None: it left. A file that cannot be read is refused, not passed over."""
        found: dict[str, BackendSettings | None] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                data = json.loads(path.read_bytes())
                found[path.stem] = None if data == _LEFT else build(BackendSettings, data, path.name)
            except FileNotFoundError:
                continue  # it left meanwhile
            except (ValueError, InvalidInputError) as error:
                raise InvalidInputError(f"{path}: is no server: {error}. Remove the file, then join it again") from None
        return found

    def _write(self, name: str, data: object) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(name), json.dumps(data, sort_keys=True).encode())

    def _path(self, name: str) -> Path:
        return self._folder / f"{checked_name(name)}.json"
