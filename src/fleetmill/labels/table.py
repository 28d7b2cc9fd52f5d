"""CSV of intervals: device, session, start, end, value, and if wanted feature and source; in any order. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from fleetmill.core.errors import InvalidInputError
from fleetmill.labels.rows import Found, Looked, Reader, Row, instant, texted
from fleetmill.lines.columns import Table, read_table

_START, _END = ("start", "start_ns", "begin", "time", "time_ns"), ("end", "end_ns", "stop")
_VALUE = ("label", "value", "class")
HEADER = ("device", "session", "start", "end", "feature", "value", "source")


def read(name: str, data: bytes, reader: Reader) -> Found:
    """The rows of a table. An empty value is a question that nobody answered, an empty end an instant.

    Raises:
        InvalidInputError: a column is missing, or something in a row is no time or value; says where.
    """
    table = read_table(name, data)
    device, start = table.column(["device"], "the device"), table.column(_START, "the start")
    value = table.column(_VALUE, "the value")
    optional = {what: _maybe(table, names) for what, names in _OPTIONAL.items()}
    rows, looked = [], dict[tuple[str, str, str], Looked]()
    for number, cells in enumerate(table.rows):
        where = table.where(number)
        if not cells[value].strip():
            continue

        def cell(what: str, cells: Sequence[str] = cells) -> str:
            place = optional[what]
            return cells[place].strip() if place is not None else ""

        who, session = cells[device].strip(), cell("session")
        feature = reader.named(cell("feature"), where)
        start_ns = reader.moment(who, cells[start].strip(), f"{where}: start")
        end_ns = reader.moment(who, cell("end"), f"{where}: end") if cell("end") else instant(start_ns)
        row = Row(
            where=where,
            device=who,
            session=session,
            feature=feature.name,
            start_ns=start_ns,
            end_ns=end_ns,
            value=reader.value(cells[value], feature, where),
            source=cell("source"),
        )
        rows.append(row)
        key = (who, session, feature.name)
        seen = Looked(where=where, device=who, session=session, feature=feature.name, start_ns=0, end_ns=0)
        looked.setdefault(key, seen)
    return Found(rows=tuple(rows), looked=tuple(looked.values()), explicit=True)


def write(rows: Sequence[Row], questions: Sequence[Row], classes: Mapping[str, float]) -> bytes:
    """A table of what is known, and of `questions` with an empty value, by device and time."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    known = [(r, texted(classes, r.value)) for r in rows] + [(r, "") for r in questions]
    for row, value in sorted(known, key=lambda k: (k[0].device, k[0].start_ns, k[0].feature)):
        writer.writerow([row.device, row.session, row.start_ns, row.end_ns, row.feature, value, row.source])
    return text.getvalue().encode()


_OPTIONAL = {"session": ("session",), "end": _END, "feature": ("feature",), "source": ("source",)}


def _maybe(table: Table, names: Sequence[str]) -> int | None:
    try:
        return table.column(names, "")
    except InvalidInputError:
        return None
