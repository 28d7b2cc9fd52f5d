"""What befalls a demo, and when each of it has ended as promised: the rule. It reads facts and touches nothing.

Every demo has all six at moments that follow from its seed: a killed factory, a killed device, a bad candidate, and
three attacks on the wire of one device each. The hands are in `mishaps`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from fleetmill.core import canonical
from fleetmill.seams.ledger import Fact

MOST_TAIL_NS = 100_000_000  # what a killed device may lose of what it lived last


class Kind(str, Enum):
    """What may befall a demo."""

    FACTORY_KILLED = "factory killed"
    DEVICE_KILLED = "device killed"
    BAD_CANDIDATE = "bad candidate"
    FLIPPED_BYTE = "flipped byte"
    OLDER_RELEASE = "older release"
    WRONG_KEY = "wrong key"


PROMISES: dict[Kind, str] = {
    Kind.FACTORY_KILLED: "it costs time, never data: the turn ends with the sessions that it had begun with",
    Kind.DEVICE_KILLED: "what was durable is kept, and the books name a lost tail of at most 100 ms",
    Kind.BAD_CANDIDATE: "the gate holds it, and no device ever runs it",
    Kind.FLIPPED_BYTE: "the device refuses it, signed, and takes the honest bytes later",
    Kind.OLDER_RELEASE: "the device refuses it, signed, though every signature is right, and runs on",
    Kind.WRONG_KEY: "the device refuses it, signed, and runs on",
}


ATTACKS = (Kind.FLIPPED_BYTE, Kind.OLDER_RELEASE, Kind.WRONG_KEY)  # on the wire of one device


@dataclass(frozen=True, kw_only=True, slots=True)
class Accident:
    """One of them: on which device (empty: the factory), in which generation, and how far into its moment (0 to 1)."""

    kind: Kind
    device: str
    generation: int
    moment: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How it ended: as promised or not, in a sentence, with the ledger numbers that say so."""

    kept: bool | None  # None: it never came up
    sentence: str
    facts: tuple[int, ...]


def plan(seed: int, devices: Sequence[str], generations: int) -> tuple[Accident, ...]:
    """All six, each attack and the kill on a device of its own; fewer attacks where there are fewer devices.

    >>> len({a.device for a in plan(0, ["a", "b", "c", "d"], 4) if a.device})
    4
    """
    chance = random.Random(f"accidents {seed}")  # noqa: S311 - moments, no secret
    last = generations - 1
    victims = chance.sample(list(devices), k=min(4, len(devices)))
    found: list[Accident] = []
    for kind in Kind:
        of_device = kind not in (Kind.FACTORY_KILLED, Kind.BAD_CANDIDATE)
        first = 0 if kind in ATTACKS else min(1, last)
        accident = Accident(
            kind=kind,
            device=victims[len([a for a in found if a.device]) % len(victims)] if of_device else "",
            generation=chance.randint(first, max(first, last - 1 if kind is Kind.FLIPPED_BYTE else last)),
            moment=chance.random(),
        )
        is_taken = kind in ATTACKS and accident.device in {a.device for a in found if a.kind in ATTACKS}
        if not is_taken:  # two hands on one wire undo each other: a small fleet is attacked less
            found.append(accident)
    return tuple(found)


def is_time(accident: Accident, line: str, facts: Sequence[Fact]) -> bool:
    """Whether its moment has come, as far as the ledger tells."""
    turn = accident.generation
    if accident.kind in (Kind.DEVICE_KILLED, Kind.BAD_CANDIDATE):
        return turn == 0 or _one(facts, "turn_ended", f"{line}/{turn - 1}") is not None
    if accident.kind is Kind.OLDER_RELEASE:  # there must be an older one
        return len({r.record["report"]["release_counter"] for r in _reports(facts, accident, "confirmed")}) > 1
    return _one(facts, "turn_begun", f"{line}/{turn}") is not None


def may_come(accident: Accident, line: str, facts: Sequence[Fact]) -> bool:
    """Whether its moment may still come when no turn will, and every device has said what became of each release."""
    return accident.kind is not Kind.OLDER_RELEASE or is_time(accident, line, facts)


def ending(accident: Accident, line: str, facts: Sequence[Fact], *, since: int, subject: str = "") -> Ending | None:
    """How it ended, or None as long as it has not. `since`: the ledger's head when it was done.

    `subject`: digest of the model that was planted.
    """
    later = [f for f in facts if f.seq > since]
    if accident.kind is Kind.FACTORY_KILLED:
        return _factory_killed(accident, line, facts, later)
    if accident.kind is Kind.DEVICE_KILLED:
        return _device_killed(accident, line, facts, later)
    if accident.kind is Kind.BAD_CANDIDATE:
        return _bad_candidate(later, subject)
    return _refused(accident, facts, later)


def was_refused(accident: Accident, facts: Sequence[Fact], since: int) -> Fact | None:
    """The attacked device's signed refusal."""
    words = {
        Kind.FLIPPED_BYTE: "SHA-256",
        Kind.OLDER_RELEASE: "older release",
        Kind.WRONG_KEY: "not signed by enough",
    }[accident.kind]
    found = _reports([f for f in facts if f.seq > since], accident, "refused")
    return next((f for f in found if words in f.record["report"]["reason"]), None)


def is_vain(accident: Accident, facts: Sequence[Fact], since: int) -> bool:
    """Whether, with no turn to come, nothing can befall it any more: a bit flips in a release that comes later."""
    if accident.kind is not Kind.FLIPPED_BYTE or was_refused(accident, facts, since):
        return False
    return not any(f.kind == "release" and f.seq > since for f in facts)


def _factory_killed(accident: Accident, line: str, facts: Sequence[Fact], later: Sequence[Fact]) -> Ending | None:
    key = f"{line}/{accident.generation}"
    begun, ended = _one(facts, "turn_begun", key), _one(facts, "turn_ended", key)
    if begun is None or ended is None:
        return None
    dataset = _one(facts, "dataset", ended.record["dataset"])
    refined = {p["session"] for p in dataset.record["manifest"]["parts"]} if dataset else set()
    kept = refined == set(begun.record["sessions"])
    sessions, which = len(begun.record["sessions"]), "just these" if kept else "others"
    course = f"had begun with {sessions} sessions; started again, it ended with {which}"
    if ended not in later:
        course = f"had just ended with {sessions} sessions, {which} that it had begun with"
    return Ending(
        kept=kept,
        sentence=f"turn {accident.generation} {course}",
        facts=(begun.seq, *([dataset.seq] if dataset else []), ended.seq),
    )


def _device_killed(accident: Accident, line: str, facts: Sequence[Fact], later: Sequence[Fact]) -> Ending | None:
    campaign = _one(facts, "campaign", f"{line}/{accident.generation}")
    if campaign is None:
        return None
    asked, wanted = canonical.digest(campaign.record), campaign.record["sessions"]
    closed = [f for f in facts if f.kind == "session" and f.record["manifest"]["device"] == accident.device]
    mine = [f for f in closed if f.record["manifest"]["campaign"] == asked]
    if len(mine) < wanted:
        return None
    crashed = [f for f in mine if f.record["manifest"]["ended"] == "crash"]
    if not crashed:
        return Ending(
            kept=True,
            sentence="it was killed between two sessions; none was cut short",
            facts=tuple(f.seq for f in mine),
        )
    number = next(f.record["number"] for f in facts if f.kind == "device" and f.key == accident.device)
    tails = [f for f in later if f.kind == "moved" and f.record["device"] == number and f.record["reason"] == "crash"]
    lost_ns = sum(f.record["end_ns"] - f.record["start_ns"] for f in tails)
    manifest = crashed[-1].record["manifest"]
    lived = (manifest["end_ns"] - manifest["start_ns"]) / 1e9
    return Ending(
        kept=0 < lost_ns <= MOST_TAIL_NS,
        sentence=f"its session {manifest['name']} was cut short after {lived:.2f} s and closed; the books name "
        f"{lost_ns / 1e6:.0f} ms as lost in the crash",
        facts=tuple(f.seq for f in [*tails, crashed[-1]]),
    )


def _bad_candidate(later: Sequence[Fact], subject: str) -> Ending | None:
    entered = next((f for f in later if f.kind == "entered" and f.record["model"] == subject), None)
    examined = next((f for f in later if f.kind == "examined" and f.record["model"] == subject), None)
    if entered is None or examined is None:
        return None
    verdict = next(f for f in later if f.kind == "verdict" and f.record["candidate"] == subject)
    unmet = [r for r in verdict.record["reasons"] if not r["met"]]
    why = f"{unmet[0]['metric']} {unmet[0]['candidate']:.3g} against {unmet[0]['other']:.3g}" if unmet else "no reason"
    return Ending(
        kept=examined.record["release"] == 0 and verdict.record["decision"] != "accepted",
        sentence=f"the gate said {verdict.record['decision'].replace('_', ' ')}: {why}",
        facts=(entered.seq, verdict.seq, examined.seq),
    )


def _refused(accident: Accident, facts: Sequence[Fact], later: Sequence[Fact]) -> Ending | None:
    refusal = was_refused(accident, later, 0)
    if refusal is None:
        return None
    before = [f for f in _reports(facts, accident, "confirmed") if f.seq < refusal.seq]
    ran = before[-1].record["report"]["model_file"] if before else ""
    number = before[-1].record["report"]["release_counter"] if before else 0
    report = refusal.record["report"]
    seqs, more = [refusal.seq], ""
    if accident.kind is Kind.FLIPPED_BYTE:
        after = [f for f in _reports(later, accident, "confirmed") if f.seq > refusal.seq]
        if not after:
            return None
        seqs.append(after[0].seq)
        more = f"; it took release {after[0].record['report']['release_counter']} as it was signed later"
    ran_on = report["running"] == ran
    what = f"went on with release {number}" if ran else "went on without a model"
    return Ending(
        kept=ran_on,
        sentence=f"{what if ran_on else 'CHANGED its model'} and signed why: {_short(report['reason'])}{more}",
        facts=tuple(seqs),
    )


def _short(reason: str) -> str:
    """Without the address, which is another in every run, and with digests as people write them."""
    found = reason.rpartition("/metadata/: ")[2].rpartition("/targets/")[2]
    return re.sub(r"[0-9a-f]{64}", lambda m: m[0][:12], found)[:160]


def _one(facts: Sequence[Fact], kind: str, key: str) -> Fact | None:
    return next((f for f in facts if f.kind == kind and f.key == key), None)


def _reports(facts: Sequence[Fact], accident: Accident, state: str) -> list[Fact]:
    found = (f for f in facts if f.kind == "deployment" and f.record["report"]["device"] == accident.device)
    return [f for f in found if f.record["report"]["state"] == state]
