"""Small drawings as inline SVG: bars of a count per session, and the last seconds of a machine without a camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from fleetmill.web.glimpse import SECONDS, Curves, Glimpse

_BAR, _GAP, _TALL = 5, 2, 22
_WIDTH, _STRIP, _HEAD = 240, 34, 14


def bars(counts: Sequence[int | None], what: str) -> str:
    """A bar per session, oldest first; a session that was not looked into is a dash, one with none a dot of a line."""
    if not counts:
        return ""
    width, most = len(counts) * (_BAR + _GAP), max([1, *(c for c in counts if c is not None)])
    found = []
    for i, count in enumerate(counts):
        x = i * (_BAR + _GAP)
        tall = 1.0 if not count else max(3.0, _TALL * count / most)
        kind = "gap" if count is None else "none" if count == 0 else "some"
        found.append(f'<rect class="{kind}" x="{x}" y="{_TALL - tall:.1f}" width="{_BAR}" height="{tall:.1f}"/>')
    said = ", ".join("not read" if c is None else str(c) for c in counts)
    return (
        f'<svg class="bars" width="{width}" height="{_TALL}" viewBox="0 0 {width} {_TALL}" role="img" '
        f'focusable="false"><title>{escape(what)}: {said}</title>{"".join(found)}</svg>'
    )


def strips(seen: Glimpse, what: str) -> str:
    """The last seconds, one strip per channel, shaded where the safety driver held the machine."""
    height = len(seen.curves) * (_STRIP + _HEAD)
    span = max((-c.times_s[0] for c in seen.curves), default=SECONDS) or 1.0
    inside = [_strip(curves, i, span, seen.held_s) for i, curves in enumerate(seen.curves)]
    names = ", ".join(c.topic for c in seen.curves)
    return (
        f'<svg class="strips" viewBox="0 0 {_WIDTH} {height}" role="img" focusable="false">'
        f"<title>{escape(what)}: last {span:.1f} s of {escape(names)}"
        f"{'; shaded: held by the safety driver' if seen.held_s else ''}</title>{''.join(inside)}</svg>"
    )


def _strip(curves: Curves, index: int, span: float, held: Sequence[tuple[float, float]]) -> str:
    top = index * (_STRIP + _HEAD) + _HEAD
    finite = [v for row in curves.values for v in row if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    room = (high - low) or 1.0

    def x(time_s: float) -> float:
        return _WIDTH * (1 + max(time_s, -span) / span)

    def path(row: Sequence[float]) -> str:
        places = [
            f"{x(t):.1f} {top + _STRIP - 2 - (v - low) / room * (_STRIP - 4):.1f}"
            for t, v in zip(curves.times_s, row, strict=True)
            if math.isfinite(v)
        ]
        return "M" + "L".join(places) if places else ""

    inside = [
        f'<rect class="hold" x="{x(a):.1f}" y="{top}" width="{x(b) - x(a):.1f}" height="{_STRIP}"/>' for a, b in held
    ]
    inside += [f'<path class="c{i}" d="{path(row)}"/>' for i, row in enumerate(curves.values)]
    shown = len(curves.values)
    name = curves.topic if shown == curves.components else f"{curves.topic}, {shown} of {curves.components}"
    return (
        f'<text x="0" y="{top - 4}">{escape(name[:34])}</text>'
        f'<rect class="frame" x=".5" y="{top + 0.5}" width="{_WIDTH - 1}" height="{_STRIP - 1}"/>{"".join(inside)}'
    )
