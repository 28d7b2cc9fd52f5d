"""Frames as JPEG files, for people to look at."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
import simplejpeg

from fleetmill.core.errors import IntegrityError, InvalidInputError, UnavailableError
from fleetmill.core.line import Feature, Line, Message
from fleetmill.core.recording import Session
from fleetmill.labels.frames import Place
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.files import write_whole

_QUALITY = 95
_COLOURS = (1, 3)


def cameras(line: Line) -> list[Feature]:
    """Every observation that is a picture."""
    seen = [f for f in line.features if f.kind == "observation" and f.dtype == "uint8" and len(f.shape) == 3]
    return [f for f in seen if f.shape[2] in _COLOURS]


def camera(line: Line, name: str) -> Feature:
    """The picture called `name`, or the line's first.

    Raises:
        InvalidInputError: the line has none, or none of that name.
    """
    known = cameras(line)
    chosen = [f for f in known if name in ("", f.name)]
    if not chosen:
        named = ", ".join(f.name for f in known) or "none"
        raise InvalidInputError(f"--channel {name!r}: line {line.name} has no such picture; it has {named}")
    return chosen[0]


def frames(blobs: Blobs, session: Session, channel: Feature, wanted: Container[int]) -> Iterator[tuple[Place, bytes]]:
    """The wanted instants of a session with their pictures' JPEG bytes; as recorded where that was JPEG already."""
    for ref in session.recordings:
        where = f"recording {ref.digest[:12]}"
        for m in recordings.read_messages(blobs.get(ref.digest), where, topics={channel.name}):
            if m.log_time_ns in wanted:
                yield Place(device=session.device, session=session.name, time_ns=m.log_time_ns), _jpeg(m)


def size(data: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG."""
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return int(width), int(height)


def write(folder: Path, place: Place, data: bytes) -> None:
    """Put a picture under its frame's name.

    Raises:
        UnavailableError: the disk refused.
    """
    path = folder / place.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{path.parent}: {error.strerror}. Give another --out") from error
    write_whole(path, data)


def _jpeg(message: Message) -> bytes:
    pixels = np.ascontiguousarray(message.value["data"], np.uint8)
    if "format" not in message.value:
        colour = "RGB" if pixels.shape[2] == 3 else "GRAY"
        return bytes(
            simplejpeg.encode_jpeg(pixels, quality=_QUALITY, colorspace=colour, colorsubsampling=_sampling(colour))
        )
    if simplejpeg.is_jpeg(pixels.tobytes()):
        return pixels.tobytes()
    raise IntegrityError(f"/{message.topic} at {message.log_time_ns}: is {message.value['format']}, no JPEG")


def _sampling(colour: str) -> str:
    return "Gray" if colour == "GRAY" else "444"
