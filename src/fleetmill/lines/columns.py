"""Text tables as people have them: CSV, semicolons, tabs or blanks, with a header or without, columns in any order.

For importers of lines. Every refusal names the file, the line or the column, and what was expected.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Files

LAST_YEAR = 2261
ENDINGS = (".csv", ".txt", ".tsv", ".dat")
_DELIMITERS = (",", ";", "\t")
_SAID = 6  # names of a missing column that are told
_EMPTY = frozenset({"", "na", "nan", "null", "none", "?"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One file's rows as text."""

    name: str
    header: tuple[str, ...]  # lower case; empty where the file has none
    rows: tuple[tuple[str, ...], ...]
    first: int  # the file's line number of the first row

    def where(self, row: int) -> str:
        """A row's place, for people."""
        return f"{self.name} line {self.first + row}"

    def column(self, names: Sequence[str], what: str) -> int:
        """The column that is called by the first of `names` that is there.

        Raises:
            InvalidInputError: there is none; says which there are.
        """
        for name in names:
            if name in self.header:
                return self.header.index(name)
        raise InvalidInputError(
            f"{self.name}: no column with {what}; expected one called {' or '.join(names[:_SAID])}, "
            f"found {', '.join(self.header) or 'no header'}. Add it or rename one"
        )

    def text(self, column: int) -> list[str]:
        """A column as it stands there."""
        return [row[column].strip() for row in self.rows]

    def numbers(self, column: int) -> Array:
        """A column as float64; NaN where nothing stands.

        Raises:
            InvalidInputError: something that is no number.
        """
        return np.array(self._read(column, _number, "a number"), np.float64)

    def times_ns(self, column: int) -> Array:
        """A column of dates and times as int64 nanoseconds of the clock on the wall: a zone is left out.

        Raises:
            InvalidInputError: something that is no time, or one that no recording holds.
        """
        return np.array(self._read(column, _time_ns, "a time like 2018-03-11 01:00:00, of 1970 to 2261"), np.int64)

    def _read(self, column: int, read: Callable[[str], float], what: str) -> list[float]:
        found = []
        for number, row in enumerate(self.rows):
            try:
                found.append(read(row[column].strip()))
            except ValueError:
                called = self.header[column] if self.header else f"number {column + 1}"
                raise InvalidInputError(
                    f"{self.where(number)}: column {called} must hold {what}, found {row[column]!r}. Repair the row"
                ) from None
        return found


def tables(files: Files) -> list[Table]:
    """Every table among the files; notes and licences beside them are passed over.

    Raises:
        InvalidInputError: rows of unequal length.
    """
    names = [name for name in files.names() if name.lower().endswith(ENDINGS)]
    return [read_table(name, files.read(name)) for name in names if _is_table(files.read(name))]


def has_tables(files: Files) -> bool:
    """Whether there is any table among the files."""
    return any(_is_table(files.read(name)) for name in files.names() if name.lower().endswith(ENDINGS))


def read_table(name: str, data: bytes) -> Table:
    """The table in a file's bytes.

    Raises:
        InvalidInputError: rows of unequal length, or none, or a quotation mark that is never closed.
    """
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    try:
        split = _split(lines)
    except csv.Error as error:
        raise InvalidInputError(f"{name}: no table that can be read ({error}). Repair the file") from error
    rows = [(n, r) for n, r in enumerate(split, start=1) if any(field.strip() for field in r)]
    has_header = bool(rows) and not all(_is_number(field) for field in rows[0][1])
    header = tuple(field.strip().lower() for field in rows[0][1]) if has_header else ()
    body = rows[1:] if has_header else rows
    if not body:
        raise InvalidInputError(f"{name}: a table without rows. Give another file")
    width = len(rows[0][1])
    for number, row in body:
        if len(row) != width:
            raise InvalidInputError(
                f"{name} line {number}: {len(row)} fields, the first line has {width}. Repair the row or take it out"
            )
    if len(set(header)) != len(header):
        raise InvalidInputError(f"{name}: a column stands twice in {', '.join(header)}. Rename one")
    return Table(name=name, header=header, rows=tuple(tuple(row) for _, row in body), first=body[0][0])


def _split(lines: Sequence[str]) -> list[list[str]]:
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    if first.count(delimiter):
        return list(csv.reader(lines, delimiter=delimiter))
    return [line.split() for line in lines]


def _is_table(data: bytes) -> bool:
    """Two first lines of one width, at least two fields, and a number or a time in the second."""
    lines = [line for line in data[:4096].decode("utf-8-sig", errors="replace").splitlines() if line.strip()][:2]
    rows = _split(lines)
    if not rows or len(rows[0]) < 2 or len(rows[-1]) != len(rows[0]):
        return False
    return len(rows) == 1 or any(_is_number(field) or _is_time(field) for field in rows[1])


def _number(text: str) -> float:
    return float("nan") if text.lower() in _EMPTY else float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _time_ns(text: str) -> int:
    wall = datetime.fromisoformat(text.replace("Z", "+00:00")).replace(tzinfo=timezone.utc)
    if not 1970 <= wall.year <= LAST_YEAR:
        raise ValueError(text)  # a recording counts nanoseconds since 1970 in 63 bits
    return int(wall.timestamp()) * 1_000_000_000 + wall.microsecond * 1000


def _is_time(text: str) -> bool:
    try:
        _time_ns(text.strip())
    except ValueError:
        return False
    return True
