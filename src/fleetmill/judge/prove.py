"""Judging: a candidate against the champion (or the line's baseline) on one plan, paired; the verdict with its reasons.

A line with a world is judged alive, on worlds whose seeds are fresh each turn; a line without one on the sessions of
the dataset that are held out. Every number is taken through the line's guard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fleetmill.core import canonical
from fleetmill.core.dataset import DatasetVersion
from fleetmill.core.errors import LineError, NotFoundError
from fleetmill.core.line import Array, Data, Line, Policy, Tally
from fleetmill.core.model import ModelVersion
from fleetmill.core.plain import build, plain
from fleetmill.core.verdict import Scorecard, Verdict
from fleetmill.judge import gate, trials
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.executor import Executor
from fleetmill.seams.ledger import Draft, Ledger
from fleetmill.seams.runtime import Runtime, policies

GATE_SEEDS = 20_000_000  # the gate's worlds: no fleet and no report lives in these


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Both sides' tallies so far, and the held-out sessions that are no pairs since there is nothing to score in."""

    candidate: list[Sequence[Tally]]
    other: list[Sequence[Tally]]
    unscored: list[str]
    candidate_slices: Mapping[str, Sequence[Sequence[Tally]]]
    other_slices: Mapping[str, Sequence[Sequence[Tally]]]


def prove(
    ledger: Ledger,
    blobs: Blobs,
    executor: Executor,
    runtime: Runtime,
    line: Line,
    *,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    dataset: str,
    train: Data,
    held_out: Data,
    turn: int,
    seed: int,
) -> Verdict:
    """The verdict; judging the same candidate in the same turn again gives the first verdict back."""
    plan = {"turn": turn, "seed": seed, "dataset": dataset, "live": line.world is not None}
    name = key(line, turn, candidate)
    try:
        return build(Verdict, ledger.get("verdict", name).record)
    except NotFoundError:
        pass
    against: Literal["champion", "baseline"] = "champion" if champion else "baseline"
    fit = line.judging.baseline
    baseline = fit(train) if fit is not None and champion is None else None
    if champion is None and baseline is None:
        raise LineError(f"line {line.name}: has no champion yet and no baseline; a first model must beat something")
    sources = _sources(ledger, line, dataset)
    judge = _Judge(line, blobs, executor, runtime, candidate, champion, baseline, held_out, sources)
    sides, last = judge.run(against, turn=turn, seed=seed)
    mine, theirs = judge.cards(sides, canonical.digest(plan))
    verdict = Verdict(
        line=line.name,
        candidate=candidate.digest,
        champion=champion.digest if champion else "",
        dataset=dataset,
        decision=gate.decision(last, pairs=len(sides.candidate)),
        reasons=last.reasons,
        pairs=len(sides.candidate),
        unscored=tuple(sides.unscored),
        plan=canonical.digest(plan),
    )
    cards = [Draft(kind="scorecard", key=f"{name}/{c.model[:16]}", record=plain(c)) for c in (mine, theirs)]
    ledger.append([*cards, Draft(kind="verdict", key=name, record=plain(verdict))])
    return verdict


def key(line: Line, turn: int, candidate: ModelVersion) -> str:
    """Names the verdict in the ledger."""
    return f"{line.name}/{turn}/{candidate.digest[:16]}"


def examples(line: Line, data: Data, frames: int) -> dict[str, Array]:
    """Input ports with batch axis first, from rows spread over the data: what golden frames are asked with.

    A state port gets zeros, as after a reset; a port with history its frame repeated.
    """
    rows = np.unique(np.linspace(0, int(data.bounds()[-1]) - 1, frames).astype(np.int64))
    found: dict[str, Array] = {}
    for port in line.model.inputs:
        if port.feature is None:
            found[port.name] = np.zeros((len(rows), *port.shape), port.dtype)
            continue
        values = np.asarray(data.column(port.feature)[rows]).astype(port.dtype)
        found[port.name] = values if port.history == 1 else np.stack([values] * port.history, axis=1)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """Recorded sessions as both sides came through them."""

    candidate: Sequence[Sequence[Tally]]
    other: Sequence[Sequence[Tally]]
    unscored: Sequence[str]


class _Judge:
    """What one judging needs at hand."""

    def __init__(
        self,
        line: Line,
        blobs: Blobs,
        executor: Executor,
        runtime: Runtime,
        candidate: ModelVersion,
        champion: ModelVersion | None,
        baseline: Policy | None,
        held_out: Data,
        sources: Mapping[str, int],
    ) -> None:
        self._line, self._blobs, self._executor, self._runtime = line, blobs, executor, runtime
        self._candidate, self._champion, self._baseline = candidate, champion, baseline
        self._held_out, self._sources = held_out, sources

    def run(self, against: Literal["champion", "baseline"], *, turn: int, seed: int) -> tuple[Sides, gate.Look]:
        """Look until the gate accepts or no pairs are left."""
        mine, theirs = (
            trials.sliced(self._line, self._policy(model), self._held_out)
            for model in (self._file(self._candidate), self._champion_file())
        )
        slices = {name: self._paired(mine[name], theirs[name], least=1) for name in mine}
        sides = Sides(
            candidate=[],
            other=[],
            unscored=[],
            candidate_slices={name: pairs.candidate for name, pairs in slices.items()},
            other_slices={name: pairs.other for name, pairs in slices.items()},
        )
        last = gate.Look(accepted=False, reasons=())
        for upto in self._line.judging.looks if self._line.world else (0,):
            self._add(sides, upto, turn=turn, seed=seed)
            last = gate.look(
                self._line.checks,
                _side(sides.candidate, sides.candidate_slices),
                _side(sides.other, sides.other_slices),
                self._line.judging.metrics,
                against=against,
                seed=seed + turn,
                sources=self._sources,
            )
            if last.accepted:
                break
        return sides, last

    def cards(self, sides: Sides, plan: str) -> tuple[Scorecard, Scorecard]:
        """Both sides' scorecards; the tallies are kept as blobs."""
        champion = self._champion.digest if self._champion else "baseline"
        return (
            self._card(self._candidate.digest, sides.candidate, sides.candidate_slices, plan),
            self._card(champion, sides.other, sides.other_slices, plan),
        )

    def _add(self, sides: Sides, upto: int, *, turn: int, seed: int) -> None:
        mine, theirs = self._file(self._candidate), self._champion_file()
        if self._line.world is None:
            replayed = (trials.replayed(self._line, self._policy(side), self._held_out) for side in (mine, theirs))
            pairs = self._paired(*replayed)
            sides.candidate.extend(pairs.candidate)
            sides.other.extend(pairs.other)
            sides.unscored.extend(pairs.unscored)
            return
        first = GATE_SEEDS + 100_000 * seed + 1_000 * turn
        seeds = range(first + len(sides.candidate), first + upto)
        for side, model in ((sides.candidate, mine), (sides.other, theirs)):
            side.extend(
                trials.live_side(
                    self._line, self._executor, self._runtime, model=model, seeds=seeds, baseline=self._baseline
                )
            )

    def _paired(self, mine: trials.BySession, theirs: trials.BySession, *, least: int = 0) -> _Pairs:
        """Both sides of the sessions in which there is something to score; of all where `least` would not be left."""
        unscored = trials.unscored(self._line, mine, theirs)
        kept = [name for name in mine if name not in unscored or len(mine) - len(unscored) < least]
        return _Pairs(candidate=[mine[n] for n in kept], other=[theirs[n] for n in kept], unscored=unscored)

    def _policy(self, model: bytes | None) -> Policy:
        if model is None:
            if self._baseline is None:
                raise LineError(f"line {self._line.name}: has no baseline")
            return self._baseline
        return policies(self._line, self._runtime, {"model.onnx": model})

    def _file(self, model: ModelVersion) -> bytes:
        return self._blobs.get(model.files["model.onnx"])

    def _champion_file(self) -> bytes | None:
        return self._file(self._champion) if self._champion else None

    def _card(
        self,
        model: str,
        side: list[Sequence[Tally]],
        slices: Mapping[str, Sequence[Sequence[Tally]]],
        plan: str,
    ) -> Scorecard:
        """Metrics on the plan's trials; slices on the recorded episodes that are held out."""
        digest, data = trials.digest(side)
        self._blobs.put(data)

        def pooled(chosen: Sequence[Sequence[Tally]]) -> dict[str, float]:
            return gate.finite(self._line.judging.metrics([t for trial in chosen for t in trial])) if chosen else {}

        return Scorecard(
            model=model,
            plan=plan,
            trials=digest,
            number=len(side),
            metrics=pooled(side),
            slices={name: pooled(chosen) for name, chosen in slices.items()},
        )


def _sources(ledger: Ledger, line: Line, dataset: str) -> dict[str, int]:
    """Held-out rows by who labelled them from outside; not looked up where no check asks."""
    if not any(check.forbids for check in line.checks):
        return {}
    return build(DatasetVersion, ledger.get("dataset", dataset).record["manifest"]).sources("held_out")


def _side(tallies: list[Sequence[Tally]], slices: Mapping[str, Sequence[Sequence[Tally]]]) -> gate.Side:
    return gate.Side(all=tallies, digest=trials.digest(tallies)[0], slices=slices)
