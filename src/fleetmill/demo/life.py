"""One failure's life: the first takeover of the first device, from its pictures to every device that learned from it.

Chosen by rule: the device with number 0, its first session with a takeover, the first takeover in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleetmill.core.line import Line
from fleetmill.core.plain import build
from fleetmill.core.recording import Session
from fleetmill.findings import clips
from fleetmill.findings.failures import Group
from fleetmill.findings.gather import Takeover, gather, takeovers
from fleetmill.home import Home
from fleetmill.seams.ledger import Fact


@dataclass(frozen=True, kw_only=True, slots=True)
class Station:
    """One station of its life: what happened, and the fact that says so."""

    what: str  # in words
    subject: str  # of whom or what: a device, a short digest
    fact: Fact


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """A takeover and what became of it."""

    device: str
    session: str
    onset_ns: int
    role: str  # train: it was learned from; held_out: it was judged on; validation: it chose the weights
    sheet: bytes  # JPEG, or SVG where the line has no camera
    stations: tuple[Station, ...]


def life(home: Home, line: Line, facts: Sequence[Fact]) -> Life | None:
    """The life of the first device's first takeover; None: it never had one that was recorded."""
    first = next((f.key for f in facts if f.kind == "device" and f.record["number"] == 0), "")
    closed = [f for f in facts if f.kind == "session" and f.record["manifest"]["device"] == first]
    for fact in sorted(closed, key=lambda f: int(f.record["manifest"]["number"])):
        found = takeovers(line, [build(Session, fact.record["manifest"])], home.blobs)
        if found:
            return _life(home, line, facts, found[0], fact)
    return None


def _life(home: Home, line: Line, facts: Sequence[Fact], takeover: Takeover, closed: Fact) -> Life:
    role = home.books.roles(line.name)[closed.key]
    stations = [
        _station(
            "recording landed", takeover.recording.digest[:8], _one(facts, "recording", takeover.recording.digest)
        ),
        _station("session closed and signed by", takeover.session.device, closed),
        *_turns(facts, line, closed.key),
    ]
    turn = next(f for f in facts if f.kind == "turn_begun" and closed.key in f.record["sessions"])
    ended = _one(facts, "turn_ended", turn.key)
    verdict = next(f for f in facts if f.kind == "verdict" and f.key.startswith(f"{turn.key}/"))
    seen = gather(home.ledger, home.blobs, line, turn=int(turn.record["turn"]), verdict=verdict.key, head=ended.seq)
    group = Group(
        model=takeover.session.model, inside=(), outside=(), tags={}, takeovers=(takeover,), lived_hours=seen.hours
    )
    return Life(
        device=takeover.session.device,
        session=takeover.session.name,
        onset_ns=takeover.onset_ns,
        role=role,
        sheet=clips.draw(seen, group, home.blobs),
        stations=tuple(stations),
    )


def _turns(facts: Sequence[Fact], line: Line, session: str) -> Iterator[Station]:
    """Dataset, model and verdict of each turn that took the session, up to the first that went out, and who took it."""
    for begun in (f for f in facts if f.kind == "turn_begun" and session in f.record["sessions"]):
        ended = next((f for f in facts if f.kind == "turn_ended" and f.key == begun.key), None)
        if ended is None:
            return
        dataset, model = ended.record["dataset"], ended.record["candidate"]
        yield _station("in the dataset", dataset[:8], _one(facts, "dataset", dataset))
        yield _station("trained on that, the model", model[:8], _one(facts, "model", model))
        verdict = next(f for f in facts if f.kind == "verdict" and f.key.startswith(f"{begun.key}/"))
        said = verdict.record["decision"].replace("_", " ")
        yield _station(f"the gate said {said} of", model[:8], verdict)
        if ended.record["release"]:
            release = _one(facts, "release", f"{line.name}/{ended.record['release']}")
            yield _station("signed and published as", release.key, release)
            yield from _confirmed(facts, int(ended.record["release"]))
            return


def _confirmed(facts: Sequence[Fact], counter: int) -> Iterator[Station]:
    """Each device's first signed confirmation."""
    seen: set[str] = set()
    for fact in (f for f in facts if f.kind == "deployment"):
        report = fact.record["report"]
        if (report["state"], report["release_counter"]) == ("confirmed", counter) and report["device"] not in seen:
            seen.add(report["device"])
            yield _station("runs, and signed so:", report["device"], fact)


def _station(what: str, subject: str, fact: Fact) -> Station:
    return Station(what=what, subject=subject, fact=fact)


def _one(facts: Sequence[Fact], kind: str, key: str) -> Fact:
    return next(f for f in facts if (f.kind, f.key) == (kind, key))
