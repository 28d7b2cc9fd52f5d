"""What is known of a session's label feature: instant by instant, what is right and who says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core.label import RECORDED, LabelSet, Value, array_of, clocks, instants, plain_of, said
from fleetmill.core.line import Array, Feature, Line
from fleetmill.core.recording import Session
from fleetmill.labels.rows import Row
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What is right at an instant."""

    value: Array | str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """One feature over one session. An instant of which nobody said anything is not in `at`."""

    times_ns: Array  # int64, rising: every instant that the feature describes
    at: Mapping[int, Said]
    recorded_channels: frozenset[str]

    def between(self, start_ns: int, end_ns: int) -> list[int]:
        """The instants in [start_ns, end_ns)."""
        a, b = np.searchsorted(self.times_ns, [start_ns, end_ns])
        return [int(t) for t in self.times_ns[a:b]]

    @property
    def is_whole(self) -> bool:
        """Whether somebody said something of every instant."""
        return len(self.at) == len(self.times_ns)


def look(line: Line, blobs: Blobs, session: Session, feature: Feature, sets: Sequence[LabelSet]) -> Known:
    """What recordings and label sets say of a feature over a session."""
    topics = clocks(line, feature.name) | {feature.name}
    messages = [
        m
        for ref in session.recordings
        for m in recordings.read_messages(blobs.get(ref.digest), f"recording {ref.digest[:12]}", topics=topics)
    ]
    times = instants(line, feature.name, messages)
    spoken = set(times.tolist())
    at = {
        m.log_time_ns: Said(value=m.value["data"], source=RECORDED)
        for m in messages
        if m.topic == feature.name and m.log_time_ns in spoken and not _is_unknown(m.value["data"])
    }
    labels = [x for s in sets for x in s.of(session.device, session.name) if x.feature == feature.name]
    for instant, label in said(times, labels).items():
        at[instant] = Said(value=array_of(feature, label.value), source=label.source)
    return Known(times_ns=times, at=at, recorded_channels=frozenset(m.topic for m in messages))


def rows(session: Session, feature: Feature, known: Known) -> Iterator[tuple[Row, bool]]:
    """(interval, whether anything is known of it), one after another, from the first instant to the session's end."""
    begun: list[tuple[int, tuple[Value, str, bool]]] = []
    for at in known.times_ns.tolist():
        there = known.at.get(at)
        now = (plain_of(feature, there.value), there.source, True) if there else (None, "", False)
        if not begun or begun[-1][1] != now:
            begun.append((at, now))
    ends = [at for at, _ in begun[1:]] + [session.end_ns]
    for (start_ns, (value, source, is_known)), end_ns in zip(begun, ends, strict=True):
        row = Row(
            where=session.key,
            device=session.device,
            session=session.name,
            feature=feature.name,
            start_ns=start_ns,
            end_ns=end_ns,
            value=value,
            source=source,
        )
        yield row, is_known


def _is_unknown(value: Array | str) -> bool:
    """Whether a recorded label says that nobody knows: NaN."""
    if isinstance(value, str) or not np.issubdtype(np.asarray(value).dtype, np.floating):
        return False
    return bool(np.isnan(value).all())
