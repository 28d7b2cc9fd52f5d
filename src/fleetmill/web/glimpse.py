"""What can be seen of a recording: its last picture or its last seconds as curves, and the takeovers in it.

A picture is given as it was recorded: JPEG and PNG bytes untouched, raw pixels as PNG, which loses nothing.
"""

from __future__ import annotations

import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fleetmill.core.line import Message

MOST_PICTURE_BYTES = 400_000  # of one picture on a page
SECONDS = 10.0
_MOST_CHANNELS, _MOST_CURVES = 3, 4
_HELD = 0.5  # a takeover channel above this: the safety driver holds the machine
_KINDS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"GIF8", "image/gif"))
_APART = ("label.", "model.")  # what was right and what was wanted: not what the machine saw and did


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture as a ``data:`` address."""

    uri: str
    topic: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """A numeric channel over the last seconds: times, and the components that moved most."""

    topic: str
    times_s: tuple[float, ...]  # 0 is the last instant
    values: tuple[tuple[float, ...], ...]  # one row per component
    components: int  # how many the channel has


@dataclass(frozen=True, kw_only=True, slots=True)
class Glimpse:
    """What there is to see; `missing` says why nothing is."""

    picture: Picture | None = None
    curves: tuple[Curves, ...] = ()
    held_s: tuple[tuple[float, float], ...] = ()  # when the safety driver held the machine
    missing: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Takeovers in one recording: how many began, and whether it begins and ends held."""

    onsets: int
    at_start: bool
    at_end: bool


def glimpse(messages: Sequence[Message]) -> Glimpse:
    """The last picture; where there is none the last seconds of what was observed and done."""
    pictures = [m for m in messages if _is_picture(m)]
    if pictures:
        return _pictured(max(pictures, key=lambda m: m.log_time_ns))
    curves = _curves(messages)
    if not curves:
        return Glimpse(missing="too little in it to be drawn")
    return Glimpse(curves=curves, held_s=_held_spans(messages))


def held(messages: Iterable[Message]) -> Held | None:
    """The takeovers among a recording's messages; None: it has no such channel."""
    values = [_first(m.value["data"]) > _HELD for m in messages if m.topic == "takeover"]
    if not values:
        return None
    onsets = sum(b and not a for a, b in zip([False, *values], values, strict=False))
    return Held(onsets=onsets, at_start=values[0], at_end=values[-1])


def png(width: int, height: int, channels: int, pixels: bytes) -> bytes:
    """Raw pixels (1 or 3 bytes each, rows from the top) as a PNG file.

    Source: PNG (third edition), 5.2 and 11.2.
    """
    row = width * channels
    lines = b"".join(b"\0" + pixels[i : i + row] for i in range(0, row * height, row))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return _KINDS[1][0] + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 6)) + chunk(b"IEND", b"")


def data_uri(data: bytes) -> str:
    """A picture file as a ``data:`` address; "" where it is no JPEG, PNG, GIF or SVG."""
    kind = next((kind for magic, kind in _KINDS if data.startswith(magic)), "")
    if not kind and data[:256].lstrip().startswith((b"<svg", b"<?xml")) and b"<svg" in data[:1024]:
        kind = "image/svg+xml"
    return f"data:{kind};base64,{b64encode(data).decode()}" if kind else ""


def _pictured(message: Message) -> Glimpse:
    value: Any = message.value["data"]
    data = value.tobytes()
    if "format" not in message.value:
        height, width, channels = value.shape
        data = png(width, height, channels, data)
    uri = data_uri(data)
    if not uri:
        return Glimpse(missing=f"/{message.topic}: {message.value.get('format', '')!s:.20} is not shown")
    if len(data) > MOST_PICTURE_BYTES:
        return Glimpse(missing=f"/{message.topic}: a picture of {len(data) / 1e6:.1f} MB is not shown")
    return Glimpse(picture=Picture(uri=uri, topic=message.topic))


def _is_picture(message: Message) -> bool:
    value: Any = message.value["data"]
    if isinstance(value, str):
        return False
    return "format" in message.value or (value.dtype.name == "uint8" and value.ndim == 3 and value.shape[2] in (1, 3))


def _curves(messages: Sequence[Message]) -> tuple[Curves, ...]:
    channels: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
    for m in messages:
        value: Any = m.value["data"]
        if not isinstance(value, str) and m.topic != "takeover" and not m.topic.startswith(_APART):
            channels.setdefault(m.topic, []).append((m.log_time_ns, tuple(float(v) for v in value.ravel())))
    end = max((rows[-1][0] for rows in channels.values()), default=0)
    found = [_curve(topic, rows, end) for topic, rows in channels.items()]
    return tuple(c for c in found if c is not None)[:_MOST_CHANNELS]


def _curve(topic: str, rows: Sequence[tuple[int, tuple[float, ...]]], end_ns: int) -> Curves | None:
    last = [(t, v) for t, v in rows if t >= end_ns - SECONDS * 1e9]
    size = min((len(v) for _, v in last), default=0)
    columns = [tuple(v[i] for _, v in last) for i in range(min(size, 64))]
    moving = sorted(columns, key=_stillness)[:_MOST_CURVES]
    if len(last) < 2 or not moving:
        return None
    times = tuple((t - end_ns) / 1e9 for t, _ in last)
    return Curves(topic=topic, times_s=times, values=tuple(moving), components=size)


def _stillness(values: Sequence[float]) -> float:
    """Small for what moved much; what is no number counts for nothing."""
    finite = [v for v in values if math.isfinite(v)]
    return min(finite, default=0.0) - max(finite, default=0.0)


def _held_spans(messages: Sequence[Message]) -> tuple[tuple[float, float], ...]:
    rows = [(m.log_time_ns, _first(m.value["data"]) > _HELD) for m in messages if m.topic == "takeover"]
    if not rows:
        return ()
    end, spans, since = rows[-1][0], [], None
    for time_ns, holds in rows:
        if holds and since is None:
            since = time_ns
        if not holds and since is not None:
            spans.append((since, time_ns))
            since = None
    if since is not None:
        spans.append((since, end))
    return tuple(((a - end) / 1e9, (b - end) / 1e9) for a, b in spans if b >= end - SECONDS * 1e9)


def _first(value: Any) -> float:
    """A channel's only number."""
    return float(value.ravel()[0]) if not isinstance(value, str) and value.size else 0.0
