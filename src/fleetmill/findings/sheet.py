"""Contact sheets: what a camera saw around each of a few moments, or numbers as small lines where there is no camera.

Pure: the same moments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import simplejpeg

from fleetmill.core.errors import IntegrityError
from fleetmill.core.line import Array, Message
from fleetmill.findings.letters import HIGH, WIDE, written

OFFSETS_SECONDS = (-1.0, -0.5, -0.2, 0.0, 0.5)  # of the pictures in a row; 0 is the moment itself
_TILE = 150  # points that a picture is about wide
_GAP = 6
_PAPER, _INK, _FAINT, _MARK, _NOTHING = 250, 30, 110, (200, 40, 30), 225
_QUALITY = 92
_PANEL = (270, 64)  # points of a panel with lines
_COLOURS = ("#1b5fa8", "#c8501e", "#2b8a3e", "#7a3b9a", "#8a6d1b", "#4a4a4a")
_MOST_LINES = 6  # in one panel; of a longer feature those that move most


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """One row: a label and a picture per offset, uint8 (H, W, 3); None where nothing was recorded."""

    label: str
    pictures: tuple[Array | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """One row: a label, seconds from the moment (T,) and values (T, N) by feature."""

    label: str
    seconds: Mapping[str, Array]
    values: Mapping[str, Array]


def photographs(title: str, rows: Sequence[Pictures]) -> bytes:
    """A JPEG: a row of pictures per moment, the moment itself framed."""
    shape = next((p.shape for row in rows for p in row.pictures if p is not None), (1, 1, 3))
    high, wide = _fitted(np.zeros(shape, np.uint8)).shape[:2]
    line = 2 * HIGH + _GAP
    width = max(_GAP + len(OFFSETS_SECONDS) * (wide + _GAP), 2 * _GAP + 2 * WIDE * 60)
    titles = _wrapped(title, (width - 2 * _GAP) // (2 * WIDE))
    top = (len(titles) + 1) * line + 2 * _GAP
    paper = np.full((top + len(rows) * (line + high + _GAP) + _GAP, width, 3), _PAPER, np.uint8)
    for index, text in enumerate(titles):
        _write(paper, text, _GAP, _GAP + index * line, _INK)
    for column, offset in enumerate(OFFSETS_SECONDS):
        _write(paper, _offset(offset), _GAP + column * (wide + _GAP), len(titles) * line + _GAP, _FAINT)
    for index, row in enumerate(rows):
        y = top + index * (line + high + _GAP)
        _write(paper, row.label, _GAP, y, _INK)
        for column, picture in enumerate(row.pictures):
            _put(paper, picture, _GAP + column * (wide + _GAP), y + line, (high, wide), OFFSETS_SECONDS[column] == 0)
    return bytes(simplejpeg.encode_jpeg(paper, quality=_QUALITY, colorspace="RGB", colorsubsampling="444"))


def plots(title: str, rows: Sequence[Lines]) -> bytes:
    """An SVG: a row per moment, a panel per feature, its values as lines from before to after the moment."""
    names = sorted({name for row in rows for name in row.values})
    wide, high = _PANEL
    width, top = 12 + max(len(names), 2) * (wide + 12), 64
    held = {name: [row.values[name] for row in rows if name in row.values] for name in names}
    chosen = {name: _liveliest(values) for name, values in held.items()}
    limits = {name: _limits([v[:, chosen[name]] for v in values]) for name, values in held.items()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + len(rows) * (high + 30)}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="#fafafa"/>',
        f'<text x="12" y="22" font-size="14">{escape(title)}</text>',
    ]
    for column, name in enumerate(names):
        said = f"{name}, {_scale(limits[name], held[name][0].shape[1])}"
        parts.append(f'<text x="{12 + column * (wide + 12)}" y="48" fill="#666">{escape(said)}</text>')
    for index, row in enumerate(rows):
        y = top + index * (high + 30)
        parts.append(f'<text x="12" y="{y + 10}">{escape(row.label)}</text>')
        for column, name in enumerate(names):
            if name in row.values:
                panel = _panel(row.seconds[name], row.values[name][:, chosen[name]], limits[name])
                parts.append(f'<g transform="translate({12 + column * (wide + 12)},{y + 16})">{panel}</g>')
    return "\n".join([*parts, "</svg>"]).encode()


def pixels(message: Message) -> Array:
    """A camera's message as uint8 (H, W, 3), JPEG decoded.

    Raises:
        IntegrityError: it says that it is a JPEG and is none.
    """
    data = np.asarray(message.value["data"], np.uint8)
    if "format" not in message.value:
        return data
    try:
        return np.asarray(simplejpeg.decode_jpeg(data.tobytes(), colorspace="RGB"))
    except ValueError as error:
        raise IntegrityError(f"/{message.topic} at {message.log_time_ns}: no whole JPEG ({error})") from error


def media_type(data: bytes) -> str:
    """What a sheet is, by its first bytes."""
    return "image/jpeg" if data[:2] == b"\xff\xd8" else "image/svg+xml"


def _fitted(picture: Array) -> Array:
    """The picture about `_TILE` points wide: whole points repeated, or some left out."""
    width = picture.shape[1]
    if width < _TILE:
        times = max(1, round(_TILE / width))
        return np.asarray(picture.repeat(times, 0).repeat(times, 1))
    step = max(1, round(width / _TILE))
    return picture[::step, ::step]


def _put(paper: Array, picture: Array | None, x: int, y: int, size: tuple[int, int], is_moment: bool) -> None:
    high, wide = size
    if is_moment:
        paper[y - 3 : y + high + 3, x - 3 : x + wide + 3] = _MARK
    tile = paper[y : y + high, x : x + wide]
    if picture is None:
        tile[:] = _NOTHING
        _write(paper, "not kept", x + 8, y + high // 2 - HIGH, _FAINT)
        return
    fitted = _fitted(picture)[:high, :wide]
    tile[: fitted.shape[0], : fitted.shape[1]] = fitted


def _write(paper: Array, text: str, x: int, y: int, ink: int) -> None:
    mask = written(text)[: paper.shape[0] - y, : paper.shape[1] - x]
    paper[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = ink


def _offset(seconds: float) -> str:
    return "takeover" if seconds == 0 else f"{seconds:+.1f} s"


def _wrapped(text: str, letters: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > letters:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]


def _liveliest(values: Sequence[Array]) -> list[int]:
    """The components that move most, in their own order."""
    moved = np.nanmean([np.ptp(np.nan_to_num(v), axis=0) for v in values], axis=0)
    return sorted(np.argsort(-moved, kind="stable")[:_MOST_LINES].tolist())


def _limits(values: Sequence[Array]) -> Array:
    """(components, 2): the least and the most of each over all rows, so that rows can be compared."""
    held = np.concatenate(values)
    held[~np.isfinite(held)] = np.nan
    empty = ~np.isfinite(held).any(axis=0)
    held[:, empty] = 0.0
    found = np.stack([np.nanmin(held, axis=0), np.nanmax(held, axis=0)], axis=1)
    flat = found[:, 0] == found[:, 1]
    found[flat] += [-1.0, 1.0]
    return found


def _scale(limits: Array, of: int) -> str:
    if of == 1:
        return f"{limits[0, 0]:.3g} to {limits[0, 1]:.3g}"
    return f"{len(limits)} of {of} components, each on its own scale"


def _panel(seconds: Array, values: Array, limits: Array) -> str:
    wide, high = _PANEL
    begin, end = OFFSETS_SECONDS[0], OFFSETS_SECONDS[-1]
    x = (seconds - begin) / (end - begin) * wide
    y = high - (values - limits[:, 0]) / (limits[:, 1] - limits[:, 0]) * high
    zero = -begin / (end - begin) * wide
    drawn = [
        f'<rect width="{wide}" height="{high}" fill="#fff" stroke="#ddd"/>',
        f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{high}" stroke="#c8281e"/>',
    ]
    for index in range(values.shape[1]):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y[:, index], strict=True) if np.isfinite(b))
        colour = _COLOURS[index % len(_COLOURS)]
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
    return "".join(drawn)
