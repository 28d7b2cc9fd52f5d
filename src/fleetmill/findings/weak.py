"""Finding 2: the slices on which the candidate and the champion are weakest, from the turn's scorecards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from fleetmill.core.finding import Evidence, Finding
from fleetmill.core.line import Line
from fleetmill.core.verdict import Scorecard
from fleetmill.findings.failures import rounded
from fleetmill.findings.gather import Seen

MOST_SLICES = 3  # of each side
_MOST_EVIDENCE = 12
_ERRORS = ("mae", "mse", "rmse", "error", "loss")  # what a metric's name ends with when less of it is better
_WHOLE, _MEAN = "the whole", "the mean of the slices"  # the latter where the whole was judged alive, by other metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Weak:
    """One metric on one slice; `worse` above 1 is worse than what it is compared with."""

    slice: str
    metric: str
    value: float
    against: float
    against_what: str
    worse: float


def findings(seen: Seen) -> Iterator[Finding]:
    """The worst slices of each model of the turn; nothing of the baseline, which nobody means to mend."""
    for number, card in seen.cards:
        if card.model == "baseline":
            continue
        side = "candidate" if card.model == seen.verdict.candidate else "champion"
        for weak in weakest(seen.line, card)[:MOST_SLICES]:
            yield Finding(
                kind="weak_slices",
                sentence=(
                    f"{side} {card.model[:12]} is weak on {weak.slice!r}: {weak.metric} {weak.value:.4g}, "
                    f"{weak.against_what} {weak.against:.4g}"
                ),
                numbers={
                    "model": card.model,
                    "side": side,
                    "slice": weak.slice,
                    "metric": weak.metric,
                    "value": rounded(weak.value),
                    "against": rounded(weak.against),
                    "against_what": weak.against_what,
                    "times_worse": rounded(weak.worse),
                    "trials": card.trials,
                },
                evidence=tuple(islice(_evidence(seen, weak.slice), _MOST_EVIDENCE)),
                fact=number,
            )


def weakest(line: Line, card: Scorecard) -> list[Weak]:
    """The slices that are worse than the whole, worst first.

    A metric counts when a check of the line, or its name (it ends with error, loss, mae, mse, rmse), says which way is
    better; the others tell nothing. Only numbers above 0 can be compared by their ratio.
    """
    found = []
    for metric in sorted({m for metrics in card.slices.values() for m in metrics}):
        better, values = _better(line, metric), {n: m[metric] for n, m in card.slices.items() if metric in m}
        whole = card.metrics.get(metric)
        against = whole if whole is not None else sum(values.values()) / len(values)
        if better is None or against <= 0 or (whole is None and len(values) < 2):
            continue
        for name, value in values.items():
            if value > 0 and (value > against if better == "lower" else value < against):
                worse = value / against if better == "lower" else against / value
                what = _WHOLE if whole is not None else _MEAN
                found.append(
                    Weak(slice=name, metric=metric, value=value, against=against, against_what=what, worse=worse)
                )
    return sorted(found, key=lambda w: (-w.worse, w.metric, w.slice))


def _better(line: Line, metric: str) -> str | None:
    asked = {c.better for c in line.checks if c.metric == metric}
    if len(asked) == 1:
        return asked.pop()
    return "lower" if metric.rpartition("_")[2] in _ERRORS else None


def _evidence(seen: Seen, name: str) -> Iterator[Evidence]:
    """Held-out episodes of the slice, as recordings."""
    table = seen.tables.get("held_out")
    for index, place in enumerate(table.places if table else ()):
        session = seen.known.get(f"{place.device}/{place.session}")
        if table is not None and session is not None and seen.line.slices[name](table.episode(index)):
            yield from seen.evidence(session, place.start_ns, place.end_ns)
