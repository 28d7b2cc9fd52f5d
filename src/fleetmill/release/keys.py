"""The private keys of a signed repository: one PEM file per role, root's wherever the owner keeps it.

A key that is to replace another waits beside it as ``<role>.next.pem`` until a root names it: at every moment the key
that root names is in one of the two files.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from fleetmill.core.errors import ConflictError, IntegrityError
from fleetmill.seams.files import sweep, sync_folder, write_whole

Role = Literal["root", "targets", "snapshot", "timestamp"]
ONLINE: tuple[Role, ...] = ("targets", "snapshot", "timestamp")  # what the factory signs with, day by day
ROLES: tuple[Role, ...] = ("root", *ONLINE)


class Keys:
    """The keys in a folder. `root` is where root's is: in the same folder where nothing else is said."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder, self._root = folder, root or folder / "root.pem"

    def path(self, role: Role) -> Path:
        """Where the role's key lies."""
        return self._root if role == "root" else self.folder / f"{role}.pem"

    def make(self) -> None:
        """Make the keys that are missing, root's last, so that a root key found before all others is somebody else's.

        Raises:
            ConflictError: the root key is there and no other is: it belongs to another home.
        """
        if self._root.exists() and self._root.parent != self.folder and not self.path(ONLINE[-1]).exists():
            raise ConflictError(f"{self._root}: exists already, of another home. Move it away, or choose another place")
        for role in (*ONLINE, ROLES[0]):
            if not self.path(role).exists():
                _write(self.path(role))

    def signer(self, role: Role, keyids: Collection[str] = ()) -> CryptoSigner:
        """The role's key; where `keyids` are given, the one among them.

        Raises:
            ConflictError: it is not here, or is another than root names.
            IntegrityError: the file is no key.
        """
        found = [read(path) for path in (self.path(role), self._next(role)) if path.exists()]
        fitting = [s for s in found if not keyids or s.public_key.keyid in keyids]
        if fitting:
            return fitting[0]
        what = "is not the key that root names for" if found else "is not here: the key of"
        raise ConflictError(
            f"{self.path(role)}: {what} {role}. Bring it back, or run: fleetmill renew --root-key PATH --replace {role}"
        )

    def has(self, role: Role) -> bool:
        """Whether the role's key lies where it is looked for."""
        return self.path(role).exists()

    def draw(self, role: Role) -> CryptoSigner:
        """The key that is to replace the role's; an earlier one that no root has named yet is taken."""
        if not self._next(role).exists():
            _write(self._next(role))
        return read(self._next(role))

    def settle(self, role: Role, keyids: Collection[str]) -> None:
        """Put the replacing key in its place if root names it by now."""
        waiting = self._next(role)
        if waiting.exists() and read(waiting).public_key.keyid in keyids:
            waiting.replace(self.path(role))
            sync_folder(self.folder)

    def sweep(self) -> None:
        """Remove what a crash left half-written."""
        sweep(self.folder)

    def _next(self, role: Role) -> Path:
        return self.folder / f"{role}.next.pem"


def read(path: Path) -> CryptoSigner:
    """The key in a file.

    Raises:
        ConflictError: there is no such file.
        IntegrityError: it holds no key.
    """
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))
    except FileNotFoundError as error:
        raise ConflictError(f"{path}: there is no key here. Give the path of the right file") from error
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path}: is no PKCS8 PEM private key; bring it back from a copy") from error


def _write(path: Path) -> None:
    write_whole(path, CryptoSigner.generate_ed25519().private_bytes, mode=0o600)
