"""Foreign recordings come in: a folder or archive becomes sessions of MCAP recordings, with their source's digest."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.custody import LIVED, Posting
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.fleet import Device
from fleetmill.core.ids import sha256
from fleetmill.core.line import Feature, Files, Foreign, Importer, Line, Message
from fleetmill.core.plain import plain
from fleetmill.core.recording import RecordingInfo, RecordingRef, Session
from fleetmill.receive import formats_mcap, inbox, parts, roll
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Draft, Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """One foreign session as a recording, not yet entered anywhere."""

    foreign_device: str
    name: str
    info: RecordingInfo
    data: bytes
    bytes: int
    messages: int
    source: str  # digest of the session's own content: the same drive in another archive has the same one
    extra: dict[str, int] = field(default_factory=dict)


class Folder:
    """`Files` over a folder; names are relative, with slashes, sorted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Sequence[str]:
        """Every file below the folder."""
        return sorted(str(p.relative_to(self._path).as_posix()) for p in self._path.rglob("*") if p.is_file())

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return _read(self._path / name)


class Single:
    """`Files` over one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Sequence[str]:
        """The one name."""
        return [self._path.name]

    def read(self, name: str) -> bytes:  # noqa: ARG002 - there is one
        """Its bytes."""
        return _read(self._path)


class Zip:
    """`Files` over a zip archive."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)

    def names(self) -> Sequence[str]:
        """Every member that is a file."""
        return sorted(n for n in self._archive.namelist() if not n.endswith("/"))

    def read(self, name: str) -> bytes:
        """A member's bytes."""
        try:
            return self._archive.read(name)
        except KeyError:
            raise NotFoundError(f"{name}: is not in the archive") from None


def open_files(path: Path) -> Files:
    """A folder, a zip archive or one file.

    Raises:
        NotFoundError: there is nothing at `path`.
    """
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file or folder")
    return Zip(path) if zipfile.is_zipfile(path) else Single(path)


def convert(path: Path, line: Line, *, device: str, tags: dict[str, str] | None = None) -> Iterator[Converted]:
    """The sessions in foreign files as recordings of `device`; nothing is entered.

    Raises:
        InvalidInputError: no importer of the line knows these files, or something in them is broken; says what, where
            and what to do.
        IntegrityError: a truncated or damaged file.
    """
    files = open_files(path)
    importers = [*line.importers, formats_mcap.importer]
    chosen = next((i for i in importers if i.detects(files)), None)
    if chosen is None:
        raise InvalidInputError(
            f"{path}: no importer knows these files; line {line.name} reads {', '.join(i.name for i in importers)}"
        )
    found = 0
    for foreign in _sessions(chosen, files, path):
        found += 1
        yield _convert(foreign, line, device, tags or {})
    if not found:
        raise InvalidInputError(f"{path}: a {chosen.name} without a single session")


def import_path(
    ledger: Ledger,
    books: Books,
    blobs: Blobs,
    line: Line,
    path: Path,
    *,
    device: str,
    tags: dict[str, str] | None = None,
) -> list[Session]:
    """Bring foreign recordings in; the sessions. Importing the same files again changes nothing.

    Everything is read before anything is entered, so that a broken file leaves the home as it was.
    """
    converted = list(convert(path, line, device=device, tags=tags))
    return [_enter(ledger, books, blobs, line, c) for c in converted]


def _sessions(importer: Importer, files: Files, path: Path) -> Iterator[Foreign]:
    try:
        yield from importer.read(files)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _convert(foreign: Foreign, line: Line, device: str, tags: dict[str, str]) -> Converted:
    features = {f.name: f for f in line.features}
    name = device + (f"-{foreign.device}" if foreign.device else "")
    messages = [m for m in foreign.messages if m.topic in features]
    if not messages:
        raise InvalidInputError(
            f"session {foreign.session}: none of the line's channels is in it; expected {', '.join(features)}"
        )
    messages.sort(key=lambda m: m.log_time_ns)
    encoded = [recordings.encode(features[m.topic], m) for m in messages]
    info = RecordingInfo(
        device=name,
        session=foreign.session,
        line=line.name,
        start_ns=messages[0].log_time_ns,
        end_ns=_end(messages, features),
        tags={**foreign.tags, **tags},
        time_base=foreign.time_base,
    )
    size = sum(len(e.payload) for e in encoded)
    content = [[e.topic, e.time_ns, sha256(e.payload)] for e in encoded]
    return Converted(
        foreign_device=name,
        name=foreign.session,
        info=info,
        data=recordings.write_recording(info, line.features, encoded),
        bytes=size,
        messages=len(encoded),
        source=canonical.digest(content),
    )


def _end(messages: Sequence[Message], features: dict[str, Feature]) -> int:
    return max(m.log_time_ns + max(features[m.topic].hold_ns, 1) for m in messages)


def _enter(ledger: Ledger, books: Books, blobs: Blobs, line: Line, c: Converted) -> Session:
    device = roll.ensure_imported(ledger, c.foreign_device, line=line.name)
    known = [s for s in inbox.sessions(ledger, line.name) if s.device == device.name]
    same = next((s for s in known if s.name == c.name), None)
    ref = RecordingRef(
        digest=blobs.put(c.data),
        start_ns=c.info.start_ns,
        end_ns=c.info.end_ns,
        bytes=c.bytes,
        messages=c.messages,
    )
    session = Session(
        device=device.name,
        name=c.name,
        number=same.number if same else len(known),
        line=line.name,
        start_ns=ref.start_ns,
        end_ns=ref.end_ns,
        recordings=(ref,),
        recorded_bytes=c.bytes,
        ended="import",
        tags=c.info.tags,
        source=c.source,
    )
    if same != session:
        _land(ledger, books, blobs, device, line, session)
    return session


def _land(ledger: Ledger, books: Books, blobs: Blobs, device: Device, line: Line, session: Session) -> None:
    """Enter an imported session: its time is lived and landed at once, since no device journal came before it."""
    (ref,) = session.recordings
    parts.enter(ledger, blobs, device, ref.digest)
    posting = Posting(
        device=device.number,
        track=0,
        start_ns=ref.start_ns,
        end_ns=ref.end_ns,
        bytes=ref.bytes,
        messages=ref.messages,
        source=LIVED,
        to="landed",
        recording=ref.digest,
        by="factory",
    )
    ledger.append([Draft(kind="moved", key=posting.key, record=plain(posting))])
    inbox.close(ledger, books, device, line, session, signature="")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
