"""A chart as inline SVG, made on the server: points with error bars, lines, a band, words at points.

Colours come from classes, so that a page's style decides them, in light and dark; each series has a mark and a dash of
its own, so that colour is never what tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fleetmill.web.number import Text

WIDTH, HEIGHT = 560.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 68.0, 18.0, 16.0, 50.0
_MARKS = ("circle", "square", "diamond", "triangle")
_SIZE, _CAP = 5.0, 5.0
_HALF_LETTER, _NOTE_HEIGHT = 4.4, 17.0  # half of a note's letter, its line: as large as they are on a narrow page


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A point; `low` and `high` are the ends of its bar, `note` stands beside it, `said` in the table below."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    said: Text = ()
    at: Text = ""  # what x means there, for the table


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one kind, in the order of x; `joined` by a line or standing alone."""

    name: str
    points: tuple[Point, ...]
    joined: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """A level with its interval over the whole width."""

    name: str
    y: float
    low: float | None = None
    high: float | None = None
    said: Text = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """What is drawn; x is counted in whole numbers."""

    id: str  # unique on its page
    title: str
    description: str  # what it shows, for those who cannot see it
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    bands: tuple[Band, ...] = ()

    @property
    def svg(self) -> str:
        """The drawing."""
        return draw(self)

    def mark(self, index: int) -> str:
        """The small drawing that stands for a series in the key."""
        return (
            f'<svg class="mark" width="34" height="14" viewBox="0 0 34 14" aria-hidden="true" focusable="false">'
            f'<g class="series s{index % 4}">'
            + ('<path class="join" d="M2 7H32"/>' if self.series[index].joined else "")
            + f"{_mark(index, 17.0, 7.0)}</g></svg>"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """From values to places on the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - _TOP - _BOTTOM)


def draw(chart: Chart) -> str:
    """The SVG of a chart; one without points is a frame that says so."""
    scale, steps = _scale(chart)
    inside = [
        f'<title id="{chart.id}-t">{escape(chart.title)}</title>',
        f'<desc id="{chart.id}-d">{escape(chart.description)}</desc>',
        *_grid(scale, steps),
        *_x_axis(chart, scale),
        *_labels(chart),
        *(piece for band in chart.bands for piece in _band(band, scale)),
        *(_series(number, series, scale) for number, series in enumerate(chart.series)),
    ]
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-labelledby="{chart.id}-t {chart.id}-d" focusable="false">{"".join(inside)}</svg>'
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high].

    >>> ticks(0, 13.5)
    [0.0, 5.0, 10.0, 15.0]
    >>> ticks(0.93, 0.98)
    [0.92, 0.94, 0.96, 0.98]
    """
    span = high - low if high > low else max(abs(high), 1.0)
    rough = span / max(about - 1, 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _scale(chart: Chart) -> tuple[_Scale, list[float]]:
    points = [p for s in chart.series for p in s.points]
    drawn: list[Point | Band] = [*points, *chart.bands]
    levels = [v for p in drawn for v in (p.y, p.low, p.high) if v is not None and math.isfinite(v)]
    steps = ticks(min([0.0, *levels]), max(levels, default=1.0))
    xs = [p.x for p in points] or [0.0]
    left, right = min(xs), max(xs)
    room = max((right - left) * 0.06, 0.35)
    return _Scale(x_low=left - room, x_high=right + room, y_low=steps[0], y_high=steps[-1]), steps


def _grid(scale: _Scale, steps: Sequence[float]) -> list[str]:
    digits = max((len(f"{s:g}".partition(".")[2]) for s in steps), default=0)
    found = []
    for step in steps:
        y = scale.y(step)
        kind = "axis" if step == 0 else "grid"
        found.append(f'<path class="{kind}" d="M{_LEFT:g} {y:.1f}H{WIDTH - _RIGHT:g}"/>')
        found.append(f'<text class="tick" x="{_LEFT - 6:g}" y="{y:.1f}" dy=".35em" text-anchor="end">')
        found.append(f"{step:.{digits}f}</text>")
    return found


def _x_axis(chart: Chart, scale: _Scale) -> list[str]:
    found = _whole(chart)
    every = max(math.ceil(len(found) / 12), 1)
    y = HEIGHT - _BOTTOM + 8
    return [
        f'<text class="tick" x="{scale.x(x):.1f}" y="{y:g}" dy=".8em" text-anchor="middle">{x}</text>'
        for x in found[::every]
    ]


def _whole(chart: Chart) -> list[int]:
    xs = [p.x for s in chart.series for p in s.points]
    return list(range(math.ceil(min(xs)), math.floor(max(xs)) + 1)) if xs else []


def _labels(chart: Chart) -> list[str]:
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    empty = not any(s.points for s in chart.series)
    return [
        f'<text class="label" x="{(WIDTH + _LEFT) / 2:g}" y="{HEIGHT - 8:g}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>",
        f'<text class="label" transform="translate(14 {middle:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y_label)}</text>",
        f'<text class="label" x="{WIDTH / 2:g}" y="{middle:g}" text-anchor="middle">no point yet</text>'
        if empty
        else "",
    ]


def _band(band: Band, scale: _Scale) -> list[str]:
    found = []
    if band.low is not None and band.high is not None:
        top, bottom = scale.y(band.high), scale.y(band.low)
        found.append(
            f'<rect class="band" x="{_LEFT:g}" y="{top:.1f}" width="{WIDTH - _LEFT - _RIGHT:g}" '
            f'height="{max(bottom - top, 1.0):.1f}"/>'
        )
    y = scale.y(band.y)
    found.append(f'<path class="level" d="M{_LEFT:g} {y:.1f}H{WIDTH - _RIGHT:g}"/>')
    below = y < _TOP + 24
    found.append(
        f'<text class="note" x="{WIDTH - _RIGHT - 4:g}" y="{y + (16 if below else -7):.1f}" text-anchor="end">'
        f"{escape(band.name)}</text>"
    )
    return found


def _series(number: int, series: Series, scale: _Scale) -> str:
    places = [(scale.x(p.x), scale.y(p.y)) for p in series.points]
    join = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    inside = [f'<path class="join" d="{join}"/>'] if series.joined and len(places) > 1 else []
    for point, (x, y) in zip(series.points, places, strict=True):
        inside += [_bar(point, x, scale), _mark(number, x, y)]
    inside += _notes(series.points, scale)
    return f'<g class="series s{number % 4}">{"".join(inside)}</g>'


def _bar(point: Point, x: float, scale: _Scale) -> str:
    if point.low is None or point.high is None:
        return ""
    top, bottom = scale.y(point.high), scale.y(point.low)
    return (
        f'<path class="bar" d="M{x:.1f} {top:.1f}V{bottom:.1f}'
        f'M{x - _CAP:.1f} {top:.1f}h{2 * _CAP:g}M{x - _CAP:.1f} {bottom:.1f}h{2 * _CAP:g}"/>'
    )


def _notes(points: Sequence[Point], scale: _Scale) -> list[str]:
    """Above the points and their bars, in the middle where there is room; what would lie on the last stands higher."""
    found: list[str] = []
    ends, last_y = 0.0, 0.0
    for point in (p for p in points if p.note):
        x, half = scale.x(point.x), len(point.note) * _HALF_LETTER
        anchor = "start" if x - half < _LEFT else "end" if x + half > WIDTH - _RIGHT else "middle"
        x += {"start": -_SIZE, "end": _SIZE, "middle": 0.0}[anchor]
        begins = x - {"start": 0, "end": 2, "middle": 1}[anchor] * half
        y = max(scale.y(max(point.y, point.high or point.y)) - _SIZE - 4, _TOP + 8)
        if begins < ends and abs(y - last_y) < _NOTE_HEIGHT:
            y = last_y - _NOTE_HEIGHT if last_y - _NOTE_HEIGHT >= _TOP + 8 else last_y + _NOTE_HEIGHT
        ends, last_y = begins + 2 * half, y
        found.append(f'<text class="note" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(point.note)}</text>')
    return found


def _mark(number: int, x: float, y: float) -> str:
    kind, r = _MARKS[number % len(_MARKS)], _SIZE
    if kind == "circle":
        return f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'
    if kind == "square":
        return f'<rect class="point" x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:g}" height="{2 * r:g}"/>'
    if kind == "diamond":
        shape = f"{x:.1f} {y - r - 1:.1f}l{r + 1:g} {r + 1:g}l{-r - 1:g} {r + 1:g}l{-r - 1:g} {-r - 1:g}z"
    else:
        shape = f"{x:.1f} {y - r - 1:.1f}l{r + 1:g} {2 * r:g}h{-2 * r - 2:g}z"
    return f'<path class="point" d="M{shape}"/>'
