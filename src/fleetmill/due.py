"""When a line is due to turn, and what it waits for: read from the ledger and the settings, written nowhere."""

from __future__ import annotations

from dataclasses import dataclass

from fleetmill.core.line import Line
from fleetmill.core.plain import build
from fleetmill.core.split import BY_TIME
from fleetmill.core.verdict import Verdict
from fleetmill.home import Home
from fleetmill.judge import outside, people
from fleetmill.receive import roll
from fleetmill.release import publish as release
from fleetmill.seams.ledger import Fact
from fleetmill.train import elsewhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What stands between a line and its next turn. All empty: it is due."""

    sessions: int  # more closed sessions that are wanted; 0: enough
    missing: tuple[tuple[str, int], ...]  # devices that owe the campaign sessions, and how many
    hours: float | None  # until it turns with what there is; None: it does not
    approval: str  # digest of the model that a person must decide on; "": none
    turns_left: bool  # False: the settings ask for no more turns
    trains: bool = True  # False: models come from elsewhere
    unlabelled: bool = False  # no row of what came in can be learned from as long as nobody labels it
    benches: tuple[str, ...] = ()  # that owe a scorecard
    tried: tuple[str, str] = ("", "")  # digests of the model that they must try, and of the one to pair it with

    def sentence(self) -> str:
        """In one line."""
        if not self.trains and not self.benches and not self.approval:
            return "trains elsewhere, and judges what it is given: fleetmill model add FILE.onnx"
        if not self.turns_left:
            return "all turns that the settings ask for are done"
        if self.benches:
            mine, other = (digest[:12] for digest in self.tried)
            return f"bench {', '.join(self.benches)} must try {mine} against {other}: fleetmill scorecard add FILE.json"
        if self.approval:
            return f"a person must decide: fleetmill approve|refuse {self.approval[:12]} --as NAME --reason TEXT"
        if self.unlabelled:
            return "waits for labels, no row of what came in can be learned from: fleetmill labels import FILE"
        if self.sessions <= 0:
            return "due now"
        owing = ", ".join(f"{name} {n}" for name, n in self.missing[:6])
        more = f" and {len(self.missing) - 6} devices more" if len(self.missing) > 6 else ""
        who = f" (missing: {owing}{more})" if owing else ""
        when = f", or {self.hours:.2g} h from now with what there is" if self.hours is not None else ""
        return f"waits for {self.sessions} more closed session{'s' * (self.sessions > 1)}{who}{when}"


def waiting(home: Home, line: Line) -> Waiting:
    """What the line's next turn still wants."""
    asked = home.settings.line(line.name)
    benches, *tried = owed(home, line)
    return Waiting(
        sessions=max(sessions_wanted(home, line), 0),
        missing=tuple(sorted(missing(home, line).items())),
        hours=_hours_left(home, line),
        approval=approval(home, line),
        turns_left=not asked.turns or turns(home, line) < asked.turns,
        trains=asked.trains,
        unlabelled=_is_unlabelled(home, line),
        benches=benches,
        tried=(tried[0], tried[1]),
    )


def is_due(home: Home, line: Line) -> bool:
    """Enough sessions are here, or the first of them has waited long enough and there is something to learn from."""
    if not home.settings.line(line.name).trains:
        return False
    left = _hours_left(home, line)
    overdue = left is not None and left <= 0 and _has_rows_to_learn(home, line)
    return sessions_wanted(home, line) <= 0 or overdue


def sessions_wanted(home: Home, line: Line) -> int:
    """How many more closed sessions the next turn wants; 0 or less: enough.

    As many new ones as ``turn_when.sessions`` says. Where it says nothing: all that the campaign asked of every
    enrolled device; where there is no campaign, one, or none when labels came in from outside.
    """
    new, asked = len(arrived(home, line)), home.settings.line(line.name)
    if asked.turn_when.sessions or asked.campaign is None:
        wanted = asked.turn_when.sessions or int(not _labels_came(home, line))
        return max(wanted - new, int(not _has_rows_to_learn(home, line)))
    return max(sum(missing(home, line).values()), 1 - new)


def missing(home: Home, line: Line) -> dict[str, int]:
    """Devices whose sessions of the running campaign have not all arrived, and how many are missing of each."""
    found = release.campaigns(home.ledger, line.name)
    if not found:
        return {}
    campaign = found[-1][1]
    # not only after the campaign's fact: a crash may have come between its signing, which devices see, and the fact
    closed = [f.record["manifest"] for f in arrived(home, line)]
    here = [m["device"] for m in closed if m["campaign"] == campaign.digest]
    enrolled = [d for d in roll.devices(home.ledger) if d.line == line.name and d.public_key]
    return {d.name: n for d in enrolled if (n := campaign.sessions - here.count(d.name)) > 0}


def awaited(home: Home, line: Line) -> str:
    """Digest of the accepted model that waits for a bench's scorecard or a person's decision; "": none does."""
    return owed(home, line)[1] or approval(home, line)


def owed(home: Home, line: Line) -> tuple[tuple[str, ...], str, str]:
    """Benches that owe a scorecard, digest of the accepted model that waits for it, and what it is paired with."""
    for fact in outside.accepted(home.ledger, line.name) if line.benches else ():
        verdict = build(Verdict, fact.record)
        names = outside.missing(home.ledger, line, verdict)
        if names:
            return tuple(names), verdict.candidate, verdict.champion or outside.BASELINE
    return (), "", ""


def approval(home: Home, line: Line) -> str:
    """Digest of the accepted model that waits for a person's decision; "": none does."""
    if home.settings.line(line.name).approval != "required":
        return ""
    for fact in people.undecided(home.ledger, line.name):
        if not outside.refuses(home.ledger, line, build(Verdict, fact.record)):
            return str(fact.record["candidate"])
    return ""


def lines_in_use(home: Home) -> list[str]:
    """Names of the lines to turn: those of the settings, and those of enrolled devices."""
    enrolled = {f.record["line"] for f in home.ledger.read(kind="device")}
    return sorted({*home.settings.lines, *enrolled})


def to_examine(home: Home, line: Line) -> Fact | None:
    """The oldest model that was made elsewhere and not judged yet, once there is something to judge it with."""
    trains = home.settings.line(line.name).trains
    ready = last_turn(home, line) if trains else arrived(home, line) or last_turn(home, line)
    return elsewhere.waiting(home.ledger, line.name) if ready else None


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


def arrived(home: Home, line: Line) -> list[Fact]:
    """Sessions that were closed after the last turn took what there was."""
    before = last_turn(home, line)
    since = home.ledger.get("turn_begun", before.key).seq if before else 0
    return [f for f in home.ledger.read(kind="session", after=since) if f.record["manifest"]["line"] == line.name]


def _is_unlabelled(home: Home, line: Line) -> bool:
    """Whether each session was cut and gave nothing, and no label came in since."""
    if not any(f.kind == "label" for f in line.features):
        return False
    cut = [f for f in home.ledger.read(kind="refined") if f.record["line"] == line.name]
    since = cut[-1].seq if cut else 0
    came = any(f.record["line"] == line.name for f in home.ledger.read(kind="labels", after=since))
    return bool(cut) and not came and not any(f.record["episodes"] for f in cut)


def _labels_came(home: Home, line: Line) -> bool:
    """Whether labels came in from outside after the last turn learned."""
    turns_of = [f.seq for f in home.ledger.read(kind="turn_learned") if f.record["line"] == line.name]
    since = max(turns_of, default=0)
    return any(f.record["line"] == line.name for f in home.ledger.read(kind="labels", after=since))


def _hours_left(home: Home, line: Line) -> float | None:
    """Until the oldest session that no turn took has waited as long as the settings allow."""
    hours, new = home.settings.line(line.name).turn_when.hours, arrived(home, line)
    if not new or not hours:
        return None
    return hours - (home.clock() - min(f.time_ns for f in new)) / 3.6e12


def _has_rows_to_learn(home: Home, line: Line) -> bool:
    """Whether any closed session is there to train on: the first of a device may be one that is held out."""
    roles = set(home.books.roles(line.name).values())
    return bool(roles & {"train", BY_TIME})  # the earliest of what time splits trains
