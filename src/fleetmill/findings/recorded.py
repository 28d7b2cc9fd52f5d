"""What one device has recorded, as rows, the newest first: only the sessions that are wanted are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fleetmill.core.line import Episode
from fleetmill.core.recording import Session

Rows = Callable[[Session], Sequence[Episode]]  # a session's episodes in time, labels as they are known by now


class Recorded:
    """The closed sessions of one device as one track."""

    def __init__(self, sessions: Sequence[Session], rows: Rows, *, gap_ns: int | None) -> None:
        """`gap_ns`: sessions that are no further apart are one run; None: each session is a run of its own."""
        self.sessions = sorted(sessions, key=lambda s: s.start_ns)
        self._rows, self._gap_ns = rows, gap_ns
        self._read: dict[str, Sequence[Episode]] = {}

    @property
    def end_ns(self) -> int:
        """Up to when the device has recorded."""
        return max((s.end_ns for s in self.sessions), default=0)

    def runs(self, *, least: int | None = None) -> Iterator[Episode]:
        """Rows without a hole, the newest run first.

        `least`: so many rows of a run are enough; None: all of them.
        """
        run: list[Episode] = []
        for episode in self._newest_first():
            if run and (self._gap_ns is None or run[0].start_ns - episode.end_ns > self._gap_ns):
                yield _joined(run)
                run = []
            if least is None or sum(len(e.times_ns) for e in run) < least:
                run.insert(0, episode)
        if run:
            yield _joined(run)

    def since(self, start_ns: int) -> Episode | None:
        """Every row from `start_ns` on; None: there is none."""
        found = [e for s in self.sessions if s.end_ns > start_ns for e in self._episodes(s) if e.end_ns > start_ns]
        if not found:
            return None
        whole = _joined(found)
        first = int(np.searchsorted(whole.times_ns, start_ns))
        return part(whole, first) if first < len(whole.times_ns) else None

    def _newest_first(self) -> Iterator[Episode]:
        for session in reversed(self.sessions):
            yield from reversed(self._episodes(session))

    def _episodes(self, session: Session) -> Sequence[Episode]:
        if session.key not in self._read:
            self._read[session.key] = self._rows(session)
        return self._read[session.key]


def part(episode: Episode, first: int) -> Episode:
    """The rows from one on."""
    times = episode.times_ns[first:]
    return Episode(
        device=episode.device,
        session=episode.session,
        start_ns=int(times[0]),
        end_ns=episode.end_ns,
        times_ns=times,
        columns={name: column[first:] for name, column in episode.columns.items()},
        tags=episode.tags,
    )


def _joined(run: Sequence[Episode]) -> Episode:
    """Episodes of one device one after another, called as the last; columns that all of them have."""
    names = [n for n in run[0].columns if all(n in e.columns for e in run)]
    return Episode(
        device=run[-1].device,
        session=run[-1].session,
        start_ns=run[0].start_ns,
        end_ns=run[-1].end_ns,
        times_ns=np.concatenate([e.times_ns for e in run]),
        columns={name: np.concatenate([e.columns[name] for e in run]) for name in names},
        tags=run[-1].tags,
    )
