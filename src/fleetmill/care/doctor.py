"""Look a home over, each part by itself, so that a broken one does not hide the others. The rule is `doctor_rule`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleetmill import lines
from fleetmill.care import doctor_rule as rule
from fleetmill.care.collect import leftovers
from fleetmill.care.doctor_rule import Port, Symptom
from fleetmill.care.host import Host, ThisHost
from fleetmill.core.errors import FleetmillError, IntegrityError, InvalidInputError, NotFoundError, TooNewError
from fleetmill.core.line import Line
from fleetmill.home import FORMAT, KEYS, LEDGER, REPOSITORY, check_format, holder, url
from fleetmill.release.trust import Repository
from fleetmill.seams.blobs import FolderBlobs
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Fact, SqlLedger, open_ledger, revisions
from fleetmill.settings import Settings

Find = Callable[[str], Line]


@dataclass(kw_only=True, slots=True)
class _Seen:
    """What the facts say, as far as it can be read."""

    asked_number: int  # of the fact that a factory which answers calls its newest
    asked_digest: str = "0" * 64
    newest_ns: int = 0
    names: dict[int, str] = field(default_factory=dict)  # of devices with a key
    heard_ns: dict[int, int] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)  # files of releases
    turning: set[str] = field(default_factory=set)
    is_whole: bool = False  # every fact was read: what is in none of them is unknown
    forgotten: set[str] = field(default_factory=set)  # recordings that were deleted on purpose
    blobs: dict[str, str] = field(default_factory=dict)  # digest -> what it is

    def take(self, fact: Fact) -> None:
        """Note what a fact says."""
        r = fact.record
        self.newest_ns = max(self.newest_ns, fact.time_ns)
        if fact.seq == self.asked_number:
            self.asked_digest = fact.digest
        if fact.kind == "device":
            self.lines.add(r["line"])
            if r["public_key"]:
                self.names[r["number"]], self.heard_ns[r["number"]] = r["name"], fact.time_ns
        elif fact.kind == "journal":
            self.heard_ns[r["device"]] = fact.time_ns
        elif fact.kind == "turn_begun":
            self.turning.add(fact.key)
        elif fact.kind == "turn_ended":
            self.turning.discard(fact.key)
        elif fact.kind == "moved" and r["to"] == "forgotten":
            self.forgotten.add(r["recording"])
        elif fact.kind == "recording":
            self.blobs[fact.key] = f"recording {fact.key[:12]} of {r['device']}"
        elif fact.kind == "model":
            self.blobs |= {digest: f"{name} of model {fact.key[:12]}" for name, digest in r["files"].items()}
        elif fact.kind == "release":
            self.models.add(r["model_file"])
            self.blobs[r["golden"]] = f"golden frames of release {fact.key}"


def examine(settings: Settings, *, now_ns: int, find: Find = lines.find, host: Host | None = None) -> list[Symptom]:
    """Everything that is not as it should be, worst first; may be asked while the factory runs.

    Raises:
        NotFoundError: there is no home.
    """
    folder, host = settings.home, host or ThisHost()
    try:
        found_format = check_format(folder)
    except NotFoundError:
        if not (folder / KEYS).is_dir():
            raise
        half = Symptom(
            severity="error",
            what="its making was cut short",
            where=str(folder),
            do=f"Run again: fleetmill init --home {folder}",
        )
        return [half]
    except InvalidInputError as error:
        do = "Update fleetmill" if isinstance(error, TooNewError) else "Restore the file, or the home from a copy"
        return [Symptom(severity="error", what=str(error), where="home.json", do=do)]
    owner, said = holder(folder), host.health(_address(settings)) if settings.port else None
    seen = _Seen(asked_number=int(said["facts"]) if said else 0)  # asked first: what it names is in the ledger by now
    symptoms = [
        *_ledger(folder, seen, found_format),
        *_trust(folder, seen, now_ns, is_up=bool(owner)),
        *_place(settings, seen, now_ns, host),
        *(rule.port(_port(settings, said, seen, host, owner), address=_address(settings), owner=owner)),
        *_software(settings, seen, find, host),
        *rule.remains([_short(folder, p) for p in leftovers(folder)], sorted(seen.turning), is_up=bool(owner)),
        *rule.silence({name: seen.heard_ns[n] for n, name in seen.names.items()}, now_ns=now_ns),
    ]
    return sorted(symptoms, key=lambda s: ("error", "warning", "note").index(s.severity))


def _ledger(folder: Path, seen: _Seen, found_format: int) -> Iterator[Symptom]:
    if not (folder / LEDGER).exists():
        yield from rule.ledger("the ledger is gone", (), ())
        return
    try:
        with closing(open_ledger(url(folder))) as ledger:
            yield from rule.form(found_format, FORMAT, revisions(ledger))
            for fact in ledger.read():
                seen.take(fact)
            seen.is_whole = True
            yield from _chain_and_books(ledger)
    except FleetmillError as error:
        yield from rule.ledger(str(error), (), ())
    blobs = FolderBlobs(folder / "blobs")
    lost = [what for digest, what in seen.blobs.items() if digest not in seen.forgotten and not blobs.has(digest)]
    yield from rule.ledger("", (), lost)


def _chain_and_books(ledger: SqlLedger) -> Iterator[Symptom]:
    books, broken = Books(ledger), ""
    try:
        ledger.verify()
    except IntegrityError as error:
        broken = str(error)
    yield from rule.ledger(broken, [*books.faults(), *books.verify()], ())


def _trust(folder: Path, seen: _Seen, now_ns: int, *, is_up: bool) -> Iterator[Symptom]:
    inside, repository = folder / KEYS / "root.pem", Repository(folder / REPOSITORY, folder / KEYS)
    others = [_short(folder, p) for p in sorted((folder / KEYS).glob("*.pem")) if p.stat().st_mode & 0o077]
    try:
        faults = {str(role): why for role, why in repository.key_faults().items()}
        yield from rule.keys(faults, open_to_others=others, root_inside=str(inside) if inside.exists() else "")
        until = {str(role): ns for role, ns in repository.expiries().items()}
        yield from rule.expiries(until, now_ns=now_ns, is_up=is_up)
        offered = [t for t in repository.targets().values() if "release_counter" in t.custom and seen.is_whole]
        unknown = [t.path for t in offered if t.sha256 not in seen.models]
        yield from rule.offers(unknown, turning=bool(seen.turning))
    except (IntegrityError, IndexError) as error:  # IndexError: there is not even a first root
        yield Symptom(
            severity="error",
            what=str(error) if isinstance(error, IntegrityError) else "there is no root",
            where=REPOSITORY,
            do="Bring the file back from a copy; after a renewal that was cut short, run fleetmill renew again",
        )


def _place(settings: Settings, seen: _Seen, now_ns: int, host: Host) -> Iterator[Symptom]:
    folder = settings.home
    for place in (folder, folder / "blobs"):  # blobs may lie on another disk
        if place == folder or place.is_symlink():
            yield from rule.disk(str(place), free_bytes=host.free_bytes(place))
    newest = max(p.stat().st_mtime_ns for p in folder.iterdir())
    yield from rule.clock(now_ns, fact_ns=seen.newest_ns, file_ns=newest, synchronised=host.clock_is_kept())


def _address(settings: Settings) -> str:
    asked = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - a comparison
    return f"http://{asked}:{settings.port}"


def _port(settings: Settings, said: dict[str, Any] | None, seen: _Seen, host: Host, owner: str) -> Port:
    if said is not None:
        return "ours" if said["head"] == seen.asked_digest else "taken"
    if not settings.port:
        return "ours" if owner else "free"  # any free one: nobody can say which it took
    if host.is_free(settings.host, settings.port):
        return "free"
    return "silent" if owner else "taken"


def _software(settings: Settings, seen: _Seen, find: Find, host: Host) -> Iterator[Symptom]:
    """Lines in use that are not installed, and what those that are need beside them."""
    unknown, needed = [], {"factory"}
    for name in sorted({*settings.lines, *seen.lines}):
        try:
            line = find(name)
        except FleetmillError:
            unknown.append(name)
            continue
        needed |= {"train"} | ({"sim"} if line.world is not None else set())
    missing = {extra: lacking for extra in sorted(needed) if (lacking := host.lacks(extra))}
    yield from rule.lines(unknown, missing)


def _short(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder))
