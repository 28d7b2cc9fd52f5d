"""Bytes named by their SHA-256, written once, never changed. The default is a folder; the fake is a dict."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from fleetmill.core.errors import IntegrityError, NotFoundError, UnavailableError
from fleetmill.core.ids import checked_digest, sha256
from fleetmill.seams.files import sync_folder

INCOMING = ".incoming."  # begins what is being written: a crash may leave one


class Blobs(Protocol):
    """A store of immutable bytes. Every method may be called again after a crash."""

    def put(self, data: bytes) -> str:
        """Keep `data`; its digest. Putting the same bytes twice keeps one.

        Raises:
            UnavailableError: no space, or the disk did not answer; nothing half-written stays.
        """

    def put_stream(self, chunks: Iterable[bytes], expected: str) -> int:
        """Keep a stream that must have the digest `expected`; the number of bytes.

        Raises:
            IntegrityError: the bytes have another digest; nothing stays.
            UnavailableError: see `put`.
        """

    def get(self, digest: str) -> bytes:
        """The bytes.

        Raises:
            NotFoundError: not here.
        """

    def path(self, digest: str) -> Path:
        """A local file that holds the bytes, for memory mapping; read-only.

        Raises:
            NotFoundError: not here.
        """

    def has(self, digest: str) -> bool:
        """Whether the bytes are here, whole."""

    def __iter__(self) -> Iterator[str]:
        """Every digest, sorted."""


class FolderBlobs:
    """`Blobs` in a folder: ``ab/abcdef...``, temp file, fsync, rename, fsync of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """See `Blobs.put`."""
        digest = sha256(data)
        if not self.has(digest):
            self.put_stream([data], digest)
        return digest

    def put_stream(self, chunks: Iterable[bytes], expected: str) -> int:
        """See `Blobs.put_stream`."""
        target = self._target(checked_digest(expected))
        found, size = hashlib.sha256(), 0
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=INCOMING)
            temp = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    for chunk in chunks:
                        found.update(chunk)
                        size += file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                if found.hexdigest() != expected:
                    raise IntegrityError(
                        f"blob {expected[:12]}: {size} bytes came, with digest {found.hexdigest()[:12]}. Send it again"
                    )
                temp.chmod(0o444)
                temp.rename(target)
            finally:
                temp.unlink(missing_ok=True)
            sync_folder(target.parent)
        except OSError as error:
            raise UnavailableError(
                f"{self._folder}: {error.strerror} while writing {size} bytes. Free some space, then try again"
            ) from error
        return size

    def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        return self.path(digest).read_bytes()

    def path(self, digest: str) -> Path:
        """See `Blobs.path`."""
        target = self._target(checked_digest(digest))
        if not target.is_file():
            raise NotFoundError(f"no blob {digest[:12]} in {self._folder}")
        return target

    def has(self, digest: str) -> bool:
        """See `Blobs.has`."""
        return self._target(checked_digest(digest)).is_file()

    def __iter__(self) -> Iterator[str]:
        """See `Blobs.__iter__`."""
        return iter(sorted(p.name for p in self._folder.glob("??/*") if not p.name.startswith(".")))

    def _target(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


class MemoryBlobs:
    """`Blobs` for tests. `path` writes a file under the folder that it was given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """See `Blobs.put`."""
        self._held[sha256(data)] = bytes(data)
        return sha256(data)

    def put_stream(self, chunks: Iterable[bytes], expected: str) -> int:
        """See `Blobs.put_stream`."""
        data = b"".join(chunks)
        if sha256(data) != checked_digest(expected):
            raise IntegrityError(f"blob {expected[:12]}: {len(data)} bytes arrived with another digest. Send it again")
        self._held[expected] = data
        return len(data)

    def get(self, digest: str) -> bytes:
        """See `Blobs.get`."""
        if not self.has(digest):
            raise NotFoundError(f"no blob {digest[:12]} in memory")
        return self._held[digest]

    def path(self, digest: str) -> Path:
        """See `Blobs.path`."""
        target = self._folder / digest
        target.write_bytes(self.get(digest))
        return target

    def has(self, digest: str) -> bool:
        """See `Blobs.has`."""
        return checked_digest(digest) in self._held

    def __iter__(self) -> Iterator[str]:
        """See `Blobs.__iter__`."""
        return iter(sorted(self._held))
