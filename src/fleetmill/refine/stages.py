"""The rule of refining: messages of one session become stretches, then the line's episodes. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core import canonical
from fleetmill.core.errors import LineError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Array, Episode, Line, Message, Stretch
from fleetmill.core.plain import plain
from fleetmill.core.recording import Session
from fleetmill.seams.tables import Place

_WORD = re.compile(r"[a-z][a-z_]{0,40}")
GAP_PERIODS = 3  # of the slowest required channel: a longer silence ends a stretch


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A part of a session from which nothing is learned, and why."""

    start_ns: int
    end_ns: int
    reason: str


def stretches(line: Line, session: Session, messages: Sequence[Message]) -> Iterator[Stretch]:
    """The session without its holes: a stretch ends where a recording ended or nothing came for three periods."""
    longest_ns = GAP_PERIODS * max((f.hold_ns for f in line.features if f.kind == "observation"), default=0)
    starts = {r.start_ns for r in session.recordings}
    ends = {r.end_ns for r in session.recordings}
    run: list[Message] = []
    index = 0
    for message in messages:
        new_file = message.log_time_ns in starts and message.log_time_ns not in ends
        if run and (_gap(run[-1], message) > max(longest_ns, 1) or (new_file and _gap(run[-1], message) > 0)):
            yield _stretch(session, index, run)
            run, index = [], index + 1
        run.append(message)
    if run:
        yield _stretch(session, index, run)


def episodes(line: Line, session: Session, messages: Sequence[Message]) -> Iterator[Episode]:
    """What the line cuts out of a session's messages.

    Raises:
        LineError: an episode that is empty, out of order, or outside its session.
    """
    for stretch in stretches(line, session, messages):
        for episode in line.cut(stretch):
            _check(line, session, episode)
            yield episode


def left_out(line: Line, session: Session, messages: Sequence[Message]) -> Iterator[LeftOut]:
    """What the line's cut leaves out on purpose.

    Raises:
        LineError: an interval that is empty or outside its session, or a reason that is no word.
    """
    for stretch in stretches(line, session, messages):
        for start_ns, end_ns, reason in line.left_out(stretch):
            if not session.start_ns <= start_ns < end_ns <= session.end_ns or not _WORD.fullmatch(reason):
                raise LineError(
                    f"line {line.name}: left_out gives [{start_ns}, {end_ns}) for {reason!r} in session {session.key}: "
                    "must lie within the session, for a reason of a-z and _"
                )
            yield LeftOut(start_ns=start_ns, end_ns=end_ns, reason=reason)


def labelled_rows(found: Sequence[Episode], sources: Mapping[str, Array]) -> dict[str, int]:
    """How many rows each source labelled: those that last while one of its instants, as `core.label.merged` gives them.

    A row lasts until the next one, the last one until its episode ends.
    """
    rows = dict.fromkeys(sources, 0)
    for episode in found:
        times = np.asarray(episode.times_ns)
        for source, at in sources.items():
            inside = at[(at >= times[0]) & (at < episode.end_ns)]
            rows[source] += len(np.unique(np.searchsorted(times, inside, side="right")))
    return {source: number for source, number in sorted(rows.items()) if number}


def digest(episode: Episode) -> str:
    """Names an episode by device, session, interval and its arrays' bytes."""
    arrays = {
        name: [str(a.dtype), list(a.shape), sha256(np.ascontiguousarray(a).view(np.uint8).reshape(-1).data)]
        for name, a in {**episode.columns, "time_ns": np.asarray(episode.times_ns, np.int64)}.items()
        if a.size or a.shape
    }
    return canonical.digest(
        {
            "device": episode.device,
            "session": episode.session,
            "start_ns": episode.start_ns,
            "end_ns": episode.end_ns,
            "tags": plain(episode.tags),
            "arrays": arrays,
        }
    )


def place(episode: Episode) -> Place:
    """Where an episode's rows come from, as a table of them says."""
    return Place(
        digest=digest(episode),
        device=episode.device,
        session=episode.session,
        start_ns=episode.start_ns,
        end_ns=episode.end_ns,
        rows=len(episode.times_ns),
        tags=dict(episode.tags),
    )


def frame_digests(line: Line, episode: Episode) -> Array:
    """uint64 (T,): names each frame by what was observed, so that a frame is known again in other files."""
    names = sorted(f.name for f in line.features if f.kind == "observation" and f.name in episode.columns)
    found = np.zeros(len(episode.times_ns), np.uint64)
    for row in range(len(found)):
        hashed = hashlib.blake2b(digest_size=8)
        for name in names:
            hashed.update(np.ascontiguousarray(episode.columns[name][row]).tobytes())
        found[row] = int.from_bytes(hashed.digest(), "little")
    return found


def _gap(before: Message, after: Message) -> int:
    return after.log_time_ns - before.log_time_ns


def _stretch(session: Session, index: int, run: list[Message]) -> Stretch:
    return Stretch(device=session.device, session=session.name, index=index, tags=session.tags, messages=run)


def _check(line: Line, session: Session, e: Episode) -> None:
    where = f"line {line.name}: an episode of session {session.key}"
    times = np.asarray(e.times_ns)
    if not len(times) or e.end_ns <= e.start_ns or (np.diff(times) <= 0).any():
        raise LineError(f"{where}: must have rows in rising time over a proper interval")
    if e.start_ns < session.start_ns or e.end_ns > session.end_ns:
        raise LineError(f"{where}: [{e.start_ns}, {e.end_ns}) lies outside its session")
    for name, column in e.columns.items():
        if len(column) != len(times):
            raise LineError(f"{where}: column {name} has {len(column)} rows, the episode {len(times)}")
