"""One look at a home: the ledger from where the last look ended, recordings within a budget of time, the books."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from fleetmill import due, lines
from fleetmill.core.errors import FleetmillError
from fleetmill.core.finding import read_findings
from fleetmill.home import Home
from fleetmill.seams import recordings
from fleetmill.web import curve, glimpse, steps, tiles
from fleetmill.web.chart import Chart
from fleetmill.web.state import DeviceSeen, FactSeen, LineSeen
from fleetmill.web.view import View

MOST_TILES = 60  # of a line
MOST_READ_BYTES = 64 * 1024**2  # larger recordings are not read for takeovers
_MOST_FINDINGS, _MOST_SHEET_BYTES = 40, 1_500_000
_BOOKS_REST = 20  # the books are asked again when so many times the time that it took has passed


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One sentence about the fleet; `sheet` is a picture as a ``data:`` address."""

    kind: str
    sentence: str
    fact: int  # number of the newest fact that it rests on
    sheet: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The findings of a turn."""

    turn: int
    fact: int
    found: tuple[Finding, ...]
    trouble: str  # why they cannot be read


@dataclass(frozen=True, kw_only=True, slots=True)
class LinePage:
    """One line, as the page shows it."""

    id: str
    name: str
    turns: int
    turn: int | None  # that is open
    release: int
    hint: str  # what to do next, where nothing goes on by itself
    command: str
    now: str
    steps: tuple[steps.Step, ...]
    chart: Chart
    tiles: tuple[tiles.Tile, ...]
    devices: int
    findings: Findings | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A home at one moment."""

    as_of_ns: int
    home: str
    seq: int
    head: str
    faults: tuple[str, ...] | None  # None: not known yet
    lines: tuple[LinePage, ...]
    facts: tuple[FactSeen, ...]
    trouble: str = ""  # why the last look failed


class Eye:
    """Looks at a home again and again, and remembers what it has read. Not for two threads at once."""

    def __init__(self, home: Home) -> None:
        self._home, self._view = home, View()
        self._glimpses: dict[str, tuple[str, glimpse.Glimpse]] = {}  # device -> (recording, what is seen)
        self._counts: dict[str, int | None] = {}  # session -> takeovers
        self._documents: dict[str, tuple[str, Findings]] = {}  # line -> (document, what it says)
        self._faults: tuple[str, ...] | None = None
        self._books_at, self._books_seq = 0.0, -1

    def look(self, *, budget_seconds: float) -> Seen:
        """What is there now. What the budget does not suffice for is read by the next looks.

        Raises:
            UnavailableError: the ledger does not answer.
        """
        view = self._view
        view.take(self._home.ledger.read(after=view.seq))
        self._ask_books()
        names = sorted({*self._home.settings.lines, *view.lines})
        chosen = {name: tiles.shown(view.devices_of(name), MOST_TILES) for name in names}
        self._read(chosen, until=time.monotonic() + budget_seconds)
        return Seen(
            as_of_ns=self._home.clock(),
            home=str(self._home.settings.home),
            seq=view.seq,
            head=view.head,
            faults=self._faults,
            lines=tuple(self._line(view.line(name), f"l{i}", chosen[name]) for i, name in enumerate(names)),
            facts=tuple(reversed(view.facts)),
        )

    def _owing(self, line: LineSeen) -> tuple[str, ...]:
        """Benches that owe a scorecard; a line that is not installed (any more) asks none."""
        if not line.accepted or line.name not in lines.names():
            return ()
        return due.owed(self._home, lines.find(line.name))[0]

    def _line(self, line: LineSeen, id: str, chosen: list[DeviceSeen]) -> LinePage:
        devices, asked = self._view.devices_of(line.name), self._home.settings.line(line.name)
        found = steps.steps(line, devices, asked, self._owing(line))
        hint, command = steps.hint(line, devices, str(self._home.settings.home))
        return LinePage(
            id=id,
            name=line.name,
            turns=line.turns,
            turn=line.turn.number if line.turn else None,
            release=line.release.number if line.release else 0,
            hint=hint,
            command=command,
            now=steps.now(line, found),
            steps=found,
            chart=curve.growing(line, id=f"{id}-chart"),
            tiles=tuple(
                tiles.tile(d, line, self._glimpses.get(d.name, ("", None))[1], self._counts, id=f"{id}-d{d.number}")
                for d in chosen
            ),
            devices=len(devices),
            findings=self._findings(line),
        )

    # -- the books ----------------------------------------------------------------------------------------------------

    def _ask_books(self) -> None:
        """Ask again when facts came and some time has passed; a fault counts only if no fact came meanwhile."""
        now, seq = time.monotonic(), self._view.seq
        if seq == self._books_seq or now < self._books_at:
            return
        faults = tuple(self._home.books.faults())
        self._books_at = now + max(0.5, _BOOKS_REST * (time.monotonic() - now))
        if not faults or self._home.ledger.head()[0] == seq:
            self._faults, self._books_seq = faults, seq

    # -- recordings ---------------------------------------------------------------------------------------------------

    def _read(self, chosen: Mapping[str, list[DeviceSeen]], *, until: float) -> None:
        """Last pictures first, then takeovers, the newest sessions first."""
        devices = [d for found in chosen.values() for d in found]
        for device in devices:
            if time.monotonic() > until:
                return
            self._glimpse(device)
        wanted = {lived.key: lived for d in devices for lived in d.lived}
        self._counts = {key: count for key, count in self._counts.items() if key in wanted}
        todo = [lived for key, lived in wanted.items() if key not in self._counts]
        for lived in sorted(todo, key=lambda s: -(s.clips[-1].end_ns if s.clips else 0)):
            if time.monotonic() > until:
                return
            self._counts[lived.key] = tiles.onsets(lived, {c.digest: self._held(c.digest) for c in lived.clips})

    def _glimpse(self, device: DeviceSeen) -> None:
        digest = next((lived.clips[-1].digest for lived in reversed(device.lived) if lived.clips), "")
        if not digest or self._glimpses.get(device.name, ("", None))[0] == digest:
            return
        try:
            with self._home.blobs.path(digest).open("rb") as file:
                found = glimpse.glimpse(recordings.read_end(file, f"recording {digest[:12]}", glimpse.SECONDS))
        except FleetmillError as error:
            found = glimpse.Glimpse(missing=str(error))
        self._glimpses[device.name] = (digest, found)

    def _held(self, digest: str) -> glimpse.Held | None:
        try:
            path = self._home.blobs.path(digest)
            if path.stat().st_size > MOST_READ_BYTES:
                return None
            return glimpse.held(recordings.read_messages(path.read_bytes(), f"recording {digest[:12]}"))
        except FleetmillError:  # gone or damaged: `doctor` says so; what is not here is not counted
            return None

    # -- findings -----------------------------------------------------------------------------------------------------

    def _findings(self, line: LineSeen) -> Findings | None:
        if not line.findings:
            return None
        turn = max(line.findings)
        digest, seq = line.findings[turn]
        known, found = self._documents.get(line.name, ("", None))
        if found is None or (known, found.turn) != (digest, turn):
            found = self._document(digest, turn, seq)
            self._documents[line.name] = (digest, found)
        return found

    def _document(self, digest: str, turn: int, seq: int) -> Findings:
        try:
            read = read_findings(self._home.blobs.get(digest), f"findings {digest[:12]}").findings[:_MOST_FINDINGS]
            found = tuple(
                Finding(kind=f.kind, sentence=f.sentence, fact=f.fact, sheet=self._sheet(f.sheet)) for f in read
            )
        except FleetmillError as error:
            return Findings(turn=turn, fact=seq, found=(), trouble=str(error))
        return Findings(turn=turn, fact=seq, found=found, trouble="")

    def _sheet(self, digest: str) -> str:
        if not digest or not self._home.blobs.has(digest):
            return ""
        data = self._home.blobs.get(digest)
        return glimpse.data_uri(data) if len(data) <= _MOST_SHEET_BYTES else ""
