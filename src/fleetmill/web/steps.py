"""The seven steps of a line: what waits in each, and which works now. A rule over what the fold holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fleetmill.settings import LineSettings
from fleetmill.web.state import DeviceSeen, LineSeen

State = Literal["works", "waits", "person", "idle"]
_NAMED = 3  # devices that a sentence names


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One of the seven."""

    name: str
    state: State
    waits: int  # how many wait here
    of: str  # of what
    says: str


def steps(
    line: LineSeen, devices: Sequence[DeviceSeen], asked: LineSettings, owing: Sequence[str] = ()
) -> tuple[Step, ...]:
    """Live, receive, refine, train, judge, release, confirm. `owing`: benches that owe a scorecard."""
    return (
        _live(line, devices, asked),
        _receive(line),
        _refine(line),
        _train(line),
        _judge(line),
        _release(line, asked, owing),
        _confirm(line, devices),
    )


def now(line: LineSeen, found: Sequence[Step]) -> str:
    """What the line does now, in one sentence without counters: it is read out when it changes."""
    if any(s.state == "person" for s in found):
        return "A person must decide on the model that the gate accepted."
    working = [s.name for s in found if s.state == "works"]
    turn = f" (turn {line.turn.number})" if line.turn else ""
    if not working:
        return "Nothing works now: the line waits."
    return f"Now: {', '.join(working)}{turn}."


def _live(line: LineSeen, devices: Sequence[DeviceSeen], asked: LineSettings) -> Step:
    campaign, fleet = line.campaign, [d for d in devices if d.has_key]
    if campaign is None:
        says = (
            "No campaign asks anything of devices." if fleet else "No device is enrolled: recordings come as imports."
        )
        return _idle("live", says)
    if not fleet:
        return _step("live", "waits", 0, "", f"Campaign {campaign.number} waits for a first device.")
    here = line.arrived.get(campaign.digest, Counter())
    missing = {d.name: n for d in fleet if (n := campaign.sessions - here[d.name]) > 0}
    number, every = sum(missing.values()), campaign.sessions * len(fleet)
    if not missing:
        done = asked.turns and line.turns >= asked.turns
        more = " All turns that the settings ask for are done." if done else ""
        return _idle("live", f"Campaign {campaign.number}: all {every} sessions are here.{more}")
    says = f"Campaign {campaign.number}: {every - number} of {every} sessions are here; missing from {_names(missing)}."
    return _step("live", "waits" if line.turn else "works", number, "session", says)


def _receive(line: LineSeen) -> Step:
    recordings, sessions = sum(line.arriving.values()), len(line.arriving)
    if recordings:
        says = f"{_count(recordings, 'recording')} of {_count(sessions, 'session')} not closed yet."
        return _step("receive", "works", recordings, "recording", says)
    says = f"{_count(line.closed, 'session')} landed, all whole." if line.closed else "No recording has come yet."
    return _idle("receive", says)


def _refine(line: LineSeen) -> Step:
    if line.turn and line.turn.phase == "refine":
        taken = [done for session, done in line.fresh.items() if session in line.turn.sessions]
        says = f"Cutting {_count(len(taken), 'new session')} into episodes: {sum(taken)} done."
        return _step("refine", "works", len(taken) - sum(taken), "session", says)
    if line.fresh:
        says = f"{_count(len(line.fresh), 'session')} landed, in no dataset yet."
        return _step("refine", "waits", len(line.fresh), "session", says)
    if line.dataset:
        says = f"Dataset {line.dataset[:8]}: {line.dataset_rows:,} rows.".replace(",", " ")
        return _idle("refine", says)
    return _idle("refine", "No dataset yet.")


def _train(line: LineSeen) -> Step:
    if line.turn and line.turn.phase == "train":
        start = f"on from {line.turn.champion[:8]}" if line.turn.champion else "from nothing"
        says = f"Training {start} on {line.turn.rows:,} rows of {line.turn.dataset[:8]}.".replace(",", " ")
        return _step("train", "works", 1, "run", says)
    says = f"Last model: {line.model[:8]}." if line.model else "No model yet."
    return _idle("train", says)


def _judge(line: LineSeen) -> Step:
    if line.turn and line.turn.phase == "judge":
        other = f"champion {line.turn.champion[:8]}" if line.turn.champion else "the baseline"
        return _step("judge", "works", 1, "model", f"Judging {line.turn.model[:8]} against {other}, in pairs.")
    if line.examined:
        says = f"Judging {line.examined[:8]}, which was made elsewhere."
        return _step("judge", "works", len(line.entered), "model", says)
    if line.entered:
        says = "Made elsewhere, waits to be judged."
        return _step("judge", "waits", len(line.entered), "model", says)
    if not line.compared:
        return _idle("judge", "Nothing was judged yet.")
    last = line.compared[-1]
    says = f"{last.candidate[:8]} against {last.against}: {words(last.decision)} after {last.pairs} pairs."
    return _idle("judge", says)


def _release(line: LineSeen, asked: LineSettings, owing: Sequence[str]) -> Step:
    for verdict, model in line.accepted.items():
        if owing:
            says = f"Waits for bench {', '.join(owing)} to try {model[:12]}: fleetmill scorecard add FILE.json"
            return _step("release", "waits", 1, "scorecard", says)
        if asked.approval == "required" and verdict not in line.approved:
            says = f"Waits for a person: fleetmill approve|refuse {model[:12]} --as NAME --reason TEXT"
            return _step("release", "person", 1, "decision", says)
        return _step("release", "works", 1, "model", f"Signing and publishing {model[:8]}.")
    if line.release:
        says = f"Release {line.release.number} is out: {line.release.model[:8]}."
        return _idle("release", says)
    return _idle("release", "Nothing was released yet.")


def _confirm(line: LineSeen, devices: Sequence[DeviceSeen]) -> Step:
    fleet = [d for d in devices if d.has_key]
    if line.release is None or not fleet:
        return _idle("confirm", "No release to confirm." if fleet else "No device to confirm.")
    said = Counter(state for d in fleet if (state := d.answers.get(line.release.number)))
    silent = len(fleet) - sum(said.values())
    parts = [f"{said['confirmed']} of {len(fleet)} confirmed release {line.release.number}"]
    parts += [f"{n} {state}" for state, n in sorted(said.items()) if state != "confirmed"]
    parts += [f"{silent} not heard from"] if silent else []
    return _step("confirm", "works" if silent else "idle", silent, "device", ", ".join(parts) + ".")


def hint(line: LineSeen, devices: Sequence[DeviceSeen], home: str) -> tuple[str, str]:
    """(what to do next, the command for it) where nothing goes on by itself; two empty texts where it does."""
    if not devices:
        return "No device yet. Invite one:", f"fleetmill device enrol NAME --line {line.name} --home {home}"
    if line.fresh and line.turn is None and line.campaign is None:
        return "Recordings are here: a running factory turns when enough came. By hand:", (
            f"fleetmill turn --line {line.name} --home {home}"
        )
    if not line.closed and not any(d.enrolled for d in devices):
        return "Invited devices have not enrolled yet. On the device, with its token:", (
            f"fleetmill device run --factory ADDRESS --line {line.name} --device-home FOLDER --token TOKEN"
        )
    return "", ""


def words(decision: str) -> str:
    """A decision as a person says it.

    >>> words("not_enough_evidence")
    'not enough evidence'
    """
    return decision.replace("_", " ")


def _idle(name: str, says: str) -> Step:
    return Step(name=name, state="idle", waits=0, of="", says=says)


def _step(name: str, state: State, waits: int, of: str, says: str) -> Step:
    """`of` in the singular; nothing waits in "0"."""
    return Step(name=name, state=state, waits=waits, of=of if waits == 1 else f"{of}s", says=says)


def _names(missing: dict[str, int]) -> str:
    shown = list(missing)[:_NAMED]
    more = len(missing) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
