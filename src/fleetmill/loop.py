"""The loop, in order. Read this first.

Each call finds its own place in the ledger: a call that was done before gives back the record of that time, so a turn
that was killed anywhere is turned again and ends in the same facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any

from fleetmill import due, forecasts
from fleetmill.core.dataset import DatasetVersion
from fleetmill.core.errors import NotFoundError
from fleetmill.core.fleet import Campaign
from fleetmill.core.line import Line, Metrics
from fleetmill.core.model import ModelVersion, Run
from fleetmill.core.recording import Session
from fleetmill.core.release import Release
from fleetmill.core.verdict import Verdict
from fleetmill.findings import observe
from fleetmill.home import Home
from fleetmill.judge import outside, people
from fleetmill.judge import prove as judge
from fleetmill.receive import inbox
from fleetmill.refine import run as refine
from fleetmill.release import publish as release
from fleetmill.seams.ledger import Draft
from fleetmill.seams.processes import cpu_seconds_here
from fleetmill.settings import CampaignSettings
from fleetmill.train import bases, command, trainer

FLEET_SEEDS = 10_000_000  # worlds that the fleet lives in: no gate and no report uses these
EXAMINATIONS = 1_000  # numbers from here on are no turns: judgings of models that were made elsewhere
GOLDEN_FRAMES = 8
Progress = Callable[[int, int, Metrics], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one turn came to. `release` is None when the candidate was held; `verdict` says why."""

    number: int
    dataset: DatasetVersion
    candidate: ModelVersion
    verdict: Verdict
    release: Release | None
    anew: str = ""  # says that the candidate began from another base than the champion it challenged


def turn(home: Home, line: Line, *, progress: Progress = lambda step, of, metrics: None) -> Turn | None:
    """Turn the loop once: what has arrived becomes a candidate, and the candidate replaces the champion or is held.

    None: too little has arrived, or a bench or a person must speak first (`due.waiting` says which).
    """
    if due.awaited(home, line):
        return None
    used = cpu_seconds_here()
    begun = begin(home, line)
    if begun is None:
        return None
    number, sessions, champion = begun
    dataset = cut(home, line, number, sessions)
    candidate = learn(home, line, dataset, champion, progress)
    _settle(home, line, number, dataset)
    verdict = prove(home, line, dataset.digest, candidate, champion, number)
    observe.note_cost(home.ledger, line, turn=number, cpu_seconds=cpu_seconds_here() - used)
    if due.awaited(home, line):
        return None  # the turn stays open: the next call finds its place here
    released = ship(home, line, candidate, verdict, number, next_campaign(home, line, number + 1))
    observe.observe(
        home.ledger,
        home.blobs,
        line,
        turn=number,
        verdict=judge.key(line, number, candidate),
        release=released.counter if released else 0,
        sign=home.repository.sign_statement,
    )
    foretell(home, line)
    record = {
        "line": line.name,
        "turn": number,
        "dataset": dataset.digest,
        "candidate": candidate.digest,
        "decision": decision(home, line, candidate, verdict, number),
        "release": released.counter if released else 0,
    }
    home.ledger.append([Draft(kind="turn_ended", key=f"{line.name}/{number}", record=record)])
    said = anew(home, candidate, champion)
    return Turn(number=number, dataset=dataset, candidate=candidate, verdict=verdict, release=released, anew=said)


def examine(home: Home, line: Line) -> Verdict | None:
    """Judge the oldest model that was made elsewhere, and ship it when it is accepted: like our own, without a turn.

    None: there is none, a turn is open, there is nothing to judge it with, or a bench or a person must speak first.
    """
    entered = due.to_examine(home, line)
    if entered is None or due.awaited(home, line) or _is_open(home, line):
        return None
    if not home.settings.line(line.name).trains and not _teaches(home, line, inbox.sessions(home.ledger, line.name)):
        return None
    begun = _begin_examination(home, line, entered.key)
    candidate = trainer.model(home.ledger, entered.record["model"])
    against = trainer.model(home.ledger, begun["champion"]) if begun["champion"] else None
    number = EXAMINATIONS + int(entered.key.rpartition("/")[2])
    verdict = prove(home, line, begun["dataset"], candidate, against, number)
    if due.awaited(home, line):
        return None
    asked = (c for _, c in release.campaigns(home.ledger, line.name))
    running = next((c for c in asked if c.number == begun["campaign"]), None)
    released = ship(home, line, candidate, verdict, number, running)
    foretell(home, line)
    record = {
        "line": line.name,
        "model": candidate.digest,
        "decision": decision(home, line, candidate, verdict, number),
        "release": released.counter if released else 0,
    }
    home.ledger.append([Draft(kind="examined", key=entered.key, record=record)])
    return verdict


def begin(home: Home, line: Line) -> tuple[int, list[Session], ModelVersion | None] | None:
    """The turn's number, the sessions that it takes and the champion that it challenges.

    None: too little arrived, or nothing in it can be learned from before somebody labels it.

    All three are fixed by the turn's first fact, so that a turn which was killed after its release went out does not
    challenge itself.
    """
    number = due.turns(home, line)
    try:
        record = home.ledger.get("turn_begun", f"{line.name}/{number}").record
    except NotFoundError:
        if not due.is_due(home, line):
            return None
        arrived = inbox.sessions(home.ledger, line.name)  # after it was asked: one may have come in between
        if not _teaches(home, line, arrived):
            return None
        champion = release.champion(home.ledger, line.name)
        record = {
            "line": line.name,
            "turn": number,
            "sessions": sorted(s.key for s in arrived),
            "missing": due.missing(home, line),
            "champion": champion.model if champion else "",
        }
        home.ledger.append([Draft(kind="turn_begun", key=f"{line.name}/{number}", record=record)])
    taken, digest = set(record["sessions"]), record["champion"]
    closed = inbox.sessions(home.ledger, line.name)
    return number, [s for s in closed if s.key in taken], trainer.model(home.ledger, digest) if digest else None


def cut(home: Home, line: Line, number: int, sessions: list[Session]) -> DatasetVersion:
    """The turn's dataset version. Once something was learned from it, it stays, whatever labels come in meanwhile."""
    try:
        known = home.ledger.get("turn_learned", f"{line.name}/{number}").record["dataset"]
        return refine.version(home.ledger, known)
    except NotFoundError:
        pass
    before = due.last_turn(home, line)
    parent = before.record["dataset"] if before else ""
    return refine.run(home.ledger, home.books, home.blobs, line, sessions, parent=parent)


def learn(
    home: Home, line: Line, dataset: DatasetVersion, champion: ModelVersion | None, progress: Progress
) -> ModelVersion:
    """Train on from the champion, from a base or from nothing; an equal run that was done before gives its model."""
    settings = home.settings.line(line.name)
    base = bases.open_base(line, home.settings.home / settings.base) if settings.base else None
    parent = _parent(home, line, champion)
    came_from = trainer.base_of(home.ledger, parent)
    if base is not None and base.digest != came_from:
        parent, came_from = "", base.digest  # the first turn, or the owner brings another
    plan = Run(
        line=line.name,
        line_version=line.version,
        dataset=dataset.digest,
        parent=parent,
        seed=home.settings.seed,
        settings={**(line.recipe.train if line.recipe else {}), **settings.train},
        code=f"fleetmill {installed_version('fleetmill')}",
        base=came_from,
        **command.named(line),
    )
    data = refine.open_data(home.ledger, home.blobs, dataset.digest)
    return trainer.run(
        home.ledger, home.blobs, line, data, plan, folder=home.runs, runtime=home.runtime, base=base, progress=progress
    )


def anew(home: Home, candidate: ModelVersion, champion: ModelVersion | None) -> str:
    """Says that the candidate came from another base than the champion it challenges; "": it did not."""
    run = home.ledger.get("run", candidate.run).record
    if champion is None or run["parent"] or "base" not in run:
        return ""
    before = trainer.base_of(home.ledger, champion.digest)
    was = f"base {before[:12]}" if before else "no base"
    return f"begun anew from base {run['base'][:12]}: the champion {champion.digest[:12]} came from {was}"


def prove(
    home: Home,
    line: Line,
    dataset: str,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    number: int,
) -> Verdict:
    """Candidate against champion, or against the line's baseline, on one plan of trials, paired."""
    data = refine.open_data(home.ledger, home.blobs, dataset)
    return judge.prove(
        home.ledger,
        home.blobs,
        home.executor,
        home.runtime,
        line,
        candidate=candidate,
        champion=champion,
        dataset=dataset,
        train=data,
        held_out=data.split("held_out"),
        turn=number,
        seed=home.settings.seed,
    )


def decision(home: Home, line: Line, candidate: ModelVersion, verdict: Verdict, number: int) -> str:
    """The gate's decision, or ``refused`` where a bench or a person stopped what the gate let through."""
    if outside.settle(home.ledger, line, verdict, judge.key(line, number, candidate)):
        return "refused"
    decided = people.decision(home.ledger, judge.key(line, number, candidate))
    return "refused" if decided and decided.record["word"] == "refused" else verdict.decision


def ship(
    home: Home, line: Line, candidate: ModelVersion, verdict: Verdict, number: int, campaign: Campaign | None
) -> Release | None:
    """Sign and publish what was accepted, and with it what to record next; a held candidate changes only the latter."""
    if decision(home, line, candidate, verdict, number) != "accepted":
        if campaign is not None:
            release.ask(home.ledger, home.blobs, home.repository, line, campaign, now_ns=home.clock())
        return None
    data, settings = refine.open_data(home.ledger, home.blobs, verdict.dataset), home.settings.line(line.name)
    return release.publish(
        home.ledger,
        home.blobs,
        home.repository,
        home.runtime,
        line,
        model=candidate,
        verdict=verdict,
        verdict_key=judge.key(line, number, candidate),
        examples=judge.examples(line, data, GOLDEN_FRAMES),
        hardware=settings.hardware,
        campaign=campaign,
        now_ns=home.clock(),
        talk=settings.limits(line.talk),
        memory_bytes=settings.memory_mb * 1024**2,
    )


def foretell(home: Home, line: Line) -> None:
    """What the model in the field says of each device's next time, for those who run none; see `forecasts`."""
    if line.forecast is not None:
        forecasts.look(home, line)


def next_campaign(home: Home, line: Line, number: int) -> Campaign | None:
    """The campaign with that number, as the settings ask for it; None when they ask for none (any more)."""
    settings = home.settings.line(line.name)
    asked: CampaignSettings | None = settings.campaign
    if number == 0 and settings.first_campaign is not None:
        asked = settings.first_campaign
    if asked is None or (settings.turns and number >= settings.turns):
        return None
    return Campaign(
        line=line.name,
        number=number,
        scenario=asked.scenario,
        sessions=asked.sessions,
        seconds=asked.seconds,
        budget_ratio=asked.budget_ratio,
        triggers=line.triggers if number else (),
        seed=FLEET_SEEDS + 100_000 * home.settings.seed,
    )


def start(home: Home, line: Line) -> None:
    """Publish the line's first campaign, if the settings ask for one and none was published yet."""
    first = next_campaign(home, line, 0)
    if first is not None and not release.campaigns(home.ledger, line.name):
        release.ask(home.ledger, home.blobs, home.repository, line, first, now_ns=home.clock())


def _teaches(home: Home, line: Line, sessions: list[Session]) -> bool:
    return refine.rows_to_learn(home.ledger, home.books, home.blobs, line, sessions) > 0


def _settle(home: Home, line: Line, number: int, dataset: DatasetVersion) -> None:
    """Fix what an open turn is about: it may wait for a bench or a person while labels come in."""
    record = {"line": line.name, "turn": number, "dataset": dataset.digest}
    home.ledger.append([Draft(kind="turn_learned", key=f"{line.name}/{number}", record=record)])


def _parent(home: Home, line: Line, champion: ModelVersion | None) -> str:
    """What training goes on from: the champion, or where that was made elsewhere the last release that was ours."""
    if champion is None or champion.run:
        return champion.digest if champion else ""
    ours = [r.model for r in release.releases(home.ledger, line.name) if trainer.model(home.ledger, r.model).run]
    return ours[-1] if ours else ""


def _is_open(home: Home, line: Line) -> bool:
    """A turn has begun and not ended."""
    begun = [f for f in home.ledger.read(kind="turn_begun") if f.record["line"] == line.name]
    return len(begun) > due.turns(home, line)


def _to_judge_with(home: Home, line: Line) -> str:
    """Digest of the last turn's dataset version; where nothing is trained here, of one of all that has arrived."""
    last = due.last_turn(home, line)
    if last is not None and home.settings.line(line.name).trains:
        return str(last.record["dataset"])
    sessions = inbox.sessions(home.ledger, line.name)
    return refine.run(home.ledger, home.books, home.blobs, line, sessions).digest


def _begin_examination(home: Home, line: Line, key: str) -> dict[str, Any]:
    """What the entered model is judged against and with: fixed by the first fact, like a turn's champion."""
    try:
        return dict(home.ledger.get("examination", key).record)
    except NotFoundError:
        pass
    champion = release.champion(home.ledger, line.name)
    record = {
        "line": line.name,
        "dataset": _to_judge_with(home, line),
        "champion": champion.model if champion else "",
        "campaign": due.turns(home, line),
    }
    return dict(home.ledger.append([Draft(kind="examination", key=key, record=record)])[0].record)
