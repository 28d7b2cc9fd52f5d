"""Evaluations made elsewhere: a bench that the owner admitted signs paired trials, the line's own rule judges them.

A line names the benches that must agree (`Line.benches`). A bench can stop what the gate let through; it lets nothing
through that the gate held. It speaks once on a pair of models: whoever could try again would try until it is lucky.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fleetmill.core import canonical
from fleetmill.core.errors import ConflictError, InvalidInputError, LineError, NotFoundError, TooNewError
from fleetmill.core.ids import checked_digest, checked_name, sha256
from fleetmill.core.line import Line, Tally
from fleetmill.core.plain import build, plain
from fleetmill.core.verdict import Reason, Verdict
from fleetmill.judge import gate
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Draft, Fact, Ledger
from fleetmill.seams.signatures import read_statement

TYPE, VERSION = "fleet.scorecard", 1
BASELINE = "baseline"
MOST_BYTES, MOST_TRIALS = 64 * 1024**2, 10_000
_KEY = re.compile(r"[0-9a-f]{64}")
_MOST_TEXT = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One trial of both models under the same conditions."""

    candidate: Mapping[str, Any]  # a tally: name -> number, or numbers in lists
    other: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutsideCard:
    """What a bench signs."""

    type: str
    version: int
    line: str
    bench: str
    model: str  # digest of the candidate
    other: str  # digest of the model that it was paired with, or "baseline"
    trials: tuple[Pair, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


def admit(ledger: Ledger, name: str, public_key: str) -> Fact:
    """Enter a bench whose scorecards count from now on. Saying the same again changes nothing.

    Raises:
        InvalidInputError: no name, or no Ed25519 key in hex.
        ConflictError: a bench of that name has another key.
    """
    checked_name(name, "bench")
    if not _KEY.fullmatch(public_key):
        raise InvalidInputError("--public-key: must be 64 lower-case hex digits (Ed25519, 32 raw bytes)")
    record = {"name": name, "public_key": public_key}
    try:
        return ledger.append([Draft(kind="bench", key=name, record=record)])[0]
    except ConflictError:
        raise ConflictError(f"bench {name}: is here with another key. Admit the new key under a new name") from None


def add(ledger: Ledger, blobs: Blobs, line: Line, data: bytes) -> Fact:
    """Enter a signed scorecard, judged by the line's checks. Adding the same again changes nothing.

    Raises:
        InvalidInputError: it is no scorecard of this line, or its tallies are not the line's.
        NotFoundError: the bench was not admitted, or no such model is here.
        TrustError: it is not signed by the bench's key.
        ConflictError: the bench has spoken on this pair of models.
    """
    if len(data) > MOST_BYTES:
        raise InvalidInputError(f"scorecard: {len(data)} bytes, at most {MOST_BYTES} are taken")
    card, signature = _read(ledger, data)
    if card.line != line.name:
        raise InvalidInputError(f"scorecard.line: {card.line[:80]!r}, and --line says {line.name}")
    _check_models(ledger, card)
    judged = judge(line, card)
    statement = canonical.dumps({"signed": plain(card), "signature": signature})
    record = {
        "line": line.name,
        "bench": card.bench,
        "model": card.model,
        "other": card.other,
        "trials": len(card.trials),
        "statement": blobs.put(statement),
        "reasons": plain(judged.reasons),
        "met": judged.accepted,
    }
    key = _key(line.name, card.bench, card.model, card.other)
    try:
        known = ledger.get("outside_scorecard", key)
    except NotFoundError:
        return ledger.append([Draft(kind="outside_scorecard", key=key, record=record)])[0]
    if known.record["statement"] != record["statement"]:
        raise ConflictError(
            f"bench {card.bench}: has spoken on {card.model[:12]} against {card.other[:12]} (fact {known.seq}), "
            "and a bench speaks once"
        )
    return known


def judge(line: Line, card: OutsideCard) -> gate.Look:
    """What the line's checks say of a scorecard's trials; checks on a slice are about recordings and not asked.

    Raises:
        InvalidInputError: too few trials, or their tallies are not those of the line.
        LineError: the line has no check that can be asked.
    """
    if len(card.trials) < gate.LEAST_PAIRS:
        raise InvalidInputError(f"scorecard.trials: {len(card.trials)}, at least {gate.LEAST_PAIRS} prove anything")
    if len(card.trials) > MOST_TRIALS:
        raise InvalidInputError(f"scorecard.trials: {len(card.trials)}, at most {MOST_TRIALS} are taken")
    sides = [
        [[_tally(getattr(pair, side), f"scorecard.trials[{i}].{side}")] for i, pair in enumerate(card.trials)]
        for side in ("candidate", "other")
    ]
    against: Literal["champion", "baseline"] = "baseline" if card.other == BASELINE else "champion"
    trials = sha256(canonical.dumps(plain(card.trials)))
    mine, theirs = (gate.Side(all=side, digest=trials) for side in sides)
    checks = [c for c in line.checks if c.slice is None]
    try:
        found = gate.look(checks, mine, theirs, line.judging.metrics, against=against, seed=0)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InvalidInputError(
            f"scorecard.trials: line {line.name} cannot pool them ({type(error).__name__}: {error}). "
            "A tally holds what the line's own trials hold"
        ) from error
    if not found.reasons:
        raise LineError(f"line {line.name}: has no check that a bench could be asked against the {against}")
    return found


def accepted(ledger: Ledger, line: str) -> list[Fact]:
    """Verdicts of the line's open turn or examination that accepted a model which neither went out nor was refused."""
    ended = [f.seq for kind in ("turn_ended", "examined") for f in ledger.read(kind=kind) if f.record["line"] == line]
    gone = {f.record["verdict"] for f in ledger.read(kind="release")}
    gone |= {f.key for f in ledger.read(kind="decided") if f.record["word"] == "refused"}
    return [
        f
        for f in ledger.read(kind="verdict", after=max(ended, default=0))
        if f.record["line"] == line and f.record["decision"] == "accepted" and f.key not in gone
    ]


def missing(ledger: Ledger, line: Line, verdict: Verdict) -> list[str]:
    """Benches that must agree and have not spoken on this candidate against this champion; none once one said no."""
    said = _said(ledger, line, verdict)
    return [] if _refusing(said) else [name for name, fact in said.items() if fact is None]


def refuses(ledger: Ledger, line: Line, verdict: Verdict) -> Fact | None:
    """The scorecard of a bench that must agree and does not; None: there is none."""
    return _refusing(_said(ledger, line, verdict))


def settle(ledger: Ledger, line: Line, verdict: Verdict, key: str) -> bool:
    """Whether a bench refuses the model that the gate accepted in the verdict with that key; then its no is entered.

    The no is the fact that a person's no would be, unless a person has spoken: it holds all the same.
    """
    no = refuses(ledger, line, verdict) if verdict.decision == "accepted" else None
    if no is None:
        return False
    try:
        ledger.get("decided", key)
    except NotFoundError:
        unmet = next(said for said in reasons(no) if said.startswith("NOT MET"))
        record = {"line": line.name, "model": verdict.candidate, "word": "refused", "by": f"bench {no.record['bench']}"}
        reason = f"fact {no.seq}: {unmet}"[:_MOST_TEXT]
        ledger.append([Draft(kind="decided", key=key, record={**record, "reason": reason})])
    return True


def sentence(fact: Fact) -> str:
    """What a bench said of a model, in one line."""
    r = fact.record
    met = "met" if r["met"] else "NOT MET"
    return f"bench {r['bench']}: {met} in {r['trials']} trials against {r['other'][:12]} (fact {fact.seq})"


def reasons(fact: Fact) -> list[str]:
    """What came of each check, a line each."""
    return [build(Reason, reason).sentence() for reason in fact.record["reasons"]]


def _read(ledger: Ledger, data: bytes) -> tuple[OutsideCard, str]:
    """The card and its signature by the key of the bench that it names."""
    value = canonical.loads(data)
    signed = value.get("signed") if isinstance(value, dict) else None
    if not isinstance(signed, dict) or signed.get("type") != TYPE:
        raise InvalidInputError(f"scorecard: must be {{'signed': {{'type': '{TYPE}', ...}}, 'signature': hex}}")
    version = signed.get("version")
    if isinstance(version, int) and version > VERSION:
        raise TooNewError("scorecard", found=version, newest_known=VERSION)
    name = checked_name(str(signed.get("bench", "")), "scorecard.bench")
    try:
        public_key = ledger.get("bench", name).record["public_key"]
    except NotFoundError:
        raise NotFoundError(f"bench {name}: was not admitted. See: fleetmill bench add --help") from None
    record, signature = read_statement(public_key, data, what=f"scorecard of bench {name}")
    return build(OutsideCard, record, "scorecard"), signature


def _check_models(ledger: Ledger, card: OutsideCard) -> None:
    for name, digest in (("model", card.model), ("other", card.other)):
        if name == "other" and digest == BASELINE:
            continue
        checked_digest(digest, f"scorecard.{name}")
        try:
            line = ledger.get("model", digest).record["line"]
        except NotFoundError:
            raise NotFoundError(f"scorecard.{name}: no model {digest[:12]} here. See: fleetmill status") from None
        if line != card.line:
            raise InvalidInputError(f"scorecard.{name}: model {digest[:12]} is of line {line}, not {card.line}")
    if card.model == card.other:
        raise InvalidInputError("scorecard.other: is the model itself; a pair needs two")


def _tally(values: Mapping[str, Any], where: str) -> Tally:
    found: dict[str, Any] = {}
    for name, value in values.items():
        try:
            found[name] = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise InvalidInputError(f"{where}.{name[:80]}: must be a number, or numbers in equal lists") from None
        if not np.isfinite(found[name]).all():
            raise InvalidInputError(f"{where}.{name[:80]}: must be finite")
    return found


def _said(ledger: Ledger, line: Line, verdict: Verdict) -> dict[str, Fact | None]:
    found: dict[str, Fact | None] = {}
    for name in line.benches:
        try:
            key = _key(line.name, name, verdict.candidate, verdict.champion or BASELINE)
            found[name] = ledger.get("outside_scorecard", key)
        except NotFoundError:
            found[name] = None
    return found


def _refusing(said: Mapping[str, Fact | None]) -> Fact | None:
    return next((fact for fact in said.values() if fact is not None and not fact.record["met"]), None)


def _key(line: str, bench: str, model: str, other: str) -> str:
    return f"{line}/{bench}/{model[:16]}/{other[:16]}"
