"""The loop, in order. Read this first.

Each call finds its own place in the ledger: a call that was done before gives back the record of that time, so a turn
that was killed anywhere is turned again and ends in the same facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version

from fleetmill.core.dataset import DatasetVersion
from fleetmill.core.errors import NotFoundError
from fleetmill.core.fleet import Campaign
from fleetmill.core.line import Line, Metrics
from fleetmill.core.model import ModelVersion, Run
from fleetmill.core.recording import Session
from fleetmill.core.release import Release
from fleetmill.core.verdict import Verdict
from fleetmill.home import Home
from fleetmill.judge import prove as judge
from fleetmill.receive import inbox, roll
from fleetmill.refine import run as refine
from fleetmill.release import publish as release
from fleetmill.seams.ledger import Draft, Fact
from fleetmill.settings import CampaignSettings
from fleetmill.train import trainer

FLEET_SEEDS = 10_000_000  # worlds that the fleet lives in: no gate and no report uses these
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


def turn(home: Home, line: Line, *, progress: Progress = lambda step, of, metrics: None) -> Turn | None:
    """Turn the loop once: what has arrived becomes a candidate, and the candidate replaces the champion or is held.

    None: too little has arrived (`waiting_for` says how much).
    """
    begun = begin(home, line)
    if begun is None:
        return None
    number, sessions, champion = begun
    before = last_turn(home, line)
    dataset = refine.run(
        home.ledger,
        home.books,
        home.blobs,
        line,
        sessions,
        parent=before.record["dataset"] if before else "",
    )
    candidate = learn(home, line, dataset, champion, progress)
    verdict = prove(home, line, dataset, candidate, champion, number)
    released = ship(home, line, dataset, candidate, verdict, number)
    record = {
        "line": line.name,
        "turn": number,
        "dataset": dataset.digest,
        "candidate": candidate.digest,
        "decision": verdict.decision,
        "release": released.counter if released else 0,
    }
    home.ledger.append([Draft(kind="turn_ended", key=f"{line.name}/{number}", record=record)])
    return Turn(number=number, dataset=dataset, candidate=candidate, verdict=verdict, release=released)


def begin(home: Home, line: Line) -> tuple[int, list[Session], ModelVersion | None] | None:
    """The turn's number, the sessions that it takes and the champion that it challenges; None: too little arrived.

    All three are fixed by the turn's first fact, so that a turn which was killed after its release went out does not
    challenge itself.
    """
    number = turns(home, line)
    try:
        record = home.ledger.get("turn_begun", f"{line.name}/{number}").record
    except NotFoundError:
        if waiting_for(home, line) > 0 and not (is_overdue(home, line) and _has_rows_to_learn(home, line)):
            return None
        champion = release.champion(home.ledger, line.name)
        record = {
            "line": line.name,
            "turn": number,
            "sessions": sorted(s.key for s in inbox.sessions(home.ledger, line.name)),
            "missing": missing(home, line),
            "champion": champion.model if champion else "",
        }
        home.ledger.append([Draft(kind="turn_begun", key=f"{line.name}/{number}", record=record)])
    taken, digest = set(record["sessions"]), record["champion"]
    closed = inbox.sessions(home.ledger, line.name)
    return number, [s for s in closed if s.key in taken], trainer.model(home.ledger, digest) if digest else None


def learn(
    home: Home, line: Line, dataset: DatasetVersion, champion: ModelVersion | None, progress: Progress
) -> ModelVersion:
    """Train on from the champion, or from nothing; an equal run that was done before gives back its model."""
    plan = Run(
        line=line.name,
        line_version=line.version,
        dataset=dataset.digest,
        parent=champion.digest if champion else "",
        seed=home.settings.seed,
        settings={**(line.recipe.train if line.recipe else {}), **home.settings.line(line.name).train},
        code=f"fleetmill {installed_version('fleetmill')}",
    )
    data = refine.open_data(home.ledger, home.blobs, dataset.digest)
    return trainer.run(home.ledger, home.blobs, line, data, plan, folder=home.runs, progress=progress)


def prove(
    home: Home,
    line: Line,
    dataset: DatasetVersion,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    number: int,
) -> Verdict:
    """Candidate against champion, or against the line's baseline, on one plan of trials, paired."""
    data = refine.open_data(home.ledger, home.blobs, dataset.digest)
    return judge.prove(
        home.ledger,
        home.blobs,
        home.executor,
        home.runtime,
        line,
        candidate=candidate,
        champion=champion,
        dataset=dataset.digest,
        train=data,
        held_out=data.split("held_out"),
        turn=number,
        seed=home.settings.seed,
    )


def ship(
    home: Home, line: Line, dataset: DatasetVersion, candidate: ModelVersion, verdict: Verdict, number: int
) -> Release | None:
    """Sign and publish what was accepted, and with it what to record next; a held candidate changes only the latter."""
    campaign = next_campaign(home, line, number + 1)
    if verdict.decision != "accepted":
        if campaign is not None:
            release.ask(home.ledger, home.blobs, home.repository, line, campaign, now_ns=home.clock())
        return None
    data = refine.open_data(home.ledger, home.blobs, dataset.digest)
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
        hardware=home.settings.line(line.name).hardware,
        campaign=campaign,
        now_ns=home.clock(),
    )


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


def waiting_for(home: Home, line: Line) -> int:
    """How many more closed sessions the next turn wants; 0 or less: it may be turned.

    With a campaign: all that it asked of every enrolled device. Without: as many new ones as the settings say.
    """
    new = len(_arrived(home, line))
    if home.settings.line(line.name).campaign is None:
        return max(home.settings.line(line.name).sessions - new, int(not _has_rows_to_learn(home, line)))
    return max(sum(missing(home, line).values()), 1 - new)


def is_overdue(home: Home, line: Line) -> bool:
    """Something new has arrived, and then nothing for as long as the settings wait."""
    deadline_ns = int(home.settings.line(line.name).deadline_seconds * 1e9)
    arrived = [f.time_ns for f in _arrived(home, line)]
    return bool(arrived) and 0 < deadline_ns < home.clock() - max(arrived)


def missing(home: Home, line: Line) -> dict[str, int]:
    """Devices whose sessions of the running campaign have not all arrived, and how many are missing of each."""
    found = release.campaigns(home.ledger, line.name)
    if not found:
        return {}
    campaign = found[-1][1]
    # not only after the campaign's fact: a crash may have come between its signing, which devices see, and the fact
    closed = [f.record["manifest"] for f in _arrived(home, line)]
    arrived = [m["device"] for m in closed if m["campaign"] == campaign.digest]
    enrolled = [d for d in roll.devices(home.ledger) if d.line == line.name and d.public_key]
    return {d.name: n for d in enrolled if (n := campaign.sessions - arrived.count(d.name)) > 0}


def turns(home: Home, line: Line) -> int:
    """How many turns the line has ended."""
    return sum(f.record["line"] == line.name for f in home.ledger.read(kind="turn_ended"))


def last_turn(home: Home, line: Line) -> Fact | None:
    """The fact that ended the line's last turn; None before the first."""
    return max(
        (f for f in home.ledger.read(kind="turn_ended") if f.record["line"] == line.name),
        key=lambda f: int(f.record["turn"]),
        default=None,
    )


def _has_rows_to_learn(home: Home, line: Line) -> bool:
    """Whether any closed session is there to train on: the first of a device may be one that is held out."""
    return "train" in home.books.roles(line.name).values()


def _arrived(home: Home, line: Line) -> list[Fact]:
    """Sessions that were closed after the last turn took what there was."""
    before = last_turn(home, line)
    since = home.ledger.get("turn_begun", before.key).seq if before else 0
    return [f for f in home.ledger.read(kind="session", after=since) if f.record["manifest"]["line"] == line.name]
