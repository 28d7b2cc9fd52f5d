"""Foreign recordings come in: a folder or archive becomes sessions of MCAP recordings, with their source's digest."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.custody import LIVED, Posting
from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError
from fleetmill.core.fleet import Device
from fleetmill.core.ids import sha256
from fleetmill.core.line import UNREADABLE, Feature, Files, Foreign, Line, Message
from fleetmill.core.moment import short
from fleetmill.core.plain import plain
from fleetmill.core.recording import RecordingInfo, RecordingRef, Session
from fleetmill.receive import formats_mcap, inbox, parts, roll
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Draft, Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One sealed recording, not yet entered anywhere."""

    ref: RecordingRef
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """One foreign session as recordings, not yet entered anywhere."""

    device: str
    name: str
    line: str
    clips: tuple[Clip, ...]
    unreadable: tuple[tuple[int, int], ...]  # intervals in which something was there and could not be read
    tags: Mapping[str, str]
    source: str  # digest of the session's own content: the same drive in another archive has the same one

    def session(self, number: int) -> Session:
        """Its manifest."""
        edges = [*((c.ref.start_ns, c.ref.end_ns) for c in self.clips), *self.unreadable]
        return Session(
            device=self.device,
            name=self.name,
            number=number,
            line=self.line,
            start_ns=min(start for start, _ in edges),
            end_ns=max(end for _, end in edges),
            recordings=tuple(c.ref for c in self.clips),
            recorded_bytes=sum(c.ref.bytes for c in self.clips),
            ended="import",
            tags=self.tags,
            source=self.source,
        )


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
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise IntegrityError(f"{name}: damaged in the archive ({error}). Copy the archive again") from error


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


def convert(
    path: Path, line: Line, *, device: str, tags: dict[str, str] | None = None, skip_broken: bool = False
) -> Iterator[Converted]:
    """The sessions in foreign files as recordings of `device`; nothing is entered.

    `skip_broken`: pass over records that cannot be read; their time is known as unreadable.

    Raises:
        InvalidInputError: no importer of the line knows these files, or something in them is broken; says what, where
            and what to do.
        IntegrityError: a truncated or damaged file.
    """
    for foreign in read_sessions(path, line, skip_broken=skip_broken):
        yield _convert(foreign, line, device, tags or {})


def read_sessions(path: Path, line: Line, *, skip_broken: bool = False) -> Iterator[Foreign]:
    """The sessions in foreign files as an importer of the line finds them.

    Raises:
        InvalidInputError, IntegrityError: as in `convert`.
    """
    files = open_files(path)
    importers = [*line.importers, formats_mcap.importer]
    chosen = next((i for i in importers if i.detects(files)), None)
    if chosen is None:
        raise InvalidInputError(
            f"{path}: no importer knows these files; line {line.name} reads {', '.join(i.name for i in importers)}"
        )
    if skip_broken and chosen.read_past is None:
        raise InvalidInputError(f"{path}: {chosen.name} files cannot be read past what is broken. Repair them first")
    found = 0
    for foreign in _sessions(chosen.read_past if skip_broken and chosen.read_past else chosen.read, files, path):
        found += 1
        yield foreign
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
    skip_broken: bool = False,
) -> list[Session]:
    """Bring foreign recordings in; the sessions. Importing the same files again changes nothing.

    Everything is read before anything is entered, so that a broken file leaves the home as it was. The time of what
    `skip_broken` passed over goes to the account dropped(unreadable).

    Raises:
        ConflictError: a session of that name came in before with other content or tags, its content came in under
            another name, or its time is another session's: one drive counts once, and has one role.
    """
    converted = list(convert(path, line, device=device, tags=tags, skip_broken=skip_broken))
    _check_new(inbox.sessions(ledger, line.name), converted)
    return [_enter(ledger, books, blobs, line, c) for c in converted]


def _check_new(known: Sequence[Session], converted: Sequence[Converted]) -> None:
    """Refuse content or time that is here already: it would be lived twice, and could be both taught and asked."""
    keys = {s.source: s.key for s in known if s.source}
    here: dict[str, dict[str, Session]] = {}
    for s in known:
        here.setdefault(s.device, {})[s.key] = s
    for c in converted:
        session, others = c.session(0), here.setdefault(c.device, {})
        if keys.setdefault(c.source, session.key) != session.key:
            first = keys[c.source]
            raise ConflictError(f"session {session.key}: the same recordings came in as {first}. Bring each drive once")
        if session.key in others:
            _check_same(others[session.key], session)
        for other in others.values():
            if other.key != session.key and other.start_ns < session.end_ns and session.start_ns < other.end_ns:
                raise ConflictError(
                    f"session {session.key}: from {short(session.start_ns)} to {short(session.end_ns)}, and "
                    f"{other.key} is here with {short(other.start_ns)} to {short(other.end_ns)}. Give only what lies "
                    "outside, or another --device if it is another machine"
                )
        others[session.key] = session


def _check_same(before: Session, now: Session) -> None:
    """Refuse another content under a name that is taken, and say what can be done."""
    if before == replace(now, number=before.number):
        return
    if now.start_ns == before.start_ns and now.end_ns > before.end_ns:
        end = short(before.end_ns)
        raise ConflictError(
            f"session {now.key}: came in before and ended at {end}; this file goes on inside it until "
            f"{short(now.end_ns)}. A session comes in once: give a file with only the rows from {end} on"
        )
    raise ConflictError(
        f"session {now.key}: came in before with other content or tags, from {short(before.start_ns)} to "
        f"{short(before.end_ns)}. Give the same again, or another --device if it is another machine"
    )


def _sessions(read: Callable[[Files], Iterator[Foreign]], files: Files, path: Path) -> Iterator[Foreign]:
    try:
        for foreign in read(files):  # its messages are read here, so that what is wrong with them is said here
            yield replace(foreign, messages=iter(list(foreign.messages)))
    except InvalidInputError as error:
        said = str(error).removeprefix(f"{path.name}: ")  # a file that stands alone names itself
        raise InvalidInputError(f"{path}: {said}") from error


def _convert(foreign: Foreign, line: Line, device: str, tags: dict[str, str]) -> Converted:
    features = {f.name: f for f in line.features}
    name = device + (f"-{foreign.device}" if foreign.device else "")
    messages = sorted(
        (m for m in foreign.messages if m.topic in features or m.topic == UNREADABLE), key=lambda m: m.log_time_ns
    )
    if not messages:
        raise InvalidInputError(
            f"session {foreign.session}: none of the line's channels is in it; expected {', '.join(features)}"
        )
    runs, unreadable = _runs(messages, features)
    encoded = [[recordings.encode(features[m.topic], m) for m in run] for _, _, run in runs]
    all_tags = {**foreign.tags, **tags}
    clips = []
    for (start_ns, end_ns, _), content in zip(runs, encoded, strict=True):
        info = RecordingInfo(
            device=name,
            session=foreign.session,
            line=line.name,
            start_ns=start_ns,
            end_ns=end_ns,
            tags=all_tags,
            time_base=foreign.time_base,
        )
        data = recordings.write_recording(info, line.features, content)
        size = sum(len(e.payload) for e in content)
        ref = RecordingRef(digest=sha256(data), start_ns=start_ns, end_ns=end_ns, bytes=size, messages=len(content))
        clips.append(Clip(ref=ref, data=data))
    return Converted(
        device=name,
        name=foreign.session,
        line=line.name,
        clips=tuple(clips),
        unreadable=tuple(unreadable),
        tags=all_tags,
        source=canonical.digest([[e.topic, e.time_ns, sha256(e.payload)] for content in encoded for e in content]),
    )


def _runs(
    messages: Sequence[Message], features: Mapping[str, Feature]
) -> tuple[list[tuple[int, int, list[Message]]], list[tuple[int, int]]]:
    """(start, end, messages) of each run that could be read, and the intervals before, between and after them."""
    runs: list[tuple[int, int, list[Message]]] = []
    holes: list[tuple[int, int]] = []
    at = messages[0].log_time_ns  # everything before is told
    broken = False
    for m in messages:
        if m.topic == UNREADABLE:
            broken = True
            continue
        end_ns = m.log_time_ns + max(features[m.topic].hold_ns, 1)
        if not runs or (broken and m.log_time_ns > at):
            if m.log_time_ns > at:
                holes.append((at, m.log_time_ns))
            runs.append((m.log_time_ns, end_ns, []))
        start_ns, before_ns, run = runs[-1]
        run.append(m)
        runs[-1] = (start_ns, max(before_ns, end_ns), run)
        at, broken = runs[-1][1], False
    if broken:
        end_ns = messages[-1].log_time_ns + max(max(f.hold_ns for f in features.values()), 1)
        if end_ns > at:
            holes.append((at, end_ns))
    return runs, holes


def _enter(ledger: Ledger, books: Books, blobs: Blobs, line: Line, c: Converted) -> Session:
    device = roll.ensure_imported(ledger, c.device, line=line.name)
    known = [s for s in inbox.sessions(ledger, line.name) if s.device == device.name]
    same = next((s for s in known if s.name == c.name), None)
    session = c.session(same.number if same else len(known))
    if same is not None:
        _check_same(same, session)
    else:
        for clip in c.clips:
            blobs.put(clip.data)
            parts.enter(ledger, blobs, device, clip.ref.digest)
        _land(ledger, books, device, line, session, c.unreadable)
    return session


def _land(
    ledger: Ledger, books: Books, device: Device, line: Line, session: Session, unreadable: Sequence[tuple[int, int]]
) -> None:
    """Enter an imported session: its time is lived and landed at once, since no device journal came before it."""
    landed = [
        _lived(device, r.start_ns, r.end_ns, bytes=r.bytes, messages=r.messages, to="landed", recording=r.digest)
        for r in session.recordings
    ]
    dropped = [_lived(device, start, end, to="dropped", reason="unreadable") for start, end in unreadable]
    ledger.append([Draft(kind="moved", key=p.key, record=plain(p)) for p in (*landed, *dropped)])
    inbox.close(ledger, books, device, line, session, signature="")


def _lived(
    device: Device,
    start_ns: int,
    end_ns: int,
    *,
    to: str,
    bytes: int = 0,
    messages: int = 0,
    reason: str = "",
    recording: str = "",
) -> Posting:
    return Posting(
        device=device.number,
        track=0,
        start_ns=start_ns,
        end_ns=end_ns,
        bytes=bytes,
        messages=messages,
        source=LIVED,
        to=to,
        reason=reason,
        recording=recording,
        by="factory",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
