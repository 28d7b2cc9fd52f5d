"""The rule of the gate: paired trials in, a decision with every reason out. Touches nothing.

Semantics of a `Check` against champion or baseline: with a limit of exactly 1 it asks for superiority, decided by the
one-sided 97.5 % bound of the paired bootstrap; any other limit is a margin on the ratio of the point estimates. The
gate looks after 16, 24, 32 and 40 pairs and accepts at the first look at which every check is met.

Error rates of this rule, simulated on recorded tracks (docs/gate.md): 7 % false accepts, 93 % power, about 20 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fleetmill.core.errors import LineError
from fleetmill.core.evidence import Ratio, ratios
from fleetmill.core.line import Check, Metrics, Tally
from fleetmill.core.verdict import Decision, Reason

_BEYOND = 1.7e308
_NOT_MEASURABLE = -1.0  # as JSON, which has no NaN
LEAST_PAIRS = 3  # fewer sessions or worlds prove nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Tallies by slice; trial i of both sides is one pair. A trial may hold several tallies (a session's episodes)."""

    all: Sequence[Sequence[Tally]]
    digest: str
    slices: Mapping[str, Sequence[Sequence[Tally]]] = field(default_factory=dict)

    def of(self, name: str | None) -> Sequence[Sequence[Tally]]:
        """The trials of a slice, or all.

        Raises:
            LineError: no recorded episode that is held out belongs to the slice.
        """
        if name is None:
            return self.all
        if name not in self.slices:
            raise LineError(f"check on slice {name!r}: no recorded episode that is held out belongs to it")
        return self.slices[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one look at the pairs said."""

    accepted: bool
    reasons: tuple[Reason, ...]


def look(
    checks: Sequence[Check],
    candidate: Side,
    other: Side,
    metrics: Callable[[Sequence[Tally]], Metrics],
    *,
    against: Literal["champion", "baseline"],
    seed: int,
    sources: Mapping[str, int] | None = None,
) -> Look:
    """Ask every check that can be asked of `candidate` against `other` (the champion, or the line's baseline).

    `sources`: held-out rows by who labelled them from outside; None: these trials are of no held-out rows of ours.
    """
    if not candidate.all:
        return Look(accepted=False, reasons=())
    asked = [c for c in checks if c.against in (against, "limit") and (c.first or against == "champion")]
    found = {
        (name, r.metric): r
        for name in {c.slice for c in asked}
        for r in _ratios([c for c in asked if c.slice == name], candidate.of(name), other.of(name), metrics, seed=seed)
    }
    trials = f"{candidate.digest[:32]}{other.digest[:32]}"
    reasons = tuple(_reason(check, found[check.slice, check.metric], trials) for check in asked)
    if sources is not None:
        names = sorted({name for check in asked for name in check.forbids})
        reasons += tuple(_by(name, sources.get(name, 0), len(candidate.all), trials) for name in names)
    enough = len(candidate.all) >= LEAST_PAIRS
    return Look(accepted=enough and bool(reasons) and all(r.met for r in reasons), reasons=reasons)


def decision(last: Look, *, pairs: int) -> Decision:
    """Accepted, held, or not enough evidence: held only when the numbers point the wrong way or a margin is broken.

    A superiority check whose point estimate is on the right side but whose bound is not, with every other check met,
    is a lack of evidence and is called that.
    """
    if last.accepted:
        return "accepted"
    if pairs < LEAST_PAIRS:
        return "not_enough_evidence"
    unmet = [r for r in last.reasons if not r.met]
    undecided = all(r.rule == "bound" and _is_right_side(r) for r in unmet)
    return "not_enough_evidence" if undecided else "held"


def _ratios(
    checks: Sequence[Check],
    candidate: Sequence[Sequence[Tally]],
    other: Sequence[Sequence[Tally]],
    metrics: Callable[[Sequence[Tally]], Metrics],
    *,
    seed: int,
) -> list[Ratio]:
    def pool(trials: Sequence[Sequence[Tally]]) -> Metrics:
        return metrics([tally for trial in trials for tally in trial])

    return ratios(sorted({c.metric for c in checks}), candidate, other, pool, seed=seed)


def _reason(check: Check, r: Ratio, trials: str) -> Reason:
    rule: Literal["bound", "margin", "limit"] = (
        "limit" if check.against == "limit" else "bound" if check.limit == 1.0 else "margin"
    )
    lower = check.better == "lower"
    value = {"limit": r.a, "margin": r.value, "bound": r.high if lower else r.low}[rule]
    if rule == "bound":
        met = value < check.limit if lower else value > check.limit
    else:
        met = value <= check.limit if lower else value >= check.limit
    return Reason(
        metric=check.metric,
        slice=check.slice or "all",
        better=check.better,
        against=check.against,
        candidate=_finite(r.a),
        other=_finite(r.b),
        ratio=_finite(r.value),
        low=_finite(r.low),
        high=_finite(r.high),
        limit=check.limit,
        rule=rule,
        pairs=r.pairs,
        trials=trials,
        met=met and not math.isnan(value),
    )


def _by(source: str, rows: int, pairs: int, trials: str) -> Reason:
    """That a source of labels is forbidden in held-out data, and how many rows are by it."""
    return Reason(
        metric=f"rows labelled by {source}",
        slice="all",
        better="lower",
        against="limit",
        candidate=float(rows),
        other=0.0,
        ratio=_NOT_MEASURABLE,
        low=_NOT_MEASURABLE,
        high=_NOT_MEASURABLE,
        limit=0.0,
        rule="forbids",
        pairs=pairs,
        trials=trials,
        met=rows == 0,
    )


def _is_right_side(reason: Reason) -> bool:
    if _NOT_MEASURABLE in (reason.candidate, reason.other):
        return True  # it points nowhere: that is a lack of evidence
    return reason.ratio < 1 if reason.better == "lower" else reason.ratio > 1


def finite(metrics: Metrics) -> dict[str, float]:
    """Metrics as JSON can hold them; what could not be measured is left out."""
    return {name: _finite(value) for name, value in metrics.items() if not math.isnan(value)}


def written(value: float, form: str) -> str:
    """A number that `finite` made, in `form` (a format specification); beyond all bounds is shown as such.

    >>> written(1.7e308, ".3g"), written(0.5, ".3g")
    ('∞', '0.5')
    """
    if abs(value) >= _BEYOND:
        return "∞" if value > 0 else "-∞"
    return format(value, form)


def _finite(value: float) -> float:
    """JSON holds neither infinity nor NaN: the largest float says "beyond all bounds", -1 "not measurable"."""
    if math.isnan(value):
        return _NOT_MEASURABLE
    return min(max(value, -_BEYOND), _BEYOND)
