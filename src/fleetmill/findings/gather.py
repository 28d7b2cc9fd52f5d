"""What the findings of a turn look at: facts up to one number, the new sessions' recordings, the dataset's rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleetmill.core.errors import NotFoundError
from fleetmill.core.finding import Evidence
from fleetmill.core.line import Array, Episode, Line
from fleetmill.core.plain import build
from fleetmill.core.recording import RecordingRef, Session
from fleetmill.core.verdict import Scorecard, Verdict
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Ledger
from fleetmill.seams.tables import ColumnTable, open_table

TAKEOVER = "takeover"  # the channel that says that the safety driver holds the machine
_ON = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Takeover:
    """The instant at which a safety driver took over, in the recording that shows it."""

    session: Session
    recording: RecordingRef
    onset_ns: int

    def clip(self, before_ns: int, after_ns: int) -> Evidence:
        """The interval around it, as far as its recording goes."""
        return Evidence(
            device=self.session.device,
            session=self.session.name,
            recording=self.recording.digest,
            start_ns=max(self.onset_ns - before_ns, self.recording.start_ns),
            end_ns=min(self.onset_ns + after_ns, self.recording.end_ns),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One turn as its findings see it: nothing that came after fact `head`."""

    line: Line
    turn: int
    head: int
    new: tuple[Session, ...]  # this turn's, by device and number
    known: Mapping[str, Session]  # all that the turn took, by key
    verdict: Verdict
    verdict_fact: int
    cards: tuple[tuple[int, Scorecard], ...]  # (fact, card): the candidate's, then the other side's
    dataset_fact: int
    tables: Mapping[str, ColumnTable]  # the dataset's rows by role
    reports: tuple[Mapping[str, Any], ...]  # what devices said of releases since the turn before
    newest_report: int  # fact
    facts: Mapping[str, int]  # session -> fact

    @property
    def hours(self) -> float:
        """Lived hours of the new sessions."""
        return hours(self.new)

    @property
    def session_fact(self) -> int:
        """The newest fact among the new sessions'."""
        return max((self.facts[s.key] for s in self.new), default=0)

    def since_first(self, device: str, instant_ns: int) -> float:
        """Seconds since the device's first session began: how `fleetmill fate` takes instants, too."""
        return (instant_ns - min(s.start_ns for s in self.known.values() if s.device == device)) / 1e9

    def evidence(self, session: Session, start_ns: int, end_ns: int) -> Iterator[Evidence]:
        """The recordings that show an interval of a session."""
        for ref in session.recordings:
            if ref.start_ns < end_ns and ref.end_ns > start_ns:
                yield Evidence(
                    device=session.device,
                    session=session.name,
                    recording=ref.digest,
                    start_ns=max(ref.start_ns, start_ns),
                    end_ns=min(ref.end_ns, end_ns),
                )


def gather(ledger: Ledger, blobs: Blobs, line: Line, *, turn: int, verdict: str, head: int) -> Seen:
    """The turn whose verdict is fact ``verdict``/`verdict`, by facts up to `head`."""
    begun = set(ledger.get("turn_begun", f"{line.name}/{turn}").record["sessions"])
    before = _before(ledger, line, turn)
    facts = {f.key: f for f in ledger.read(kind="session") if f.key in begun}
    known = {key: build(Session, facts[key].record["manifest"]) for key in sorted(facts)}
    given = ledger.get("verdict", verdict)
    judged = build(Verdict, given.record)
    dataset = ledger.get("dataset", judged.dataset)
    since = _head(ledger, line, turn - 1)
    reports = [
        f
        for f in ledger.read(kind="deployment", after=since)
        if f.seq <= head and f.record["report"]["line"] == line.name
    ]
    return Seen(
        line=line,
        turn=turn,
        head=head,
        new=tuple(sorted((known[k] for k in known if k not in before), key=lambda s: (s.device, s.number))),
        known=known,
        verdict=judged,
        verdict_fact=given.seq,
        cards=tuple(_cards(ledger, verdict, judged)),
        dataset_fact=dataset.seq,
        tables={role: open_table(blobs.path(digest)) for role, digest in dataset.record["shards"].items()},
        reports=tuple(f.record["report"] for f in reports),
        newest_report=max((f.seq for f in reports), default=0),
        facts={key: fact.seq for key, fact in facts.items()},
    )


def takeovers(line: Line, sessions: Sequence[Session], blobs: Blobs) -> list[Takeover]:
    """Every takeover that the sessions' recordings show, in order; none where the line has no such channel.

    One that is on where a recording begins counts, unless the recording before ended there with it on.
    """
    if all(f.name != TAKEOVER for f in line.features):
        return []
    return [found for session in sessions for found in _onsets(session, blobs)]


def _onsets(session: Session, blobs: Blobs) -> Iterator[Takeover]:
    is_on, until_ns = False, 0
    for ref in session.recordings:
        is_on = is_on and ref.start_ns == until_ns
        for message in recordings.read_messages(
            blobs.get(ref.digest), f"recording {ref.digest[:12]}", topics=(TAKEOVER,)
        ):
            was_on, is_on = is_on, bool((np.asarray(message.value["data"]) > _ON).any())
            if is_on and not was_on:
                yield Takeover(session=session, recording=ref, onset_ns=message.log_time_ns)
        until_ns = ref.end_ns


def hours(sessions: Sequence[Session]) -> float:
    """Lived hours, kept or not."""
    return sum(s.end_ns - s.start_ns for s in sessions) / 3.6e12


class Episodes:
    """The episodes of a dataset version by session, to look up what was cut around an instant."""

    def __init__(self, tables: Mapping[str, ColumnTable]) -> None:
        self._tables = tables
        self._columns: dict[tuple[str, str], Array] = {}
        self._by_session: dict[str, list[tuple[str, int]]] = {}
        for role, table in sorted(tables.items()):
            for index, place in enumerate(table.places):
                self._by_session.setdefault(f"{place.device}/{place.session}", []).append((role, index))

    def around(self, session: str, instant_ns: int, before_ns: int, after_ns: int) -> Episode | None:
        """The rows around an instant of the episode that covers it; None: it was cut into none."""
        for role, index in self._by_session.get(session, []):
            place = self._tables[role].places[index]
            if place.start_ns <= instant_ns < place.end_ns:
                return _window(self._tables[role].episode(index), instant_ns - before_ns, instant_ns + after_ns)
        return None

    def rows(self, session: str, names: Sequence[str], *, most: int) -> dict[str, Array]:
        """At most about `most` rows of some features, evenly over a session's episodes; those that it has."""
        places = [(role, *self._tables[role].bounds()[i : i + 2]) for role, i in self._by_session.get(session, [])]
        step = max(1, math.ceil(sum(b - a for _, a, b in places) / most))
        found: dict[str, list[Array]] = {}
        for role, a, b in places:
            for name in names:
                if name in self._tables[role].names():
                    found.setdefault(name, []).append(self._column(role, name)[a:b:step])
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _column(self, role: str, name: str) -> Array:
        if (role, name) not in self._columns:
            self._columns[role, name] = self._tables[role].column(name)
        return self._columns[role, name]


def _window(episode: Episode, start_ns: int, end_ns: int) -> Episode | None:
    times = np.asarray(episode.times_ns)
    a, b = np.searchsorted(times, [start_ns, end_ns])
    if a == b:
        return None
    return Episode(
        device=episode.device,
        session=episode.session,
        start_ns=max(episode.start_ns, start_ns),
        end_ns=min(episode.end_ns, end_ns),
        times_ns=times[a:b],
        columns={name: column[a:b] for name, column in episode.columns.items()},
        tags=episode.tags,
    )


def _before(ledger: Ledger, line: Line, turn: int) -> set[str]:
    """The sessions that the turn before took."""
    return set(ledger.get("turn_begun", f"{line.name}/{turn - 1}").record["sessions"]) if turn else set()


def _head(ledger: Ledger, line: Line, turn: int) -> int:
    """The last fact that a turn's findings knew of; 0 where there are none."""
    try:
        return int(ledger.get("findings", f"{line.name}/{turn}").record["head"])
    except NotFoundError:
        return 0


def _cards(ledger: Ledger, verdict: str, judged: Verdict) -> Iterator[tuple[int, Scorecard]]:
    for model in dict.fromkeys((judged.candidate, judged.champion or "baseline")):  # they may be one and the same
        fact = ledger.get("scorecard", f"{verdict}/{model[:16]}")
        yield fact.seq, build(Scorecard, fact.record)
