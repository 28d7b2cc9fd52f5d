"""Slots: each release is one folder named by its digest, and one small record says which of them runs.

Invariants, at every instant and after a power cut at any byte: (I1) `active` names a complete slot whose digests were
verified; (I2) it is replaced only by another such slot; (I3) counters never fall; (I4) a trial is reported as active
only after the flip; (I5) every operation may be repeated; (I6) the disk holds at most active, previous, one new slot
and one being fetched. The rule beside this hand is `slots_rule`.

```
state.a state.b              the record, twice
fetch/<release digest>/      files that arrived, and <name>.part
slots/<release digest>/      the release's files and release.json, which is written last
```
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.device.slots_rule import (
    SIZE,
    Seen,
    State,
    begin,
    confirm,
    encode,
    never_back,
    newest,
    reject,
    restart,
    saw,
)
from fleetmill.device.update_rule import Release, SignedFile
from fleetmill.seams.files import sync_file, sync_folder, write_whole

_COPIES = ("state.a", "state.b")
_MARKER = "release.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a device does after a start."""

    run: Release | None  # None: nothing may run; ask the factory
    again: str | None  # digest of a release that may be tried (again)
    given_up: str | None  # digest of a trial whose last try was spent: report it as rolled back
    damaged: tuple[str, ...]  # one line per slot whose bytes are not what was signed


@contextmanager
def open_slots(folder: Path) -> Iterator[Slots]:
    """The slots in `folder`, held by this process alone; made when there are none.

    Raises:
        ConflictError: another process holds them.
        IntegrityError: both copies of the record are damaged; the device must be enrolled anew.
        UnavailableError: the disk refused.
    """
    for name in ("fetch", "slots"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _hold(handle, folder)
        yield Slots(folder, read_state(folder) or _first(folder))
    finally:
        os.close(handle)


def read_state(folder: Path) -> State | None:
    """The record in `folder`, also while another process holds the slots. None: this device is new.

    Raises:
        IntegrityError: both copies are damaged.
    """
    copies = [path.read_bytes() if (path := folder / name).exists() else b"" for name in _COPIES]
    state = newest((copies[0], copies[1]))
    if state is None and ((folder / _COPIES[1]).exists() or any((folder / "slots").glob("*"))):
        raise IntegrityError(f"{folder}: both copies of the state record are damaged; enrol this device anew")
    return state


def _hold(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go when the process dies
    except BlockingIOError as error:
        raise ConflictError(f"{folder}: another process of this device holds the slots") from error


def _first(folder: Path) -> State:
    """Both copies of an empty record. The second is born last: while it is missing nothing was ever recorded."""
    for sequence, name in enumerate(_COPIES, start=1):
        write_whole(folder / name, encode(State(sequence=sequence)))
    return State(sequence=2)


class Slots:
    """One place for models on a device. Not thread-safe; opened with `open_slots`."""

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self.state = folder, state
        self._begun: str | None = None  # the trial that this process began: beginning it twice is one try

    def fetching(self, release: Release) -> Path:
        """The folder to fetch `release`'s files into; what was being fetched of others is dropped."""
        folder = self._folder / "fetch" / release.digest
        for other in (self._folder / "fetch").iterdir():
            if other != folder:
                shutil.rmtree(other)
        folder.mkdir(exist_ok=True)
        return folder

    def stage(self, release: Release) -> Path:
        """Make a slot of what was fetched, every length and digest verified; gives its folder. Runs nothing.

        Raises:
            NotFoundError: a file was not fetched.
            IntegrityError: a file is not what was signed; it is removed, so that it is fetched anew.
            ConflictError: it is active and damaged: restart first.
            UnavailableError: the disk refused.
        """
        slot, fetched = self._slot(release.digest), self._folder / "fetch" / release.digest
        if self.is_whole(release.digest):
            shutil.rmtree(fetched, ignore_errors=True)
            return slot
        if release.digest == self.state.active:
            raise ConflictError(f"release {release.digest[:12]}: is active and damaged; start anew first")
        for file in release.files:
            _check_fetched(fetched, file)
        _remove(slot)
        self._sweep(self.state.active, self.state.previous)
        write_whole(fetched / _MARKER, release.to_bytes())
        fetched.rename(slot)
        sync_folder(slot.parent)
        sync_folder(fetched.parent)
        return slot

    def begin_trial(self, release: Release) -> State:
        """Record a try of the staged `release`, durably, before anything loads it.

        Raises:
            NotFoundError: it is not staged.
            ConflictError: it is active, was tried too often, or is older than what was tried.
        """
        if not (self._slot(release.digest) / _MARKER).exists():
            raise NotFoundError(f"release {release.digest[:12]}: is not staged")
        if self._begun == release.digest == self.state.trial:
            return self.state
        state = self._keep(begin(self.state, release.digest, line=release.line, counter=release.counter))
        self._begun = release.digest
        return state

    def confirm(self, digest: str) -> State:
        """The flip, in one write: the trial is active, what was active is previous. Older slots are removed.

        Raises:
            ConflictError: `digest` is not on trial.
            IntegrityError: the slot's bytes are no longer what was signed; nothing was flipped.
        """
        flipped = confirm(self.state, digest)
        if flipped != self.state and not self.is_whole(digest):
            raise IntegrityError(f"release {digest[:12]}: its slot is damaged, it cannot become active")
        self._keep(flipped)
        self._sweep(self.state.active, self.state.previous)
        return self.state

    def reject(self, digest: str) -> State:
        """Give the trial up and remove its slot; what is active stays.

        Raises:
            ConflictError: `digest` is active.
        """
        self._keep(reject(self.state, digest))
        self._sweep(self.state.active, self.state.previous, self.state.trial)
        return self.state

    def boot(self) -> Start:
        """What to run after a start. An unconfirmed trial does not run; it may be tried again while tries are left.

        Every byte of what will run is verified; a damaged active slot gives way to the previous one.
        """
        before, self._begun = self.state, None
        damage = {digest: self._damage(digest) for digest in (before.active, before.previous) if digest}
        whole = {digest for digest, line in damage.items() if line is None}
        after = self._keep(
            restart(before, active_is_whole=before.active in whole, previous_is_whole=before.previous in whole)
        )
        return Start(
            run=self.release(after.active) if after.active else None,
            again=after.unfinished,
            given_up=before.trial if before.trial and before.trial != after.trial else None,
            damaged=tuple(filter(None, damage.values())),
        )

    def saw(self, seen: Seen, *, time_ns: int) -> State:
        """Remember, durably, which metadata versions were verified and that they were valid at `time_ns`."""
        return self._keep(saw(self.state, seen, time_ns))

    def release(self, digest: str) -> Release:
        """The release in slot `digest`.

        Raises:
            NotFoundError: there is no such slot.
            IntegrityError: its release.json is not what gave the slot its name.
        """
        path = self._slot(digest) / _MARKER
        if not path.exists():
            raise NotFoundError(f"release {digest[:12]}: no complete slot")
        data = path.read_bytes()
        if sha256(data) != digest:
            raise IntegrityError(f"{path}: SHA-256 {sha256(data)[:12]}, expected {digest[:12]}")
        try:
            return Release.from_bytes(data)
        except InvalidInputError as error:
            raise IntegrityError(f"{path}: {error}") from error

    def read(self, digest: str, name: str) -> bytes:
        """The bytes of file `name` in slot `digest`, verified as they are read: load these, not the path.

        Raises:
            NotFoundError: no such slot or file.
            IntegrityError: they are not what was signed.
        """
        for file in self.release(digest).files:
            if file.name == name:
                return _read(self._slot(digest), file)
        raise NotFoundError(f"release {digest[:12]}: has no file {name!r}")

    def is_whole(self, digest: str) -> bool:
        """Whether slot `digest` is there with every byte as it was signed."""
        return self._damage(digest) is None

    def _damage(self, digest: str) -> str | None:
        try:
            for file in self.release(digest).files:
                _check(self._slot(digest) / file.name, file)
        except (NotFoundError, IntegrityError) as error:
            return str(error)
        return None

    def _slot(self, digest: str) -> Path:
        return self._folder / "slots" / digest

    def _keep(self, state: State) -> State:
        """Write the record over the older copy, in place: only that copy can be torn."""
        if state == self.state:
            return state
        state = replace(state, sequence=self.state.sequence + 1)
        never_back(self.state, state)
        path = self._folder / _COPIES[(state.sequence + 1) % 2]
        if path.exists():
            _overwrite(path, encode(state))
        else:
            write_whole(path, encode(state))  # its name must be durable too
        self.state = state
        return state

    def _sweep(self, *keep: str | None) -> None:
        for slot in (self._folder / "slots").iterdir():
            if slot.name not in keep:
                _remove(slot)


def _overwrite(path: Path, record: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(handle, record, 0)  # one sector; a torn one is seen by its CRC
            os.ftruncate(handle, SIZE)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be written: {error.strerror}") from error


def _read(folder: Path, file: SignedFile) -> bytes:
    try:
        data = (folder / file.name).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder / file.name}: is not there") from error
    _compare(folder / file.name, file, length=len(data), digest=sha256(data))
    return data


def _check(path: Path, file: SignedFile) -> None:
    """Verify without holding the file in memory: models may be larger than that."""
    hasher, length = hashlib.sha256(), 0
    try:
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                length += len(chunk)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: is not there") from error
    _compare(path, file, length=length, digest=hasher.hexdigest())


def _check_fetched(folder: Path, file: SignedFile) -> None:
    """Verify a file that is to go into a slot and make it durable; a wrong one is removed, to be fetched anew."""
    path = folder / file.name
    try:
        _check(path, file)
    except IntegrityError:
        path.unlink()
        raise
    sync_file(path)


def _compare(path: Path, file: SignedFile, *, length: int, digest: str) -> None:
    if (length, digest) != (file.length, file.sha256):
        raise IntegrityError(
            f"{path}: {length} bytes of SHA-256 {digest[:12]}, signed are {file.length} of {file.sha256[:12]}"
        )


def _remove(slot: Path) -> None:
    """Remove a slot, its marker first: a half-removed one is no slot."""
    (slot / _MARKER).unlink(missing_ok=True)
    shutil.rmtree(slot, ignore_errors=True)
