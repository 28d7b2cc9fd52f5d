"""A group of takeovers as a contact sheet: reads the few recordings that are shown, and draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from fleetmill.core.line import Array, Feature, Line, Message
from fleetmill.findings import sheet
from fleetmill.findings.failures import AFTER_NS, BEFORE_NS, MOST_ROWS, Group, where
from fleetmill.findings.gather import Seen, Takeover
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs

_NUMBERS = ("observation", "action")


def draw(seen: Seen, group: Group, blobs: Blobs) -> bytes:
    """The contact sheet of a group: some moments of each device, pictures where the line has a camera."""
    chosen = _chosen(group.takeovers)
    title = f"{len(group.takeovers)} takeovers{where(group)}, {len(chosen)} shown. Model {group.model[:12]}"
    camera = _camera(seen.line)
    if camera is not None:
        return sheet.photographs(title, [_pictures(seen, t, camera, blobs) for t in chosen])
    numeric = {f.name for f in seen.line.features if f.kind in _NUMBERS and _is_drawn(f)}
    return sheet.plots(title, [_lines(seen, t, numeric, blobs) for t in chosen])


def _chosen(found: Sequence[Takeover]) -> list[Takeover]:
    """Those on the sheet: the first of each device, then the second, until it is full; told by device and time."""
    nth: Counter[str] = Counter()
    ranked = []
    for takeover in found:
        nth[takeover.session.device] += 1
        ranked.append((nth[takeover.session.device], takeover.session.device, takeover.onset_ns, takeover))
    kept = sorted(ranked, key=lambda r: r[:3])[:MOST_ROWS]
    return [r[3] for r in sorted(kept, key=lambda r: (r[1], r[2]))]


def _camera(line: Line) -> Feature | None:
    return next((f for f in line.features if f.dtype == "uint8" and len(f.shape) == 3 and f.shape[2] == 3), None)


def _is_drawn(feature: Feature) -> bool:
    """Numbers of one width: no text, no picture, nothing whose length varies."""
    return feature.dtype != "str" and len(feature.shape) < 2 and -1 not in feature.shape


def _label(seen: Seen, takeover: Takeover) -> str:
    session, seconds = takeover.session, seen.since_first(takeover.session.device, takeover.onset_ns)
    return f"{session.device} {session.name} +{seconds:.2f}s  {takeover.recording.digest[:12]}"


def _messages(takeover: Takeover, topics: Collection[str], blobs: Blobs) -> list[Message]:
    """What the takeover's recording holds of its clip on some channels."""
    clip, name = takeover.clip(BEFORE_NS, AFTER_NS), f"recording {takeover.recording.digest[:12]}"
    read = recordings.read_messages(blobs.get(takeover.recording.digest), name, topics=topics)
    return [m for m in read if clip.start_ns <= m.log_time_ns <= clip.end_ns]


def _pictures(seen: Seen, takeover: Takeover, camera: Feature, blobs: Blobs) -> sheet.Pictures:
    held = _messages(takeover, (camera.name,), blobs)
    return sheet.Pictures(
        label=_label(seen, takeover),
        pictures=tuple(_nearest(held, takeover.onset_ns + round(s * 1e9), camera) for s in sheet.OFFSETS_SECONDS),
    )


def _nearest(held: Sequence[Message], at_ns: int, camera: Feature) -> Array | None:
    best = min(held, key=lambda m: abs(m.log_time_ns - at_ns), default=None)
    if best is None or abs(best.log_time_ns - at_ns) > max(camera.hold_ns, 1):
        return None
    return sheet.pixels(best)


def _lines(seen: Seen, takeover: Takeover, names: set[str], blobs: Blobs) -> sheet.Lines:
    held: dict[str, list[tuple[float, Array]]] = {}
    for message in _messages(takeover, names, blobs):
        value = np.asarray(message.value["data"], np.float64).reshape(-1)
        held.setdefault(message.topic, []).append(((message.log_time_ns - takeover.onset_ns) / 1e9, value))
    return sheet.Lines(
        label=_label(seen, takeover),
        seconds={name: np.array([s for s, _ in rows]) for name, rows in held.items()},
        values={name: np.stack([v for _, v in rows]) for name, rows in held.items()},
    )
