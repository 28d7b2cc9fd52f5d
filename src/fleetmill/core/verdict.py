"""Scorecards and verdicts: accepted or not, with every reason and its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Decision = Literal["accepted", "held", "not_enough_evidence"]
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorecard:
    """Metrics of one model version on one plan of trials, in total and by slice."""

    model: str  # digest; "baseline" for the line's baseline
    plan: str  # digest of the plan: which worlds or which recordings
    trials: str  # digest of the tallies: a blob
    number: int
    metrics: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """One check and what came of it. `low` and `high`: 95 % paired bootstrap interval of the ratio."""

    metric: str
    slice: str  # "all"
    better: str
    against: str  # champion, baseline or limit
    candidate: float
    other: float
    ratio: float
    low: float
    high: float
    limit: float
    rule: Literal["bound", "margin", "limit", "forbids"]  # forbids: `candidate` held-out rows are by a source
    pairs: int
    trials: str  # digest of both sides' tallies
    met: bool

    def sentence(self) -> str:
        """The reason in one line."""
        if self.rule == "forbids":
            said = "met" if self.met else "NOT MET"
            return f"{said}: {self.candidate:.0f} held-out {self.metric}, and none may be"
        least = ("below", "above") if self.rule == "bound" else ("at most", "at least")
        told = f"{'met' if self.met else 'NOT MET'}: {self.metric} ({self.slice}) {self.candidate:.4g}"
        must = f"must be {least[self.better != 'lower']} {self.limit:g}; {self.pairs} pairs, trials {self.trials[:12]}"
        if self.rule == "limit":
            return f"{told}, {must}"
        how = {"bound": "one-sided 97.5 % bound", "margin": "point estimate"}[self.rule]
        beside = f"{self.against} {self.other:.4g}: ratio {self.ratio:.3g} [{self.low:.3g}, {self.high:.3g}]"
        return f"{told} against {beside}, {how} {must}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate said of a candidate."""

    line: str
    candidate: str
    champion: str  # ""; judged against the baseline
    dataset: str
    decision: Decision
    reasons: tuple[Reason, ...]
    pairs: int
    plan: str
    unscored: tuple[str, ...] = ()  # held-out sessions that are no pairs: there is nothing to score in them
    extra: Mapping[str, Any] = field(default_factory=dict)

    def sentences(self) -> tuple[str, ...]:
        """Every reason in one line each, then the held-out sessions that were no pairs."""
        told = tuple(reason.sentence() for reason in self.reasons)
        if not self.unscored:
            return told
        names = ", ".join(self.unscored[:_NAMED]) + ", ..." * (len(self.unscored) > _NAMED)
        return (*told, f"nothing to score in {len(self.unscored)} held-out sessions, which are no pairs: {names}")
