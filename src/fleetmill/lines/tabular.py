"""Ready-made parts for a line from tables, or from channels that do not tick together: importer, cut, baseline."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath

import numpy as np

from fleetmill.core.errors import InvalidInputError, LineError
from fleetmill.core.line import (
    Array,
    Data,
    Episode,
    Feature,
    Files,
    Foreign,
    Frame,
    Importer,
    Message,
    ModelSpec,
    Policy,
    Stretch,
)
from fleetmill.lines.columns import Table, has_tables, tables
from fleetmill.lines.ready import episode_of

SECOND_NS = 1_000_000_000
YEAR_2262_NS = 9_214_646_400 * SECOND_NS  # a recording counts nanoseconds in 63 bits
YEAR_2000_NS = 946_684_800 * SECOND_NS  # a clock that shows less than this counts from a beginning of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """How a table tells the time, and where its sessions end."""

    column: str
    tick_ns: int  # one unit of a time that is a number; 0: dates and times
    period_ns: int  # rows are put on a grid of this; of several in one place the last counts
    gap_ns: int  # a longer silence ends a session
    session_ns: int  # so does the end of each such span of the clock


def csv_rows(columns: Mapping[str, str], clock: Clock) -> Importer:
    """Reads CSV files that have these columns, in any order: column name -> the feature that it becomes.

    A row with an empty cell counts as missing. Files whose clock shows dates belong to one device; where it counts
    from 0, each file is a device of its own.
    """

    def read(files: Files) -> Iterator[Foreign]:
        found = [(table, _values(table, columns, clock)) for table in tables(files)]
        for device, rows in _devices(found).items():
            for session in _sessions(rows, clock):
                yield _foreign(device, session, rows, tuple(columns.values()))

    return Importer(name="csv", detects=has_tables, read=read)


def latest_of(*names: str, period_ns: int, within_ns: int) -> Callable[[Stretch], Iterator[Episode]]:
    """A `cut` for channels that do not tick together: a row for each instant of the first of `names`.

    Each other channel gives its latest value; an instant before which one of them said nothing for longer than
    `within_ns` is left out. `period_ns`: how long the last row lasts.
    """

    def cut(stretch: Stretch) -> Iterator[Episode]:
        latest: dict[str, tuple[int, Array]] = {}
        rows: dict[int, dict[str, Array]] = {}
        for _, message in sorted(enumerate(stretch.messages), key=lambda m: (m[1].log_time_ns, m[1].topic == names[0])):
            at = message.log_time_ns
            if message.topic in names:
                latest[message.topic] = (at, np.asarray(message.value["data"]))
            if message.topic == names[0] and all(n in latest and at - latest[n][0] <= within_ns for n in names):
                rows[at] = {name: latest[name][1] for name in names}
        yield from episode_of(stretch, rows, names, period_ns=period_ns)

    return cut


def side_by_side(column: Callable[[str], Array | None], features: Sequence[Feature]) -> Array:
    """All numbers of `features` in float64, a row for each instant; `column` gives each by its name.

    Raises:
        LineError: there is no such column.
    """
    found = []
    for feature in features:
        values = column(feature.name)
        if values is None:
            raise LineError(f"column {feature.name}: is not there. Name it in the line's cut")
        found.append(np.reshape(values, (-1, int(np.prod(feature.shape)))))
    return np.concatenate(found, axis=1).astype(np.float64)


def whole_rows(
    column: Callable[[str], Array | None], seen: Sequence[Feature], right: Sequence[Feature]
) -> tuple[Array, Array]:
    """`side_by_side` of what was seen and of what was right, at the instants of which every number was recorded."""
    both = side_by_side(column, seen), side_by_side(column, right)
    whole = np.isfinite(np.concatenate(both, axis=1)).all(axis=1)
    return both[0][whole], both[1][whole]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steady:
    """Answers the same, whatever it sees; `core.line.Policy`."""

    model: ModelSpec
    answers: Frame  # by port

    def reset(self) -> None:
        """It has no memory."""

    def step(self, observation: Frame) -> Frame:  # noqa: ARG002
        """The answers by feature."""
        return {p.feature: self.answers[p.name] for p in self.model.outputs if p.feature is not None}

    def ask(self, inputs: Frame) -> Frame:
        """The answers by port for each of the batch."""
        number = len(next(iter(inputs.values())))
        return {name: np.repeat(answer[np.newaxis], number, axis=0) for name, answer in self.answers.items()}


def steady(model: ModelSpec, targets: Mapping[str, str]) -> Callable[[Data], Policy]:
    """A `baseline` that always answers the median of what was right; `targets`: output port -> column.

    What is no number counts nowhere; where there is none at all, the answer is NaN.
    """

    def baseline(data: Data) -> Policy:
        answers = {}
        for port in model.outputs:
            right = np.asarray(data.column(targets[port.name]), np.float64)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a column without a number
                median = np.nanmedian(np.where(np.isfinite(right), right, np.nan), axis=0)
            answers[port.name] = np.asarray(median, port.dtype).reshape(port.shape)
        return Steady(model=model, answers=answers)

    return baseline


def read_times(table: Table, column: str, tick_ns: int) -> Array:
    """A table's times in int64 nanoseconds; `tick_ns` is the unit of a number, 0 for dates.

    Raises:
        InvalidInputError: no such column, or something in it that is no time.
    """
    place = table.column([column.lower()], "the time")
    if not tick_ns:
        return table.times_ns(place)
    numbers = table.numbers(place) * tick_ns
    bad = np.flatnonzero(~((numbers >= 0) & (numbers < YEAR_2262_NS)))
    if len(bad):
        raise InvalidInputError(
            f"{table.where(int(bad[0]))}: column {column} holds no time from 0 on, found "
            f"{table.rows[int(bad[0])][place]!r}. Repair the row or take it out"
        )
    return np.round(numbers).astype(np.int64)


Rows = dict[int, tuple[float, ...]]  # place on the grid, in ns -> one value for each feature


def _values(table: Table, columns: Mapping[str, str], clock: Clock) -> Rows:
    """A table's whole rows on the clock's grid."""
    places = [table.column([name.lower()], f"feature {feature}") for name, feature in columns.items()]
    times = read_times(table, clock.column, clock.tick_ns)
    values = np.stack([table.numbers(place) for place in places], axis=1)
    whole = np.isfinite(values).all(axis=1)
    grid = (times + clock.period_ns // 2) // clock.period_ns * clock.period_ns
    return {int(at): tuple(row) for at, row in zip(grid[whole], values[whole].tolist(), strict=True)}


def _devices(found: Sequence[tuple[Table, Rows]]) -> dict[str, Rows]:
    """The rows of each device: all dated ones are of one, called ""."""
    devices: dict[str, Rows] = {}
    for table, rows in found:
        dated = min(rows, default=0) >= YEAR_2000_NS
        device = "" if dated else re.sub("[^a-z0-9._-]+", "-", PurePosixPath(table.name).stem.lower())
        devices.setdefault(device, {}).update(rows)
    return devices


def _sessions(rows: Rows, clock: Clock) -> Iterator[list[int]]:
    session: list[int] = []
    for at in sorted(rows):
        if session and (at - session[-1] > clock.gap_ns or at // clock.session_ns != session[-1] // clock.session_ns):
            yield session
            session = []
        session.append(at)
    if session:
        yield session


def _foreign(device: str, session: list[int], rows: Rows, features: Sequence[str]) -> Foreign:
    messages = (
        Message(topic=feature, log_time_ns=at, publish_time_ns=at, value={"data": np.asarray(value, np.float32)})
        for at in session
        for feature, value in zip(features, rows[at], strict=True)
    )
    base = "none" if device else "local"
    return Foreign(device=device, session=_name(session[0]), time_base=base, tags={}, messages=messages)  # type: ignore[arg-type]


def _name(at_ns: int) -> str:
    """A session is called by its first instant."""
    seconds, rest = divmod(at_ns, SECOND_NS)
    fraction = f".{rest:09d}" if rest else ""
    if at_ns < YEAR_2000_NS:
        return f"from-{seconds}{fraction}s"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H-%M-%S") + fraction
