"""The importer ``cmapss``: each engine of a C-MAPSS file is a device, its life one session, a cycle one instant.

Source: Saxena, Goebel, Simon and Eklund, Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation,
PHM 2008: 26 numbers a row and no header: engine, cycle, three settings, 21 sensors. A file with a header may have its
columns in any order.

Rules where the files leave room:

- A file whose name says ``test`` ends before its engines fail: what was left then stands in ``RUL_*`` or ``*truth*``
  beside it, one number per engine; without that file the labels are NaN. Every other file runs to failure.
- A row that stands twice counts once; two rows of one cycle that differ are refused.
- A cycle that is missing makes a gap; what was left counts from the last cycle all the same.
- Rows that begin later than an engine's first cycle are a session of their own: the rest of a life that came in before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Files, Foreign, Importer, Message
from fleetmill.lines.columns import ENDINGS, Table, has_tables, tables

SETTINGS, SENSORS = 3, 21
PERIOD_NS = 3_600_000_000_000  # a cycle is a flight: it counts as an hour
EPOCH_NS = 946_684_800_000_000_000  # 2000-01-01: a cycle has a number, no date
_MOST = 1_000_000  # engines, and cycles of one: what is beyond is no number of either
_ENGINE = ("engine", "unit", "unit_number", "unit_nr", "id")
_CYCLE = ("cycle", "cycles", "time_in_cycles", "time_cycles", "time")


def _names(number: int, kind: str, *more: str) -> tuple[str, ...]:
    return tuple(f"{word}{sep}{number}" for sep in ("", "_", " ") for word in (kind, *more))


_COLUMNS = (
    (_ENGINE, "the engine's number"),
    (_CYCLE, "the cycle's number"),
    *((_names(n, "setting", "op_setting", "operational_setting", "os"), f"setting {n}") for n in (1, 2, 3)),
    *((_names(n, "s", "sensor", "sensor_measurement", "sm"), f"sensor {n}") for n in range(1, SENSORS + 1)),
)


def read(files: Files) -> Iterator[Foreign]:
    """Every engine of every table among the files.

    Raises:
        InvalidInputError: a missing column, another number of columns, no number, two rows of one cycle that differ.
    """
    found = [table for table in tables(files) if not _is_truth(table.name)]
    for table in found:
        prefix = "engine" if len(found) == 1 else _stem(table.name)
        left, rows = _left(files, table), _rows(table)
        for engine in np.unique(rows[:, 0]):
            mine = _one_life(table, rows[rows[:, 0] == engine])
            yield Foreign(
                device=f"{prefix}-{int(engine)}",
                session="life" if mine[0, 1] <= 1 else f"life-from-{int(mine[0, 1])}",
                time_base="cycle",
                tags={},
                messages=_messages(mine, left.get(int(engine), float("nan")) if left is not None else 0.0),
            )


def _rows(table: Table) -> Array:
    """(N, 26): engine, cycle, settings, sensors."""
    if table.header:
        places = [table.column(names, what) for names, what in _COLUMNS]
    else:
        width = len(table.rows[0])
        if width != len(_COLUMNS):
            raise InvalidInputError(
                f"{table.name}: {width} numbers a row and no header; expected {len(_COLUMNS)} (engine, cycle, "
                f"{SETTINGS} settings, {SENSORS} sensors). Another sensor set wants a line of its own: docs/lines.md"
            )
        places = list(range(width))
    rows = np.stack([table.numbers(place) for place in places], axis=1)
    bad = np.flatnonzero(~((rows[:, :2] >= 0) & (rows[:, :2] <= _MOST)).all(axis=1))
    if len(bad):
        raise InvalidInputError(
            f"{table.where(int(bad[0]))}: no engine or no cycle; expected numbers from 0 to {_MOST:,}. Repair the row"
        )
    return rows


def _one_life(table: Table, rows: Array) -> Array:
    """An engine's rows by cycle, each once."""
    rows = np.unique(rows, axis=0)  # sorted by engine, cycle; equal rows once
    twice = np.flatnonzero(np.diff(rows[:, 1]) == 0)
    if len(twice):
        raise InvalidInputError(
            f"{table.name}: engine {int(rows[0, 0])} has two rows of cycle {int(rows[twice[0], 1])} that differ. "
            "Take one out"
        )
    return rows


def _messages(rows: Array, left: float) -> Iterator[Message]:
    for row in rows:
        at_ns = EPOCH_NS + round(row[1]) * PERIOD_NS
        values: Mapping[str, Array] = {
            "settings": row[2 : 2 + SETTINGS],
            "sensors": row[2 + SETTINGS :],
            "label.rul": np.asarray(rows[-1, 1] - row[1] + left),
        }
        for topic, value in values.items():
            data = value.astype(np.float32)
            yield Message(topic=topic, log_time_ns=at_ns, publish_time_ns=at_ns, value={"data": data})


def _left(files: Files, table: Table) -> Mapping[int, float] | None:
    """Cycles that each engine had left when its rows end; None: they end with its failure."""
    if "test" not in _stem(table.name):
        return None
    beside = [n for n in files.names() if n.lower().endswith(ENDINGS) and _is_truth(n) and _is_pair(n, table.name)]
    if not beside:
        return {}
    numbers = files.read(beside[0]).decode(errors="replace").split()
    try:
        return {engine: float(number) for engine, number in enumerate(numbers, start=1)}
    except ValueError as error:
        raise InvalidInputError(f"{beside[0]}: expected one number per engine ({error}). Repair the file") from None


def _is_truth(name: str) -> bool:
    return "truth" in _stem(name) or _stem(name).startswith("rul")


def _is_pair(truth: str, test: str) -> bool:
    """FD001 with FD001; a name without such a code fits any."""
    codes = [{part for part in _stem(name).split("_") if part.startswith("fd")} for name in (truth, test)]
    return codes[0] == codes[1] or not (codes[0] and codes[1])


def _stem(name: str) -> str:
    return name.split("/")[-1].rpartition(".")[0].lower()


cmapss = Importer(name="cmapss", detects=has_tables, read=read)
