"""What a device's tile says: its last picture, what it runs, its takeovers. A rule over the fold and what was read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleetmill.web import spark
from fleetmill.web.glimpse import Glimpse, Held
from fleetmill.web.number import Mark
from fleetmill.web.state import Answer, DeviceSeen, LineSeen, Lived

MOST_BARS = 24
_TONES: Mapping[str, Mark] = {
    "confirmed": Mark(text="confirmed", tone="good"),
    "refused": Mark(text="refused", tone="bad"),
    "failed": Mark(text="failed", tone="bad"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Takeovers:
    """Takeovers in what a device uploaded; the last session's are None while it was not read."""

    newest: int | None
    total: int
    read: int  # sessions that the total is over
    sessions: int  # that the device has closed
    recorded: bool  # False: nothing that was read has such a channel
    bars: str  # SVG


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What was seen last: a picture, a drawing, or why there is neither."""

    picture: str = ""  # data: address
    alt: str = ""
    drawing: str = ""  # SVG
    missing: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A signed report."""

    mark: Mark  # confirmed, refused, failed
    release: int  # 0: of none that it could name
    reason: str
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What is said of a device."""

    has_key: bool  # False: it exists through imports alone, or was only invited
    running: str  # digest of the model file that it said it runs
    answers: tuple[Said, ...]  # what it confirmed last, and what it refused or failed at since
    owes: int  # release that it has not answered; 0: none
    sessions: int
    takeovers: Takeovers | None
    heard_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One device. Sight and words come and go each by itself: a picture is sent once."""

    id: str
    name: str
    sight: Sight
    words: Words


def tile(
    device: DeviceSeen, line: LineSeen, seen: Glimpse | None, counts: Mapping[str, int | None], *, id: str
) -> Tile:
    """The tile. `counts` holds the takeovers of each session that was read; None: not recorded in it."""
    return Tile(id=id, name=device.name, sight=_sight(device, seen), words=_words(device, line, counts))


def onsets(lived: Lived, found: Mapping[str, Held | None]) -> int | None:
    """Takeovers that began in a session's recordings; None: none of them has such a channel.

    A takeover that goes on from one recording into the next, with no time between them, began once.
    """
    known = [(clip, held) for clip in lived.clips if (held := found.get(clip.digest)) is not None]
    if lived.clips and not known:
        return None
    total = sum(held.onsets for _, held in known)
    for (before, a), (after, b) in itertools.pairwise(known):
        total -= before.end_ns == after.start_ns and a.at_end and b.at_start
    return total


def shown(devices: Sequence[DeviceSeen], most: int) -> list[DeviceSeen]:
    """At most so many: those that refused or failed first, then those that were heard last; in order of number."""
    if len(devices) <= most:
        return list(devices)
    ill = {d.name for d in devices if d.answer and d.answer.state != "confirmed"}
    return sorted(sorted(devices, key=lambda d: (d.name not in ill, -d.heard_ns))[:most], key=lambda d: d.number)


def _takeovers(device: DeviceSeen, counts: Mapping[str, int | None]) -> Takeovers:
    keys = [lived.key for lived in device.lived]
    read = [counts[k] for k in keys if k in counts]
    known = [c for c in read if c is not None]
    return Takeovers(
        newest=counts.get(keys[-1]),
        total=sum(known),
        read=len(read),
        sessions=device.sessions,
        recorded=bool(known) or not read,
        bars=spark.bars([counts.get(k) for k in keys[-MOST_BARS:]], "takeovers per session") if known else "",
    )


def _sight(device: DeviceSeen, seen: Glimpse | None) -> Sight:
    what = f"{device.name}, last recording of {device.lived[-1].key}" if device.lived else device.name
    if seen and seen.picture:
        return Sight(picture=seen.picture.uri, alt=f"Last frame of /{seen.picture.topic}: {what}")
    if seen and seen.curves:
        return Sight(drawing=spark.strips(seen, what))
    return Sight(missing=_missing(device, seen))


def _words(device: DeviceSeen, line: LineSeen, counts: Mapping[str, int | None]) -> Words:
    last, confirmed, out = device.answer, device.confirmed, line.release
    told = [a for a in (confirmed, last if last is not confirmed else None) if a is not None]
    return Words(
        has_key=device.has_key,
        running=last.running if last else "",
        answers=tuple(_said(a) for a in told),
        owes=out.number if out and device.has_key and out.number not in device.answers else 0,
        sessions=device.sessions,
        takeovers=_takeovers(device, counts) if device.lived else None,
        heard_ns=device.heard_ns,
    )


def _said(answer: Answer) -> Said:
    tone = _TONES.get(answer.state, Mark(text=answer.state))
    return Said(mark=tone, release=answer.release, reason=answer.reason, fact=answer.seq)


def _missing(device: DeviceSeen, seen: Glimpse | None) -> str:
    if seen is not None:
        return seen.missing
    if not device.enrolled:
        return "invited; it has not enrolled yet"
    if not device.lived:
        return "nothing has landed yet"
    return "nothing was kept yet" if not any(lived.clips for lived in device.lived) else "being read"
