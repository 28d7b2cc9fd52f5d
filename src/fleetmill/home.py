"""A home: one owner's ledger, blobs, keys and signed repository in one folder. Engines are chosen here only."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError, TooNewError, UnavailableError
from fleetmill.release import trust
from fleetmill.seams.blobs import Blobs, FolderBlobs
from fleetmill.seams.books import Books
from fleetmill.seams.executor import Executor, Here, open_pool
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import SqlLedger, open_ledger
from fleetmill.seams.runtime import Runtime
from fleetmill.settings import Settings

FORMAT = 1  # of the home; later versions migrate
_MARK = "home.json"


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


def init_home(settings: Settings, *, now_ns: int) -> None:
    """Make a home, or complete one that a crash left half-made; an existing one is left as it is.

    Raises:
        ConflictError: the folder holds something else.
        UnavailableError: the disk does not take it.
    """
    folder = settings.home
    if (folder / _MARK).exists():
        _check_format(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}. Choose another --home") from error
    strange = {p.name for p in folder.iterdir()} - {"fleetmill.toml", "keys", "repository", "ledger.db", "home.lock"}
    strange = {name for name in strange if not name.startswith(("ledger.db", "."))}
    if strange:
        raise ConflictError(f"{folder}: is no home, and holds {', '.join(sorted(strange)[:3])}. Choose an empty folder")
    trust.create(folder / "repository", folder / "keys", now_ns=now_ns)
    open_ledger(_url(folder)).close()
    write_whole(folder / _MARK, canonical.dumps({"format": FORMAT}))


@contextmanager
def open_home(
    settings: Settings, *, clock: Callable[[], int] = time.time_ns, workers: int = 1, own: bool = True
) -> Iterator[Home]:
    """The home of `settings`, opened; `own`: be its one factory, which alone may change it.

    Raises:
        NotFoundError: there is no home.
        ConflictError: another factory runs on it.
        TooNewError: a newer version made it.
    """
    from fleetmill.engines.runtime_onnx import OnnxRuntime

    folder = settings.home
    if not (folder / _MARK).exists():
        raise NotFoundError(f"{folder}: no home here. Run: fleetmill init --home {folder}")
    _check_format(folder)
    with ExitStack() as stack:
        if own:
            stack.enter_context(_owned(folder))
        ledger = open_ledger(_url(folder), clock=clock)
        stack.callback(ledger.close)
        executor = stack.enter_context(open_pool(workers)) if workers > 1 else Here()
        yield Home(
            settings=settings,
            ledger=ledger,
            books=Books(ledger),
            blobs=FolderBlobs(folder / "blobs"),
            repository=trust.open_repository(folder / "repository", folder / "keys"),
            executor=executor,
            runtime=OnnxRuntime(),
            clock=clock,
        )


def _check_format(folder: Path) -> None:
    try:
        found = canonical.loads((folder / _MARK).read_bytes())["format"]
    except (InvalidInputError, KeyError, TypeError) as error:
        raise InvalidInputError(f'{folder / _MARK}: damaged ({error}). Restore it: {{"format": {FORMAT}}}') from error
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InvalidInputError(f'{folder / _MARK}: format {found!r} is none. Restore it: {{"format": {FORMAT}}}')
    if found > FORMAT:
        raise TooNewError(str(folder / _MARK), found=found, newest_known=FORMAT)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold the home's lock; the kernel lets go of it when this process ends, however it ends."""
    handle = os.open(folder / "home.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            raise ConflictError(
                f"{folder}: another factory runs on this home (process {owner}). Stop it, or choose another --home"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.db'}"
