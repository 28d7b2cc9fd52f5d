"""The importer ``series``: each CSV of times and values is a device, the whole of it one session.

A later file of the same name goes on with that device: a session is called by its first instant.

Made for the files of the Numenta Anomaly Benchmark (NAB): ``timestamp,value``, and `combined_windows.json` with the
intervals that people marked, by the CSV's path.

Rules where the files leave room:

- Columns in any order; the time may be called timestamp, time, ts, datetime, date_time; the value value or y.
- A column ``label`` or ``anomaly`` with 0 and 1 marks rows too. Without either, nobody looked: the label is NaN.
- Rows are put in order of time; several rows of one time (clocks were set back) count once, with their mean.
- Times stay those of the clock on the wall. A value that is missing is an instant with NaN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Files, Foreign, Importer, Message
from fleetmill.lines.columns import Table, has_tables, tables

HOLD_NS = 3_600_000_000_000  # a value stands for at most an hour: the slowest sensors give one an hour
_TIMES = ("timestamp", "time", "ts", "datetime", "date_time")
_VALUES = ("value", "y")
_LABELS = ("label", "anomaly", "is_anomaly")
_HOUR_NS = 3_600_000_000_000
Window = tuple[int, int]


def read(files: Files) -> Iterator[Foreign]:
    """Every series among the files.

    Raises:
        InvalidInputError: a missing column, something that is no time or number, windows that cannot be read.
    """
    windows = _windows(files)
    for table in tables(files):
        times, values, label = _rows(table)
        marked = next((found for name, found in windows.items() if _is_same(name, table.name)), None)
        if marked is not None:
            inside = [(times >= start) & (times <= end) for start, end in marked]
            label = np.any([np.zeros(len(times), bool), *inside], axis=0).astype(np.float32)
        yield Foreign(
            device=_device(table.name),
            session=f"{datetime.fromtimestamp(int(times[0]) // 10**9, tz=timezone.utc):%Y-%m-%dT%H-%M-%S}",
            time_base="local",
            tags={},
            messages=_messages(times, values, label),
        )


def _rows(table: Table) -> tuple[Array, Array, Array]:
    """(times, values, labels), each time once."""
    times = table.times_ns(table.column(_TIMES, "the time"))
    values = table.numbers(table.column(_VALUES, "the value"))
    name = next((n for n in _LABELS if n in table.header), None)
    label = table.numbers(table.header.index(name)) if name else np.full(len(times), np.nan)
    once, place, number = np.unique(times, return_inverse=True, return_counts=True)
    mean = np.bincount(place, values) / number
    return once, mean, np.bincount(place, label) / number


def _messages(times: Array, values: Array, label: Array) -> Iterator[Message]:
    hours = times % (24 * _HOUR_NS) / _HOUR_NS
    for at_ns, value, hour, wrong in zip(times.tolist(), values, hours, label, strict=True):
        for topic, number in (("value", value), ("hour", hour), ("label.anomaly", wrong)):
            data = np.asarray(number, np.float32)
            yield Message(topic=topic, log_time_ns=at_ns, publish_time_ns=at_ns, value={"data": data})


def _windows(files: Files) -> dict[str, list[Window]]:
    """The marked intervals by the series' path, of every file that is called like windows."""
    found: dict[str, list[Window]] = {}
    for name in files.names():
        if name.lower().endswith("windows.json"):
            try:
                held = json.loads(files.read(name))
                found |= {path: [(_ns(a), _ns(b)) for a, b in pairs] for path, pairs in held.items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise InvalidInputError(
                    f'{name}: expected {{"path.csv": [["start", "end"], ...]}}, found {error!r}. Repair the file'
                ) from error
    return found


def _ns(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) * 1_000_000_000


def _is_same(marked: str, name: str) -> bool:
    """Whether the path in the windows names this file, which may lie in a deeper folder or alone."""
    parts: list[Sequence[str]] = [path.split("/")[::-1] for path in (marked, name)]
    return all(a == b for a, b in zip(*parts))


def _device(name: str) -> str:
    stem = name.split("/")[-1].rpartition(".")[0].lower()
    return re.sub(r"[^a-z0-9._-]", "-", stem)[:40]


series = Importer(name="series", detects=has_tables, read=read)
