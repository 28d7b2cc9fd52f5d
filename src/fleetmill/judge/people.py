"""People decide: with ``approval = required`` nothing that the gate accepted goes out before somebody said yes.

A person can stop what the gate let through. Nobody can let through what the gate held.
"""

from __future__ import annotations

from typing import Literal

from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError
from fleetmill.seams.ledger import Draft, Fact, Ledger

Word = Literal["approved", "refused"]
_MOST_TEXT = 500
_LEAST_DIGITS = 6


def decide(ledger: Ledger, model: str, *, word: Word, by: str, reason: str) -> Fact:
    """Enter what a person decided on the model whose digest begins with `model`. Saying the same again changes nothing.

    Raises:
        NotFoundError: the gate has judged no such model.
        ConflictError: the gate held it, it went out before, or somebody decided otherwise.
        InvalidInputError: no name or no reason, or fewer than 6 digits, or more than one model is meant.
    """
    for name, text in (("--as", by), ("--reason", reason)):
        if not text.strip() or len(text) > _MOST_TEXT:
            raise InvalidInputError(f"{name}: give from 1 to {_MOST_TEXT} characters; it stays in the ledger")
    verdict = _verdict(ledger, model)
    digest = verdict.record["candidate"][:12]
    if verdict.record["decision"] != "accepted":
        raise ConflictError(f"model {digest}: the gate said {verdict.record['decision']}; nobody can let it through")
    known = decision(ledger, verdict.key)
    if known is None and verdict.key in _released(ledger):
        raise ConflictError(f"model {digest}: went out already without a decision. Set approval = required to be asked")
    record = {"line": verdict.record["line"], "model": verdict.record["candidate"], "word": word, "by": by}
    try:
        return ledger.append([Draft(kind="decided", key=verdict.key, record={**record, "reason": reason})])[0]
    except ConflictError:
        said = known.record if known else {"word": "decided", "by": "somebody"}
        raise ConflictError(f"model {digest}: {said['by']} has {said['word']} it. The decision stands") from None


def decision(ledger: Ledger, verdict_key: str) -> Fact | None:
    """What a person decided after that verdict; None: nobody did."""
    try:
        return ledger.get("decided", verdict_key)
    except NotFoundError:
        return None


def undecided(ledger: Ledger, line: str) -> list[Fact]:
    """Verdicts that accepted a model which neither went out nor was decided on."""
    settled = _released(ledger) | {f.key for f in ledger.read(kind="decided")}
    return [f for f in _accepted(ledger) if f.record["line"] == line and f.key not in settled]


def _accepted(ledger: Ledger) -> list[Fact]:
    return [f for f in ledger.read(kind="verdict") if f.record["decision"] == "accepted"]


def _released(ledger: Ledger) -> set[str]:
    return {f.record["verdict"] for f in ledger.read(kind="release")}


def _verdict(ledger: Ledger, model: str) -> Fact:
    """The last verdict on the model."""
    if len(model) < _LEAST_DIGITS:
        raise InvalidInputError(f"model {model!r}: give at least {_LEAST_DIGITS} digits. See: fleetmill status")
    found = [f for f in ledger.read(kind="verdict") if f.record["candidate"].startswith(model)]
    if not found:
        raise NotFoundError(f"model {model!r}: the gate has judged no such model. See: fleetmill status")
    if len({f.record["candidate"] for f in found}) > 1:
        raise InvalidInputError(f"model {model}: more than one begins so. Give more digits")
    return found[-1]
