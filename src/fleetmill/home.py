"""A home: one owner's ledger, blobs, keys and signed repository in one folder. Engines are chosen here only."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    TooNewError,
    UnavailableError,
)
from fleetmill.release import trust
from fleetmill.seams.blobs import Blobs, FolderBlobs
from fleetmill.seams.books import Books
from fleetmill.seams.executor import Executor, Here, open_pool
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import SqlLedger, open_ledger
from fleetmill.seams.runtime import Runtime
from fleetmill.settings import FILE, Settings

FORMAT = 2  # of the home. 1: the loop's first landing; it is opened as it is, and `care.upgrade` makes it this one
MARK = "home.json"  # written last when a home is made or upgraded
LEDGER, LOCK, KEYS, REPOSITORY = "ledger.db", "home.lock", "keys", "repository"


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """The opened seams of a home. Verbs get what they need of it by keyword, never the whole."""

    settings: Settings
    ledger: SqlLedger
    books: Books
    blobs: Blobs
    repository: trust.Repository
    executor: Executor
    runtime: Runtime
    clock: Callable[[], int]

    @property
    def runs(self) -> Path:
        """Where unfinished trainings keep their state."""
        return self.settings.home / "runs"


def init_home(settings: Settings, *, now_ns: int, root_key: Path | None = None) -> None:
    """Make a home, or complete one that a crash left half-made; an existing one is left as it is.

    `root_key`: where the private root key is written, outside the home; None: `root_key_beside` it.

    Raises:
        ConflictError: the folder holds something else, or `root_key` is another home's.
        InvalidInputError: `root_key` lies inside the home.
        NotFoundError: the folder of `root_key` is not there: is the medium in?
        UnavailableError: the disk does not take it.
    """
    folder, root_key = settings.home, root_key or root_key_beside(settings.home)
    if is_made(folder):
        check_format(folder)
        return
    _check_place(root_key, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}. Choose another --home") from error
    strange = {p.name for p in folder.iterdir()} - {FILE, KEYS, REPOSITORY, LEDGER, LOCK}
    strange = {name for name in strange if not name.startswith((LEDGER, "."))}
    if strange:
        raise ConflictError(f"{folder}: is no home, and holds {', '.join(sorted(strange)[:3])}. Choose an empty folder")
    trust.create(folder / REPOSITORY, folder / KEYS, now_ns=now_ns, root_key=_found_inside(folder) or root_key)
    open_ledger(url(folder)).close()
    write_mark(folder)


def is_made(folder: Path) -> bool:
    """Whether a home is there, whole."""
    return (folder / MARK).exists()


def root_key_beside(folder: Path) -> Path:
    """Where a home's root key is put when nobody says where: beside the home, not in it."""
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}-root-key.pem")


def write_mark(folder: Path, **more: str) -> None:
    """Say that the home is whole, of which format it is, and which version made it so."""
    write_whole(folder / MARK, canonical.dumps({"format": FORMAT, "made_by": installed_version("fleetmill"), **more}))


@contextmanager
def open_home(
    settings: Settings,
    *,
    clock: Callable[[], int] = time.time_ns,
    workers: int = 1,
    own: bool = True,
    alone: bool = False,
) -> Iterator[Home]:
    """The home of `settings`, opened; `own`: be its one factory, which alone turns; `alone`: nobody else may read it.

    Raises:
        NotFoundError: there is no home.
        ConflictError: another factory runs on it.
        TooNewError: a newer version made it.
    """
    from fleetmill.engines.runtime_onnx import OnnxRuntime

    folder = settings.home
    check_format(folder)
    if not (folder / LEDGER).exists():
        raise IntegrityError(f"{folder / LEDGER}: the ledger is gone. Restore the home from a copy")
    with ExitStack() as stack:
        if own:
            stack.enter_context(owned(folder))
        stack.enter_context(in_use(folder, alone=alone))
        ledger = open_ledger(url(folder), clock=clock)
        stack.callback(ledger.close)
        executor = stack.enter_context(open_pool(workers)) if workers > 1 else Here()
        yield Home(
            settings=settings,
            ledger=ledger,
            books=Books(ledger),
            blobs=FolderBlobs(folder / "blobs"),
            repository=trust.open_repository(folder / REPOSITORY, folder / KEYS),
            executor=executor,
            runtime=OnnxRuntime(),
            clock=clock,
        )


def check_format(folder: Path) -> int:
    """The home's format.

    Raises:
        NotFoundError: there is no home.
        InvalidInputError: its mark is damaged.
        TooNewError: a newer version made it.
    """
    mark = folder / MARK
    if not mark.exists():
        raise NotFoundError(f"{folder}: no home here. Run: fleetmill init --home {folder}")
    try:
        found = canonical.loads(mark.read_bytes())["format"]
    except (InvalidInputError, KeyError, TypeError) as error:
        raise InvalidInputError(f'{mark}: damaged ({error}). Restore it: {{"format": {FORMAT}}}') from error
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InvalidInputError(f'{mark}: format {found!r} is none. Restore it: {{"format": {FORMAT}}}')
    if found > FORMAT:
        raise TooNewError(str(mark), found=found, newest_known=FORMAT)
    return found


def url(folder: Path) -> str:
    """Where a home's ledger is."""
    return f"sqlite:///{folder / LEDGER}"


def _check_place(root_key: Path, folder: Path) -> None:
    if root_key.resolve().is_relative_to(folder.resolve()):
        raise InvalidInputError(
            f"{root_key}: lies inside the home, where a thief of the home has it. Choose another place"
        )
    if not root_key.resolve().parent.is_dir() and root_key.resolve().parent != folder.resolve().parent:
        raise NotFoundError(
            f"{root_key.parent}: no such folder for the root key. Is the medium in? Make it, or choose another"
        )
    if root_key.is_dir():
        raise InvalidInputError(f"{root_key}: is a folder. Give the name of a file, e.g. {root_key / 'root.pem'}")


def _found_inside(folder: Path) -> Path | None:
    """Root's key of a home that version 0.1 began to make: it wrote it into the home."""
    inside = folder / KEYS / "root.pem"
    return inside if inside.exists() else None


@contextmanager
def in_use(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Be one of those who have the home open, or the only one: an import beside a factory is not seen by its lock.

    Raises:
        ConflictError: others have it open, or one has it alone.
    """
    handle = os.open(folder / MARK, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            what = "another command has it open" if alone else "it is being upgraded or collected"
            raise ConflictError(f"{folder}: {what}. Wait for its end, then try again") from error
        yield
    finally:
        os.close(handle)


def holder(folder: Path) -> str:
    """The number of the process that holds the home's lock; "": nobody does."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(handle)
    finally:
        os.close(handle)
    return ""


def _written(handle: int) -> str:
    return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the home's lock; the kernel lets go of it when this process ends, however it ends."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _written(handle)
            raise ConflictError(
                f"{folder}: another factory runs on this home (process {owner}). Stop it, or choose another --home"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
