"""The first report world driven twice, side by side, as it moved: chosen by rule and never by its looks.

The median and the worst world are picked by the same rule from the same measurements, and lie beside the report.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from fleetmill.core.drive import drive
from fleetmill.core.errors import LineError
from fleetmill.core.line import Array, Line, Step
from fleetmill.seams.runtime import Runtime, policies

MOST_BYTES = 3_000_000
_LEAST_WIDTH = 220  # pixels of one side; a small camera picture is enlarged by a whole number
_STRIP = 18  # pixels of the line of text above each side
_GAP = 6
_INK, _PAPER, _HELD, _FREE = (30, 30, 30), (250, 250, 250), (200, 60, 50), (11, 110, 79)


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One life of one model in one world: a picture per instant, and whether a person held the machine then."""

    title: str
    pictures: Sequence[Array]  # uint8 (H, W, 3)
    held: Sequence[bool]


def take(line: Line, runtime: Runtime, *, title: str, model: bytes, seed: int, seconds: float) -> Take:
    """Drive the world once more: the same model, seed and time give the same life as when it was measured.

    Raises:
        LineError: the line has no world, or nothing that could be drawn.
    """
    draw = drawn(line)
    if line.world is None or draw is None:
        raise LineError(f"line {line.name}: has no world with a picture; give its recipe a `draw`")
    world = line.world(line.judging.scenario, seed)
    pictures, held = [], []
    try:
        policy = policies(line, runtime, {"model.onnx": model})
        for moment in drive(world, policy, steps=max(1, round(seconds * line.model.rate_hz))):
            pictures.append(np.array(draw(moment.step), np.uint8))
            held.append(moment.step.takeover is not None)
    finally:
        world.close()
    return Take(title=title, pictures=pictures, held=held)


def drawn(line: Line) -> Callable[[Step], Array] | None:
    """How an instant is drawn: as the line's recipe says, or what its first camera sees; None: not at all."""
    if line.recipe is not None and line.recipe.draw is not None:
        return line.recipe.draw
    camera = next((f.name for f in line.features if f.kind == "observation" and _is_picture(f.dtype, f.shape)), None)
    return (lambda step: step.observation[camera]) if camera is not None else None


def animation(takes: Sequence[Take], *, rate_hz: float, most_bytes: int = MOST_BYTES) -> bytes:
    """A GIF of the takes side by side in their own time; instants are left out evenly until it fits `most_bytes`."""
    for every in (1, 2, 3, 4, 6, 8, 12, 16):
        data = _gif(list(_frames(takes, every)), milliseconds=round(1000 * every / rate_hz))
        if len(data) <= most_bytes:
            return data
    return data


def still(takes: Sequence[Take]) -> bytes:
    """The first instant as a PNG: for those who want nothing to move."""
    out = io.BytesIO()
    next(_frames(takes, 1)).save(out, "PNG")
    return out.getvalue()


def _frames(takes: Sequence[Take], every: int) -> Iterator[Image.Image]:
    length = max(len(t.pictures) for t in takes)
    for at in range(0, length, every):
        sides = [_side(t, at) for t in takes]
        whole = Image.new("RGB", (sum(s.width for s in sides) + _GAP * (len(sides) - 1), sides[0].height), _PAPER)
        x = 0
        for side in sides:
            whole.paste(side, (x, 0))
            x += side.width + _GAP
        yield whole


def _side(t: Take, at: int) -> Image.Image:
    """One instant of one take; after its end its last one."""
    at = min(at, len(t.pictures) - 1)
    picture = Image.fromarray(t.pictures[at])
    scale = max(1, -(-_LEAST_WIDTH // picture.width))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    side = Image.new("RGB", (picture.width + 6, picture.height + _STRIP + 6), _HELD if t.held[at] else _FREE)
    pen = ImageDraw.Draw(side)
    pen.rectangle((0, 0, side.width, _STRIP - 1), fill=_PAPER)
    onsets = sum(b and not a for a, b in zip([False, *t.held[:at]], t.held[: at + 1], strict=True))
    pen.text((3, 3), f"{t.title}: {onsets} takeovers{' - held' if t.held[at] else ''}", fill=_INK)
    side.paste(picture, (3, _STRIP + 3))
    return side


def _gif(frames: Sequence[Image.Image], *, milliseconds: int) -> bytes:
    palette = [f.quantize(colors=64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for f in frames]
    out = io.BytesIO()
    palette[0].save(out, "GIF", save_all=True, append_images=palette[1:], duration=milliseconds, loop=0, optimize=True)
    return out.getvalue()


def _is_picture(dtype: str, shape: tuple[int, ...]) -> bool:
    return dtype == "uint8" and len(shape) == 3 and shape[2] == 3
