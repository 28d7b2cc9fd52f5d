"""Foreign files that are garbage, drawn by Hypothesis: an importer must refuse them in one line.

Names, columns and keys are words that the importer itself mentions: so garbage gets past its first look.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from hypothesis import strategies as st

from fleetmill.core.line import Importer

Change = Callable[[bytes, int, int], tuple[bytes, str]]  # data, place, what else -> changed data, in words

_MOST = 400  # functions that are looked into
_MOST_BYTES, _MOST_TEXTS = 2000, 3  # of a text, and of texts of a kind
_NUMBERS = ("0", "1", "1.5", "-7", "1e300", "9" * 30)
_TIMES = ("2020-01-01 00:00:00", "2020-01-01 01:00:00", "2020-01-01 02:00:00", "1900-01-01", "9999-12-31 23:59:59")
_CELLS = (*_NUMBERS, *_TIMES, "", "nan", "inf", "x", '"', "\0")
_VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 1.5, 10**30, "x", "", [], {}, [[0]], [["2020-01-01", "x"]], ["0.0"], {"x": 1},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """Files in memory; `core.line.Files`."""

    held: tuple[tuple[str, bytes], ...]
    changes: tuple[str, ...] = ()  # what was done to good files, in words

    def names(self) -> Sequence[str]:
        """Every file, sorted."""
        return sorted(name for name, _ in self.held)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return dict(self.held)[name]

    def __str__(self) -> str:
        """In words."""
        if self.changes:
            return f"the sample files, {' and '.join(self.changes)}"
        told = [f"{name} with {data[:60]!r}{'...' if len(data) > 60 else ''}" for name, data in sorted(self.held)]
        return "the file " + " and the file ".join(told) if told else "no file"


def garbage(importer: Importer, sample: Mapping[str, bytes]) -> st.SearchStrategy[Garbage]:
    """A few files; often with names and words that this importer knows, or made of `sample`, which it reads."""
    known = words(importer.detects, importer.read)
    endings = [w for w in known if re.fullmatch(r"(\.[a-z0-9]{1,8})+", w)] or [".csv", ".json", ".bin"]
    whole = [w for w in known if re.fullmatch(r"[\w-]+\.[a-z0-9]{1,8}", w)]
    begins = [w for w in known if re.fullmatch(r"[a-z]{2,12}[_/]", w)]
    keys = [w for w in known if re.fullmatch(r"[A-Za-z_][\w/. -]{0,30}", w) and w not in whole] or ["time", "value"]
    names = st.sampled_from([*whole, *(f"{b}0{e}" for b in ["", *begins] for e in endings)])
    contents = _table(keys) | _json(keys) | st.binary(max_size=40)
    files = st.lists(st.tuples(names, contents), max_size=3, unique_by=lambda f: f[0])
    made = files.map(lambda held: Garbage(held=tuple(held)))
    if not sample:
        return made
    sample = _small(sample)
    place = st.integers(0, 9999)
    text = [name for name, data in sorted(sample.items()) if _is_text(data)] or sorted(sample)
    change = st.tuples(st.sampled_from(text) | st.sampled_from(sorted(sample)), st.sampled_from(_CHANGES), place, place)
    return made | st.lists(change, min_size=1, max_size=2).map(lambda changes: _changed(sample, changes))


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:_MOST_BYTES]


def _small(sample: Mapping[str, bytes]) -> dict[str, bytes]:
    """Whole lines of the beginning of a few texts, and every other file: what they name must be there."""
    found: dict[str, bytes] = {}
    kinds: Counter[str] = Counter()
    for name, data in sorted(sample.items()):
        kinds[name.rpartition(".")[2]] += _is_text(data)
        if not _is_text(data):
            found[name] = data
        elif kinds[name.rpartition(".")[2]] <= _MOST_TEXTS:
            found[name] = data if len(data) <= _MOST_BYTES else data[: data.rfind(b"\n", 0, _MOST_BYTES) + 1]
    return found


def _changed(sample: Mapping[str, bytes], changes: Sequence[tuple[str, Change, int, int]]) -> Garbage:
    held, told = dict(sample), []
    for name, change, place, other in changes:
        held[name], how = change(held[name], place, other)
        told.append(f"{name} {how}")
    return Garbage(held=tuple(held.items()), changes=tuple(told) or ("as they are",))


def _cell(data: bytes, place: int, other: int) -> tuple[bytes, str]:
    found = list(re.finditer(rb"[^\s,;:\[\]{}]+", data[:_MOST_BYTES]))[:60]
    if not found:
        return data, "as it is"
    match, cell = found[place % len(found)], _CELLS[other % len(_CELLS)]
    told = f"with {cell!r} for {match[0][:30].decode(errors='replace')!r}"
    return data[: match.start()] + cell.encode() + data[match.end() :], told


def _cut_short(data: bytes, place: int, other: int) -> tuple[bytes, str]:  # noqa: ARG001
    end = place % (len(data) + 1)
    return data[:end], f"cut short after {end} bytes"


def _byte(data: bytes, place: int, other: int) -> tuple[bytes, str]:
    at = place % (len(data) + 1)
    return data[:at] + bytes([other % 256]) + data[at + 1 :], f"with byte {at} changed to {other % 256}"


def _line(data: bytes, place: int, other: int) -> tuple[bytes, str]:
    lines = data.splitlines(keepends=True) or [b""]
    at, times = place % len(lines), 2 * (other % 2)
    told = f"with line {at + 1} {'twice' if times else 'missing'}"
    return b"".join([*lines[:at], *(lines[at : at + 1] * times), *lines[at + 1 :]]), told


_CHANGES: tuple[Change, ...] = (_cell, _cell, _cell, _cut_short, _byte, _line)


def words(*functions: Callable[..., Any]) -> list[str]:
    """The strings that these functions, and those of their package that they use, mention; sorted."""
    todo: list[Any] = list(functions)
    found: set[str] = set()
    seen: set[CodeType] = set()
    while todo and len(seen) < _MOST:
        function = todo.pop()
        code = getattr(function, "__code__", None)
        if code is None or code in seen:
            continue
        seen.add(code)
        package = str(function.__module__).split(".")[0]
        constants, names = _mentioned(code)
        cells = [c.cell_contents for c in function.__closure__ or () if _is_filled(c)]
        used = [function.__globals__[n] for n in names if n in function.__globals__]
        for value in (*constants, *cells, *used):
            found |= set(_texts(value))
            todo += [value] if str(getattr(value, "__module__", "")).split(".")[0] == package else []
    return sorted(found)


def _mentioned(code: CodeType) -> tuple[list[Any], set[str]]:
    constants, names = list(code.co_consts[1:] if code.co_consts else []), set(code.co_names)  # the first: its docs
    for inner in [c for c in code.co_consts if isinstance(c, CodeType)]:
        more, others = _mentioned(inner)
        constants, names = [*constants, *more], names | others
    return constants, names


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, list, frozenset, set)):
        yield from (v for v in _flat(value) if isinstance(v, str))
    elif isinstance(value, dict):
        yield from (k for k in value if isinstance(k, str))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        else:
            yield value


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _table(keys: list[str]) -> st.SearchStrategy[bytes]:
    """Columns of times, of numbers or of anything, under names that the importer knows, or bare numbers."""
    column = st.tuples(st.sampled_from(keys), st.sampled_from((_TIMES, _TIMES, _NUMBERS, _NUMBERS, _CELLS)))
    headed = st.tuples(st.lists(column, min_size=2, max_size=6), st.integers(0, 3), st.integers(0, 30))
    rows = headed.map(
        lambda t: [[key for key, _ in t[0]], *([c[(t[2] + 7 * r) % len(c)] for _, c in t[0]] for r in range(t[1]))]
    )
    bare = st.integers(1, 30).map(lambda width: [[_NUMBERS[i % len(_NUMBERS)] for i in range(width)]] * 2)
    ragged = rows.map(lambda held: [*held, ["1"]])
    return st.tuples(rows | rows | rows | bare | ragged, st.sampled_from(",;\t")).map(
        lambda t: "\n".join(t[1].join(row) for row in t[0]).encode()
    )


def _json(keys: list[str]) -> st.SearchStrategy[bytes]:
    """Lines of JSON, or one list: objects with keys that the importer knows, and other values."""

    def made(number: int, seed: int, is_list: bool) -> bytes:
        chance = random.Random(seed)  # noqa: S311 - no secret
        held = [
            {k: chance.choice(_VALUES) for k in chance.sample(keys, min(len(keys), 4))}
            if chance.random() < 0.7
            else chance.choice(_VALUES)
            for _ in range(number)
        ]
        return (json.dumps(held) if is_list else "\n".join(json.dumps(one) for one in held)).encode()

    return st.builds(made, st.integers(1, 6), st.integers(0, 999), st.booleans())
