"""The growing curve of a line: what each turn's candidate came to, and what it was compared with."""

from __future__ import annotations

from collections.abc import Sequence

from fleetmill.web.chart import Chart, Point, Series
from fleetmill.web.number import Number, Text
from fleetmill.web.state import Compared, LineSeen
from fleetmill.web.steps import words

_ASIDE = 0.12  # what was compared with stands beside its candidate, not under it


def growing(line: LineSeen, *, id: str) -> Chart:
    """The chart; without a verdict it has no points.

    The bar is the verdict's 95 % interval of the ratio to the other side, drawn at the other's value.
    """
    turns = [c for c in line.compared if c.is_turn]
    elsewhere = [c for c in line.compared if not c.is_turn]
    metric = next((c.metric for c in reversed(line.compared) if c.metric), "")
    better = next((c.better for c in reversed(line.compared) if c.better), "")
    series = [
        Series(name="candidate of the turn", points=tuple(_points(turns))),
        Series(name="what it had to beat, on the same trials", points=tuple(_others(turns)), joined=False),
    ]
    if elsewhere:
        series.append(Series(name="made elsewhere", points=tuple(_points(elsewhere)), joined=False))
    return Chart(
        id=id,
        title=f"{named(metric) or 'headline metric'} of {line.name} by turn",
        description=_description(turns, metric, better),
        x_label="turn",
        y_label=f"{named(metric)} ({better} is better)" if better else named(metric),
        series=tuple(series),
    )


def named(metric: str) -> str:
    """A metric as a person says it."""
    return metric.replace("_", " ")


def short(value: float) -> str:
    """Three figures.

    >>> short(1.4583), short(23104.2), short(0.0)
    ('1.46', '23104', '0')
    """
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _points(found: Sequence[Compared]) -> list[Point]:
    return [
        Point(
            x=_x(c),
            y=c.value,
            low=c.low,
            high=c.high,
            note="" if c.decision == "accepted" else words(c.decision),
            said=_said(c),
            at=f"{'turn' if c.is_turn else 'entered after turn'} {c.number if c.is_turn else c.after_turn - 1}",
        )
        for c in found
        if c.value is not None
    ]


def _others(found: Sequence[Compared]) -> list[Point]:
    return [
        Point(
            x=_x(c) + _ASIDE,
            y=c.other,
            note="baseline" if c.against == "baseline" else "",
            said=_number(c, c.other, "other"),
            at=f"turn {c.number}",
        )
        for c in found
        if c.other is not None
    ]


def _said(c: Compared) -> Text:
    if c.value is None:
        return "not measurable"
    value = _number(c, c.value, "candidate")
    if c.low is None or c.high is None:
        return value
    return [value, " [", _number(c, c.low, "low times other"), ", ", _number(c, c.high, "high times other"), "]"]


def _number(c: Compared, value: float, what: str) -> Number:
    return Number(text=short(value), value=value, fact=c.fact, rule=f"verdict: {what}")


def _x(c: Compared) -> float:
    return float(c.number) if c.is_turn else c.after_turn - 0.5


def _description(turns: Sequence[Compared], metric: str, better: str) -> str:
    if not turns:
        return "No verdict yet. The first turn's candidate must beat the line's baseline, every later one the champion."
    parts = [
        f"turn {c.number}: {short(c.value)} against {short(c.other)} of the {c.against}, {words(c.decision)}"
        for c in turns
        if c.value is not None and c.other is not None
    ]
    return f"{named(metric)}, {better} is better. {'; '.join(parts)}."
