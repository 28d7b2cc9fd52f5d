"""Labels go out: what is known of sessions, and what people are asked, as a file that their tools open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.label import is_boxes, plain_of
from fleetmill.core.line import Feature, Line
from fleetmill.core.recording import Session
from fleetmill.labels import coco, label_studio, pictures, table
from fleetmill.labels.coco import Frame
from fleetmill.labels.formats import checked
from fleetmill.labels.frames import Place
from fleetmill.labels.known import Known, look, rows
from fleetmill.labels.label_studio import Series
from fleetmill.labels.rows import texted
from fleetmill.receive import inbox
from fleetmill.refine import outside
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Ledger

_MOST_NUMBERS = 16  # of one channel: more is no curve that a person looks at
_SECOND_NS = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is to be written."""

    format: str = "csv"
    feature: str = ""  # "": every label feature for csv, the line's only one elsewhere
    channel: str = ""  # the picture that is shown; "": the line's first
    every: float = 0.0  # seconds between two frames, at least; 0: all
    dataset: str = ""  # only its sessions; "": all
    unlabelled: bool = False  # only sessions, or frames, of which somebody has yet to say something
    classes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What was written."""

    format: str
    sessions: int
    known: int  # rows, regions or frames of which something is known
    questions: int  # rows or frames of which nothing is
    files: tuple[Path, ...]  # pictures are one folder


def export_labels(ledger: Ledger, blobs: Blobs, line: Line, out: Path, wanted: Wanted) -> Written:
    """Write what is known, each with its source, and what is not, for people to label. Import takes it back.

    Raises:
        InvalidInputError: the line has no such label, or the format cannot hold it.
        NotFoundError: no such dataset version, or no session.
        UnavailableError: the disk refused.
    """
    checked(wanted.format)
    features = _features(line, wanted)
    sets = outside.read_sets(ledger, blobs, line)
    found = [
        (session, feature, known)
        for session in _sessions(ledger, line, wanted.dataset)
        for feature in features
        if len((known := look(line, blobs, session, feature, sets)).times_ns)
        and not (wanted.unlabelled and known.is_whole)
    ]
    sessions = len({session.key for session, _, _ in found})
    if wanted.format == "csv":
        return _table(out, found, sessions, wanted)
    if is_boxes(features[0]) or wanted.channel or pictures.cameras(line) or wanted.format == "coco":
        return _frames(blobs, line, out, found, sessions, wanted)
    return _series(blobs, line, out, found, sessions, wanted)


_Looks = Sequence[tuple[Session, Feature, Known]]


def _features(line: Line, wanted: Wanted) -> list[Feature]:
    """Those that are written; each that a tool shows one of must be named where there are several."""
    known = [f for f in line.features if f.kind == "label"]
    chosen = [f for f in known if wanted.feature in ("", f.name)]
    if not chosen or (len(chosen) > 1 and wanted.format != "csv"):
        what, names = "several label features" if chosen else "no such label feature", ", ".join(f.name for f in known)
        raise InvalidInputError(f"--feature {wanted.feature!r}: line {line.name} has {what}; it has {names or 'none'}")
    return chosen


def _sessions(ledger: Ledger, line: Line, dataset: str) -> list[Session]:
    found = inbox.sessions(ledger, line.name)
    if dataset:
        keys = {f.key for f in ledger.read(kind="dataset") if f.key.startswith(dataset) and len(dataset) >= 6}
        if len(keys) != 1:
            raise NotFoundError(f"dataset {dataset[:64]!r}: {len(keys)} found. See: fleetmill status")
        parts = ledger.get("dataset", keys.pop()).record["manifest"]["parts"]
        found = [s for s in found if s.key in {part["session"] for part in parts}]
    if not found:
        raise NotFoundError(f"line {line.name}: has no closed session. Run: fleetmill import")
    return found


def _table(out: Path, found: _Looks, sessions: int, wanted: Wanted) -> Written:
    told = [row for session, feature, known in found for row in rows(session, feature, known)]
    known, questions = ([row for row, is_known in told if is_known == which] for which in (True, False))
    write_whole(out, table.write(known, questions, wanted.classes))
    return Written(format="csv", sessions=sessions, known=len(known), questions=len(questions), files=(out,))


def _frames(blobs: Blobs, line: Line, out: Path, found: _Looks, sessions: int, wanted: Wanted) -> Written:
    feature, channel = _features(line, wanted)[0], pictures.camera(line, wanted.channel)
    folder = out.with_name(f"{out.stem}-frames")
    frames: list[Frame] = []
    for session, _, known in found:
        times = [t for t in known.times_ns.tolist() if not (wanted.unlabelled and t in known.at)]
        for place, data in pictures.frames(blobs, session, channel, _thinned(times, wanted.every)):
            pictures.write(folder, place, data)
            frames.append(_frame(feature, place, data, known))
    if found and not frames:
        raise InvalidInputError(
            f"--channel {channel.name}: none of its pictures lies at an instant of which {feature.name} speaks"
        )
    files = [out, folder]
    if wanted.format == "coco":
        write_whole(out, coco.write(frames, feature, wanted.classes, folder.name))
    else:
        write_whole(out, label_studio.write_frames(frames, feature, wanted.classes, folder.name))
        files.append(_config(out, feature, [], _values(feature, found, wanted), frames=True))
    number = sum(f.known for f in frames)
    return Written(
        format=wanted.format, sessions=sessions, known=number, questions=len(frames) - number, files=tuple(files)
    )


def _frame(feature: Feature, place: Place, data: bytes, known: Known) -> Frame:
    width, height = pictures.size(data)
    there = known.at.get(place.time_ns)
    return Frame(
        place=place,
        width=width,
        height=height,
        known=there is not None,
        value=plain_of(feature, there.value) if there else None,
        source=there.source if there else "",
    )


def _series(blobs: Blobs, line: Line, out: Path, found: _Looks, sessions: int, wanted: Wanted) -> Written:
    tasks: list[Series] = []
    for session, feature, known in found:
        told = [row for row, is_known in rows(session, feature, known) if is_known]
        tasks.append(
            Series(
                device=session.device,
                session=session.name,
                start_ns=session.start_ns,
                end_ns=session.end_ns,
                times_ns=known.times_ns.tolist(),
                columns=_columns(blobs, line, session, known),
                known=told,
            )
        )
    write_whole(out, label_studio.write_series(tasks, wanted.classes))
    names = sorted({name for task in tasks for name in task.columns})
    feature = _features(line, wanted)[0]
    files = (out, _config(out, feature, names, _values(feature, found, wanted), frames=False))
    open_ = sum(not known.is_whole for _, _, known in found)
    return Written(
        format=wanted.format, sessions=sessions, known=sum(len(t.known) for t in tasks), questions=open_, files=files
    )


def _columns(blobs: Blobs, line: Line, session: Session, known: Known) -> dict[str, list[float | None]]:
    """What was observed at the instants that are asked about, one curve for each number."""
    numbers = {
        f.name: f
        for f in line.features
        if f.kind in ("observation", "action") and f.dtype != "str" and 0 < int(np.prod(f.shape)) <= _MOST_NUMBERS
    }
    place = {int(at): i for i, at in enumerate(known.times_ns)}
    found: dict[str, list[float | None]] = {}
    for ref in session.recordings:
        for m in recordings.read_messages(blobs.get(ref.digest), f"recording {ref.digest[:12]}", topics=numbers):
            values = np.asarray(m.value["data"], np.float64).reshape(-1)
            for i, value in enumerate(values.tolist() if m.log_time_ns in place else ()):
                name = m.topic if len(values) == 1 else f"{m.topic}[{i}]"
                column = found.setdefault(name, [None] * len(place))
                column[place[m.log_time_ns]] = value if np.isfinite(value) else None
    return found


def _config(out: Path, feature: Feature, names: Sequence[str], values: Sequence[str], *, frames: bool) -> Path:
    path = out.with_name(f"{out.stem}-config.xml")
    write_whole(path, label_studio.config(names, feature, values, frames=frames).encode())
    return path


def _values(feature: Feature, found: _Looks, wanted: Wanted) -> list[str]:
    """What a person may choose: the named classes, and what is known already."""
    held = [row.value for session, f, known in found for row, is_known in rows(session, f, known) if is_known]
    if is_boxes(feature):
        held = [box[4] for boxes in held for box in boxes or () if len(box) > 4]
    return sorted({*wanted.classes, *(texted(wanted.classes, value) for value in held)}) or ["1"]


def _thinned(times: Sequence[int], every: float) -> set[int]:
    kept: list[int] = []
    for at in times:
        if not kept or at - kept[-1] >= every * _SECOND_NS:
            kept.append(at)
    return set(kept)
