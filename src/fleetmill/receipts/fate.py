"""From an interval to what became of it. Reads the books (spans, members, roles) and goes forward along runs.

It never opens the manifest of a dataset or of its episodes: those are `why`'s path, and `check` compares the two. Only
where time is what splits a line does the role stand nowhere else: the books read it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fleetmill.core.custody import cut
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.fleet import Device
from fleetmill.receipts.standing import Standing, Standings
from fleetmill.receive import roll
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Fact, Ledger

UNREPORTED = "not lived or not reported yet"
_HELD_OUT = "held_out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Part of the interval that is in one account; `fact` is the one that moved it there."""

    track: int
    start_ns: int
    end_ns: int
    account: str
    reason: str
    bytes: int
    recording: str
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lived:
    """A session that the interval touches."""

    session: str
    line: str
    role: str  # in the line's newest dataset version; "by_time": it is in none yet
    start_ns: int
    end_ns: int
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A dataset version that holds an episode over part of the interval."""

    dataset: str
    episode: str
    session: str
    role: str  # in this version
    start_ns: int
    end_ns: int
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """A model that the interval reached: it was taught by it, directly or through a parent, or was judged on it."""

    model: str
    line: str
    how: str  # train, validation or held_out
    datasets: tuple[str, ...]  # those that brought it
    through: str  # the parent that brought it; "": its own run
    episodes: tuple[str, ...]
    standing: Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Part of the interval that the books know nothing about."""

    start_ns: int
    end_ns: int
    what: str = UNREPORTED


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What became of one interval of one device."""

    device: str
    number: int
    start_ns: int
    end_ns: int
    lived_until_ns: int  # up to when the books speak of this device; 0: it never said anything
    pieces: tuple[Piece, ...]
    gaps: tuple[Gap, ...]
    sessions: tuple[Lived, ...]
    datasets: tuple[Held, ...]
    taught: tuple[Reached, ...]
    judged: tuple[Reached, ...]


def fate(ledger: Ledger, books: Books, device: str, start_ns: int, end_ns: int) -> Fate:
    """What became of [start_ns, end_ns) of a device.

    Raises:
        NotFoundError: no such device.
        InvalidInputError: the interval is empty or runs backwards.
    """
    return Forward(ledger, books).fate(named(ledger, device), start_ns, end_ns)


def named(ledger: Ledger, name: str) -> Device:
    """The device of that name.

    Raises:
        NotFoundError: there is none.
    """
    try:
        return roll.find(ledger, name)
    except NotFoundError:
        raise NotFoundError(
            f"device {name[:64]!r}: is not enrolled and has no imports. See: fleetmill status"
        ) from None


class Forward:
    """The path forward, for any number of intervals, from facts that are read once."""

    def __init__(self, ledger: Ledger, books: Books) -> None:
        self._books = books
        self._sessions: dict[str, list[Fact]] = {}
        for fact in ledger.read(kind="session"):
            self._sessions.setdefault(fact.record["manifest"]["device"], []).append(fact)
        self._trained: dict[str, list[str]] = {}
        self._children: dict[str, list[str]] = {}
        for fact in ledger.read(kind="run"):
            self._trained.setdefault(fact.record["dataset"], []).append(fact.record["model"])
            self._children.setdefault(fact.record["parent"], []).append(fact.record["model"])
        self._judged: dict[str, list[str]] = {}
        for fact in ledger.read(kind="verdict"):
            self._judged.setdefault(fact.record["dataset"], []).append(fact.record["candidate"])
        self._lines = {f.key: str(f.record["line"]) for f in ledger.read(kind="model")}
        self._journals = {j.device: j.lived_until_ns for j in books.journals()}
        self._until: dict[int, int] = {}
        self._roles: dict[tuple[str, str | None], dict[str, str]] = {}
        self._taught_by: dict[str, dict[str, str]] = {}
        self._standings = Standings(ledger)

    def fate(self, device: Device, start_ns: int, end_ns: int) -> Fate:
        """See `fate`."""
        if end_ns <= start_ns:
            raise InvalidInputError(f"END {end_ns} must be after START {start_ns}")
        pieces = tuple(self._pieces(device, start_ns, end_ns))
        sessions = tuple(self._lived(device, start_ns, end_ns))
        held = tuple(self._held(device, sessions, start_ns, end_ns))
        return Fate(
            device=device.name,
            number=device.number,
            start_ns=start_ns,
            end_ns=end_ns,
            lived_until_ns=self._lived_until(device),
            pieces=pieces,
            gaps=tuple(_gaps(pieces, start_ns, end_ns)),
            sessions=sessions,
            datasets=held,
            taught=tuple(self._taught(held)),
            judged=tuple(self._judged_on(held)),
        )

    def _lived_until(self, device: Device) -> int:
        """What the device signed last, or for imports, which have no journal, the end of what came in."""
        if device.number not in self._until:
            lived = self._books.lived(device.number)
            self._until[device.number] = max(self._journals.get(device.number, 0), lived[1] if lived else 0)
        return self._until[device.number]

    def _pieces(self, device: Device, start_ns: int, end_ns: int) -> Iterator[Piece]:
        for holding in self._books.holdings(device.number, start_ns, end_ns):
            _, span, _ = cut(holding.span, start_ns, end_ns)
            yield Piece(
                track=holding.track,
                start_ns=span.start_ns,
                end_ns=span.end_ns,
                account=span.account,
                reason=span.reason,
                bytes=span.bytes,
                recording=span.recording,
                fact=holding.fact,
            )

    def _lived(self, device: Device, start_ns: int, end_ns: int) -> Iterator[Lived]:
        for fact in self._sessions.get(device.name, []):
            manifest = fact.record["manifest"]
            if manifest["start_ns"] < end_ns and manifest["end_ns"] > start_ns:
                line = manifest["line"]
                yield Lived(
                    session=fact.key,
                    line=line,
                    role=self._role(line, fact.key),
                    start_ns=manifest["start_ns"],
                    end_ns=manifest["end_ns"],
                    fact=fact.seq,
                )

    def _role(self, line: str, session: str, dataset: str | None = None) -> str:
        if (line, dataset) not in self._roles:
            self._roles[line, dataset] = self._books.roles(line, dataset)
        return self._roles[line, dataset].get(session, "")

    def _held(self, device: Device, sessions: tuple[Lived, ...], start_ns: int, end_ns: int) -> Iterator[Held]:
        for member in self._books.members(device.number, start_ns, end_ns):
            lived = next((s for s in sessions if s.start_ns <= member.start_ns < s.end_ns), None)
            yield Held(
                dataset=member.dataset,
                episode=member.episode,
                session=lived.session if lived else "",
                role=self._role(lived.line, lived.session, member.dataset) if lived else "",
                start_ns=max(member.start_ns, start_ns),
                end_ns=min(member.end_ns, end_ns),
                fact=member.fact,
            )

    def _taught(self, held: tuple[Held, ...]) -> Iterator[Reached]:
        """Models trained on what teaches, then those that went on from them; each model once per role."""
        for role in ("train", "validation"):
            yield from self._reached(role, _episodes(held, role), self._reach)

    def _judged_on(self, held: tuple[Held, ...]) -> Iterator[Reached]:
        def judged(dataset: str) -> dict[str, str]:
            return dict.fromkeys(self._judged.get(dataset, []), "")

        return self._reached(_HELD_OUT, _episodes(held, _HELD_OUT), judged)

    def _reached(
        self, how: str, by_dataset: dict[str, list[str]], reach: Callable[[str], dict[str, str]]
    ) -> Iterator[Reached]:
        found: dict[str, list[str]] = {}
        for dataset in by_dataset:
            for model in reach(dataset):
                found.setdefault(model, []).append(dataset)
        for model, datasets in found.items():
            yield Reached(
                model=model,
                line=self._lines.get(model, ""),
                how=how,
                datasets=tuple(datasets),
                through=min(reach(d)[model] for d in datasets),  # "": one of them is its own
                episodes=tuple(sorted({e for d in datasets for e in by_dataset[d]})),
                standing=self._standings.of(model),
            )

    def _reach(self, dataset: str) -> dict[str, str]:
        """Every model that a dataset version taught, with the parent that it came through; "": its own run."""
        if dataset not in self._taught_by:
            found: dict[str, str] = {}
            todo = [(model, "") for model in self._trained.get(dataset, [])]
            while todo:
                model, through = todo.pop(0)
                if model not in found:  # a training of no steps gives its own parent back: there it ends
                    found[model] = through
                    todo += [(child, model) for child in self._children.get(model, [])]
            self._taught_by[dataset] = found
        return self._taught_by[dataset]


def _episodes(held: tuple[Held, ...], role: str) -> dict[str, list[str]]:
    """Dataset -> episodes that it holds in a role, datasets in the order of their facts."""
    found: dict[str, list[str]] = {}
    for h in sorted(held, key=lambda h: h.fact):
        if h.role == role:
            found.setdefault(h.dataset, []).append(h.episode)
    return found


def _gaps(pieces: tuple[Piece, ...], start_ns: int, end_ns: int) -> Iterator[Gap]:
    at = start_ns
    for piece in sorted(pieces, key=lambda p: p.start_ns):
        if piece.start_ns > at:
            yield Gap(start_ns=at, end_ns=piece.start_ns)
        at = max(at, piece.end_ns)
    if at < end_ns:
        yield Gap(start_ns=at, end_ns=end_ns)
