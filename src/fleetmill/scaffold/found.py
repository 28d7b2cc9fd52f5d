"""What a table, a recording or an installed line offers to a new line: columns, shapes, how often they come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.line import Array, Feature, Line
from fleetmill.lines.columns import Table, read_table
from fleetmill.lines.tabular import YEAR_2000_NS, Clock, read_times
from fleetmill.seams import recordings

MOST = 4096  # numbers of one channel that a linear model may look at: pictures are left out
TIMES = ("time", "timestamp", "date_time", "datetime", "ts", "t", "date")  # the first that is there
ENDINGS = {"_ns": 1, "_us": 10**3, "_ms": 10**6, "_s": 10**9}
SESSIONS_NS = tuple(
    seconds * 10**9 for seconds in (1, 10, 60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 28 * 86_400)
)  # a table is cut into the longest of these that gives enough sessions
ENOUGH = 16  # sessions, so that some can be held out
ALIKE = 0.9  # channels tick together when so many of their instants are the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One column or channel."""

    name: str  # as the user sees it
    feature: Feature


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What a new line is made from."""

    what: str  # "a table", "a recording", "a line"
    where: str
    found: tuple[Found, ...]
    period_ns: int
    tolerance: float = 1e-4
    clock: Clock | None = None  # of a table
    dated: bool = True  # the clock shows dates
    alike: bool = True  # all columns come at the same instants

    def get(self, name: str) -> Found:
        """The column called `name`.

        Raises:
            InvalidInputError: there is none; lists them.
        """
        wanted = name.strip().lower()
        for found in self.found:
            if wanted in (found.name.lower(), found.feature.name.lower()):
                return found
        raise InvalidInputError(f"{self.where}: no column or channel {name.strip()!r}; found {self.listed()}")

    def listed(self) -> str:
        """Every column, for people."""
        return ", ".join(f.name for f in self.found)


def in_table(path: Path, time: str = "") -> Source:
    """What a CSV file offers; `time`: its column of times, found by its name when not given.

    Raises:
        InvalidInputError: no table, no time in it, or no numbers.
    """
    table = read_table(str(path), _read(path))
    if not table.header:
        raise InvalidInputError(f"{path}: the first line must name the columns. Add a line of names")
    column = _time_column(table, time)
    tick_ns = _tick_ns(table, column)
    times = np.unique(read_times(table, column, tick_ns))
    if len(times) < 2:
        raise InvalidInputError(f"{path}: column {column} shows a single instant. Give a file with more rows")
    period_ns = max(round(float(np.median(np.diff(times)))), 1)
    columns = {
        name: values for name in table.header if name != column and (values := _numbers(table, name)) is not None
    }
    if not columns:
        raise InvalidInputError(f"{path}: no column of numbers beside {column}; found {', '.join(table.header)}")
    session_ns = _session_ns(int(times[-1] - times[0]), period_ns)
    clock = Clock(column=column, tick_ns=tick_ns, period_ns=period_ns, gap_ns=10 * period_ns, session_ns=session_ns)
    return Source(
        what="a table",
        where=str(path),
        found=_named(columns, period_ns),
        period_ns=period_ns,
        tolerance=_tolerance(columns.values()),
        clock=clock,
        dated=int(times[0]) >= YEAR_2000_NS,
    )


def in_recording(path: Path) -> Source:
    """What an MCAP file offers.

    Raises:
        InvalidInputError: no MCAP file, or no channel of numbers in it.
    """
    data = _read(path)
    channels = {n: f for n, f in recordings.read_channels(data, str(path)).items() if _is_small(f)}
    times: dict[str, list[int]] = {name: [] for name in channels}
    values: list[Array] = []
    for message in recordings.read_messages(data, str(path), topics=channels):
        times[message.topic].append(message.log_time_ns)
        values.append(np.asarray(message.value["data"]))
    steps = {n: np.diff(np.unique(t)) for n, t in times.items()}
    if not any(len(step) for step in steps.values()):
        raise InvalidInputError(f"{path}: no channel of numbers with two messages or more. Give another recording")
    period_ns = max(round(float(np.median(step))) for step in steps.values() if len(step))
    ticks = [set(t) for t in times.values()]
    return Source(
        what="a recording",
        where=str(path),
        found=tuple(Found(name=n, feature=_held(f, period_ns)) for n, f in sorted(channels.items())),
        period_ns=period_ns,
        tolerance=_tolerance(values),
        alike=len(set.intersection(*ticks)) >= ALIKE * max(map(len, ticks)),
    )


def in_line(line: Line) -> Source:
    """What an installed line's features offer.

    Raises:
        InvalidInputError: it has nothing but pictures and text.
    """
    small = [f for f in line.features if _is_small(f)]
    if not small:
        raise InvalidInputError(f"line {line.name}: no feature of numbers. Take another line, a recording or a table")
    period_ns = round(1e9 / line.model.rate_hz)
    found = tuple(Found(name=f.name, feature=_held(f, period_ns)) for f in small)
    return Source(what="a line", where=f"line {line.name}", found=found, period_ns=period_ns, alike=False)


def _time_column(table: Table, asked: str) -> str:
    if asked:
        return table.header[table.column([asked.lower()], "the time")]
    for name in (f"{time}{ending}" for time in TIMES for ending in ("", *ENDINGS)):
        if name in table.header:
            return name
    raise InvalidInputError(
        f"{table.name}: which column is the time? Say it with --time; found {', '.join(table.header)}"
    )


def _tick_ns(table: Table, column: str) -> int:
    """The unit of times that are numbers, by the column's name or by their size; 0 for dates."""
    try:
        size = float(np.nanmax(np.abs(table.numbers(table.header.index(column)))))
    except InvalidInputError:
        return 0  # dates: whether they are any is said when they are read
    named = next((tick for ending, tick in ENDINGS.items() if column.endswith(ending)), 0)
    return named or next((tick for above, tick in ((1e17, 1), (1e14, 10**3), (1e11, 10**6)) if size > above), 10**9)


def _numbers(table: Table, name: str) -> Array | None:
    """A column's numbers, or None where there are no numbers in it."""
    try:
        values = table.numbers(table.header.index(name))
    except InvalidInputError:
        return None
    return values[np.isfinite(values)] if np.isfinite(values).any() else None


def _session_ns(span_ns: int, period_ns: int) -> int:
    fitting = [length for length in SESSIONS_NS if span_ns // length >= ENOUGH and length >= 4 * period_ns]
    return fitting[-1] if fitting else max(-(-span_ns // (ENOUGH * period_ns)), 4) * period_ns


def _named(columns: Mapping[str, Array], period_ns: int) -> tuple[Found, ...]:
    found: dict[str, Found] = {}
    for name in columns:
        plain, unit = _unit(name)
        feature = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_") or "column"
        if feature in found:
            feature = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        made = Feature(name=feature, kind="observation", dtype="float32", shape=(), unit=unit, hold_ns=period_ns)
        found[feature] = Found(name=name, feature=made)
    return tuple(found.values())


def _unit(name: str) -> tuple[str, str]:
    """A column called "speed (m/s)" or "speed [m/s]" says its unit."""
    match = re.fullmatch(r"(.+?)\s*[\[(]([^\])]+)[\])]", name)
    return (match[1], match[2]) if match else (name, "1")


def _is_small(feature: Feature) -> bool:
    is_picture = feature.dtype == "uint8" and len(feature.shape) == 3
    numbers = int(np.prod(feature.shape, dtype=np.int64))
    return feature.dtype != "str" and feature.kind != "extra" and not is_picture and 0 < numbers <= MOST


def _held(feature: Feature, period_ns: int) -> Feature:
    return Feature(
        name=feature.name,
        kind=feature.kind,
        dtype=feature.dtype,
        shape=feature.shape,
        unit=feature.unit,
        hold_ns=feature.hold_ns or period_ns,
    )


def _tolerance(values: object) -> float:
    """What float32 can keep of numbers of this size."""
    largest = max((float(np.max(np.abs(v))) for v in values if np.size(v)), default=1.0)  # type: ignore[attr-defined]
    return max(1e-4, float(f"{1e-5 * largest:.1g}"))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file")
    return path.read_bytes()
