"""The importer ``hourly``: tables of times and counts become one value an hour; a month is a session.

Rules where the files leave room:

- Columns in any order. Time: date_time, ts, timestamp, datetime, lastupdated, time, date. Value: traffic_volume,
  volume, count, occupancy, y, value. Several sensors in one file: systemcodenumber, sensor, station, site or device
  names them.
- An hour's value is the mean of its rows: doubled rows count once, half-hourly gauges are averaged, and the hour that
  comes twice when clocks are set back is the mean of both. The hour that is left out in spring is a missing one.
- An hour without a row is recorded as NaN (the sensor was there and said nothing), up to two days; a longer silence
  ends the session, and its time is nobody's.
- A column ``holiday`` names the day in the row of its midnight (or in all); ``None``, ``0`` and nothing are no holiday.
- Times stay those of the clock on the wall: people drive and sleep by it. A zone is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from fleetmill.core.line import Array, Files, Foreign, Importer, Message
from fleetmill.lines.columns import Table, has_tables, tables

HOUR_NS = 3_600_000_000_000
SILENT_HOURS = 48  # a longer silence ends a session
_TIMES = ("date_time", "ts", "timestamp", "datetime", "lastupdated", "time", "date")
_VALUES = ("traffic_volume", "volume", "count", "occupancy", "y", "value")
_SENSORS = ("systemcodenumber", "sensor", "station", "site", "device")
_NO_HOLIDAY = frozenset({"", "none", "0", "0.0", "false", "no", "nan"})
_MONDAY = 3  # 1970-01-01 was a Thursday


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hours:
    """One sensor's rows, on hours since 1970 by the clock on the wall."""

    hour: Array  # int64 (N,), rising, each once
    value: Array  # float64 (N,)
    holidays: frozenset[int]  # days since 1970


def read(files: Files) -> Iterator[Foreign]:
    """Every sensor's months.

    Raises:
        InvalidInputError: a missing column, something that is no time or number.
    """
    found = tables(files)
    for table in found:
        for sensor, hours in _sensors(table):
            name = "-".join(part for part in (_name(table) if len(found) > 1 else "", sensor) if part)
            for part in _sessions(hours):
                yield Foreign(
                    device=name, session=_session(part), time_base="local", tags={}, messages=_messages(part, hours)
                )


def _sensors(table: Table) -> Iterator[tuple[str, _Hours]]:
    times = table.times_ns(table.column(_TIMES, "the time"))
    values = table.numbers(table.column(_VALUES, "what was counted"))
    days = times // (24 * HOUR_NS)
    column = next((name for name in _SENSORS if name in table.header), None)
    names = np.array(table.text(table.header.index(column)) if column else [""] * len(times))
    marked = table.text(table.header.index("holiday")) if "holiday" in table.header else [""] * len(times)
    holidays = frozenset(int(d) for d, text in zip(days, marked, strict=True) if text.lower() not in _NO_HOLIDAY)
    for name in np.unique(names):
        mine = (names == name) & np.isfinite(values)
        hour, place, number = np.unique(times[mine] // HOUR_NS, return_inverse=True, return_counts=True)
        if len(hour):
            mean = np.bincount(place, values[mine]) / number
            yield _slug(str(name)), _Hours(hour=hour, value=mean, holidays=holidays)


def _sessions(hours: _Hours) -> Iterator[Array]:
    """The hours of each session (int64), the silent ones too: it ends with its month or at a long silence."""
    edges = np.flatnonzero(np.diff(hours.hour) > SILENT_HOURS) + 1
    for run in np.split(hours.hour, edges):
        grid = np.arange(run[0], run[-1] + 1)
        month = grid.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64)
        yield from np.split(grid, np.flatnonzero(np.diff(month)) + 1)


def _session(grid: Array) -> str:
    return f"{datetime.fromtimestamp(int(grid[0]) * 3600, tz=timezone.utc):%Y-%m-%dT%H}"


def _messages(grid: Array, hours: _Hours) -> Iterator[Message]:
    place = np.searchsorted(hours.hour, grid).clip(0, len(hours.hour) - 1)
    value = np.where(hours.hour[place] == grid, hours.value[place], np.nan).astype(np.float32)
    for hour, volume in zip(grid.tolist(), value, strict=True):
        at_ns, day = hour * HOUR_NS, hour // 24
        holidays = [float(d in hours.holidays) for d in (day, day + 1)]
        calendar = np.array([hour % 24, (day + _MONDAY) % 7, *holidays], np.float32)
        for topic, data in (("volume", np.asarray(volume)), ("calendar", calendar)):
            yield Message(topic=topic, log_time_ns=at_ns, publish_time_ns=at_ns, value={"data": data})


def _name(table: Table) -> str:
    return _slug(table.name.split("/")[-1].rpartition(".")[0])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", text.lower())[:40]


hourly = Importer(name="hourly", detects=has_tables, read=read)
