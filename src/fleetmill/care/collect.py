"""Free what nobody needs: blobs that no fact names, trainings that ended, old metadata, what crashes left behind.

Nobody else has the home open meanwhile, so nothing is on its way in; what is young is left alone all the same: a step
that was killed between its bytes and its fact finds them again when it is done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fleetmill.care.collect_rule import LOOK_BYTES, is_text, named, needed
from fleetmill.care.upgrade import BACKUPS, HALF
from fleetmill.core import canonical
from fleetmill.core.errors import NotFoundError
from fleetmill.home import KEYS, REPOSITORY, Home, open_home
from fleetmill.seams.blobs import INCOMING, Blobs
from fleetmill.seams.files import UNFINISHED
from fleetmill.settings import Settings

YOUNG_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Waste:
    """One thing that nobody needs: what kind of thing, where it lies, how large it is."""

    kind: str  # blob, run, metadata or leftover
    path: str  # inside the home
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What was found, and whether it was deleted. `young` was left alone because it is not old enough."""

    deleted: bool
    waste: tuple[Waste, ...]
    young: int
    needed_blobs: int
    needed_bytes: int

    @property
    def bytes(self) -> int:
        """What is or would be freed."""
        return sum(w.bytes for w in self.waste)


@dataclass(kw_only=True, slots=True)
class _Look:
    """What is being found."""

    folder: Path
    before_ns: int  # what was changed after this is young
    waste: list[Waste] = field(default_factory=list)
    young: int = 0

    def add(self, kind: str, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.stat().st_mtime_ns > self.before_ns:
                self.young += 1
                continue
            size = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
            self.waste.append(Waste(kind=kind, path=str(path.relative_to(self.folder)), bytes=size))


def collect(settings: Settings, *, now_ns: int, delete: bool = False, young_ns: int = YOUNG_NS) -> Collected:
    """Find what nobody needs, and delete it if asked to. What a fact names is never touched.

    Raises:
        ConflictError: a factory runs on this home, or a command has it open.
        IntegrityError: the chain of facts does not hold, so nobody can say what it names; nothing is deleted.
    """
    with open_home(settings, alone=True) as home:
        home.ledger.verify()
        wanted = wanted_blobs(home)
        look = _Look(folder=settings.home, before_ns=now_ns - young_ns)
        look.add("blob", (home.blobs.path(digest) for digest in home.blobs if digest not in wanted))
        look.add("run", _ended_runs(home))
        look.add("metadata", _old_metadata(home))
        look.add("leftover", leftovers(settings.home))
        for waste in look.waste if delete else ():
            _delete(settings.home / waste.path)
        held = [home.blobs.path(d).stat().st_size for d in wanted if home.blobs.has(d)]
        return Collected(
            deleted=delete,
            waste=tuple(look.waste),
            young=look.young,
            needed_blobs=len(held),
            needed_bytes=sum(held),
        )


def wanted_blobs(home: Home) -> set[str]:
    """Every digest that a fact, the signed list, or a document that one of them names speaks of."""
    roots: set[str] = set()
    for fact in home.ledger.read():
        roots |= named(fact.key) | named(canonical.dumps(fact.record).decode())
    roots |= {target.sha256 for target in home.repository.targets().values()}
    return needed(roots, _reader(home.blobs))


def leftovers(folder: Path) -> Iterator[Path]:
    """What a crash left half-written."""
    for place in (folder, folder / KEYS, folder / REPOSITORY, folder / "runs"):
        yield from sorted(place.glob(f".*{UNFINISHED}"))
    yield from sorted((folder / "blobs").glob(f"??/{INCOMING}*"))
    yield from sorted((folder / BACKUPS).glob(f"{HALF}*"))


def _reader(blobs: Blobs) -> Callable[[str], str]:
    def document(digest: str) -> str:
        try:
            path = blobs.path(digest)
        except NotFoundError:  # not every digest in a fact is a blob's
            return ""
        with path.open("rb") as file:
            start = file.read(LOOK_BYTES)
            return (start + file.read()).decode(errors="replace") if is_text(start) else ""

    return document


def _ended_runs(home: Home) -> Iterator[Path]:
    ended = {f.key for f in home.ledger.read(kind="run")}
    if home.runs.is_dir():
        yield from (path for path in sorted(home.runs.iterdir()) if path.name in ended)


def _old_metadata(home: Home) -> Iterator[Path]:
    """Numbered metadata that the signed list no longer leads to. Every root stays: devices follow their chain."""
    in_force = home.repository.files()
    for path in sorted((home.settings.home / REPOSITORY).glob("*.json")):
        if path.name not in in_force:
            yield path


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
