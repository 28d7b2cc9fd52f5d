"""What was said of a model and where it is: verdicts, releases, the devices that run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetmill.core.plain import build
from fleetmill.core.verdict import Verdict
from fleetmill.judge import outside
from fleetmill.seams.ledger import Fact, Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One verdict on a model, each reason as a sentence."""

    turn: int  # from 1000 on no turn: the judging of a model that was made elsewhere
    decision: str
    against: str  # digest of the champion of then; "": the line's baseline
    dataset: str
    reasons: tuple[str, ...]  # and the held-out sessions that were no pairs
    decided: str  # what a person said of it afterwards; "": nobody did
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Out:
    """One release of a model."""

    counter: int
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What became of a model so far."""

    verdicts: tuple[Judgement, ...]
    releases: tuple[Out, ...]
    running: tuple[str, ...]  # devices
    benches: tuple[str, ...] = ()  # what outside benches said of it


class Standings:
    """The standing of any model, from facts that are read once."""

    def __init__(self, ledger: Ledger) -> None:
        self._files = {f.key: f.record["files"].get("model.onnx", "") for f in ledger.read(kind="model")}
        self._verdicts: dict[str, list[Fact]] = {}
        for fact in ledger.read(kind="verdict"):
            self._verdicts.setdefault(fact.record["candidate"], []).append(fact)
        self._releases: dict[str, list[Fact]] = {}
        for fact in ledger.read(kind="release"):
            self._releases.setdefault(fact.record["model"], []).append(fact)
        self._decided = {f.key: f.record for f in ledger.read(kind="decided")}
        self._running = running(ledger)
        self._benches: dict[str, list[str]] = {}
        for fact in ledger.read(kind="outside_scorecard"):
            self._benches.setdefault(fact.record["model"], []).append(outside.sentence(fact))

    def of(self, model: str) -> Standing:
        """The standing of one model version."""
        file = self._files.get(model, "")
        return Standing(
            verdicts=tuple(_judgement(f, self._decided.get(f.key)) for f in self._verdicts.get(model, [])),
            releases=tuple(
                Out(counter=f.record["counter"], fact=f.seq)
                for f in sorted(self._releases.get(model, []), key=lambda f: int(f.record["counter"]))
            ),
            running=tuple(sorted(d for d, runs in self._running.items() if runs == file and file)),
            benches=tuple(self._benches.get(model, [])),
        )


def running(ledger: Ledger) -> dict[str, str]:
    """Digest of the model file that each device runs by its last signed word, if it ever confirmed that file.

    A later report of something refused or failed names what runs instead, so the last word counts, not the last
    confirmation.
    """
    last: dict[str, str] = {}
    confirmed: set[tuple[str, str]] = set()
    for fact in ledger.read(kind="deployment"):
        report: dict[str, Any] = fact.record["report"]
        last[report["device"]] = report["running"]
        if report["state"] == "confirmed":
            confirmed.add((report["device"], report["running"]))
    return {device: file for device, file in last.items() if (device, file) in confirmed}


def _judgement(fact: Fact, decided: Mapping[str, Any] | None) -> Judgement:
    record = fact.record
    return Judgement(
        turn=int(fact.key.split("/")[1]),  # line/turn/candidate
        decision=record["decision"],
        against=record["champion"],
        dataset=record["dataset"],
        reasons=build(Verdict, record).sentences(),
        decided=f"{decided['word']} by {decided['by']}: {decided['reason']}" if decided else "",
        fact=fact.seq,
    )
