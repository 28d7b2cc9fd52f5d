"""Donkeycar v2 tubs become sessions: what stands in the files, record by record.

Source: donkeycar/parts/datastore_v2.py and tub_v2.py (release 4): `manifest.json` is five lines of JSON (inputs, types,
metadata, sessions, catalogs with the indexes that a human marked deleted), a catalog is one JSON object per line,
pictures are JPEG files in `images/`.

Rules where a tub leaves room:

- Records are read in the order of the catalogs. A second record with the same ``_index`` and the same content counts
  once; with other content it is broken.
- A drive ends at a pause of more than `gap_seconds`, at another ``_session_id``, and where the clock was set back by
  more than the same length.
- A smaller step back, or none, keeps the record: its log time becomes 1 ms more than the record's before it, its
  publish time stays what the tub says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Files

MANIFEST = "manifest.json"
_MS = 1_000_000
_PICTURE, _TIME, _INDEX = "cam/image_array", "_timestamp_ms", "_index"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One instant of a tub."""

    where: str  # file and line, for people
    picture: str  # the JPEG's name among the files
    log_time_ns: int
    publish_time_ns: int
    deleted: bool  # marked by a human
    fields: dict[str, Any]
    broken: bool = False  # it was there and cannot be read; nothing but its time counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Drive:
    """Records between two pauses."""

    folder: str  # of the tub among the files, "" or ending in "/"
    session: str  # UTC time of its first record: unique per car, the same in every import
    records: Sequence[Record]


def folders(files: Files) -> list[str]:
    """Where tubs lie among the files: "" for the top, else a prefix that ends in "/"."""
    names = files.names()
    tops = sorted(name.removesuffix(MANIFEST) for name in names if name.split("/")[-1] == MANIFEST)
    return [top for top in tops if any(_is_catalog(name, top) for name in names)]


def drives(files: Files, *, gap_seconds: float = 5.0, skip_broken: bool = False) -> Iterator[Drive]:
    """The drives of every tub among the files, in time order within a tub.

    Raises:
        InvalidInputError: a manifest, a record or a picture is missing or broken; with `skip_broken` a record comes
            marked as broken instead. A broken manifest is always refused: without it nobody knows what was deleted.
    """
    for folder in folders(files):
        part: list[Record] = []
        for record in _records(files, folder, skip_broken):
            if part and _ends(part[-1], record, gap_seconds):
                yield _drive(folder, part)
                part = []
            part.append(_after(part[-1], record) if part else record)
        if part:
            yield _drive(folder, part)


def _ends(before: Record, record: Record, gap_seconds: float) -> bool:
    apart = record.publish_time_ns - before.publish_time_ns
    return abs(apart) > gap_seconds * 1e9 or record.fields.get("_session_id") != before.fields.get("_session_id")


def _after(before: Record, record: Record) -> Record:
    if record.log_time_ns > before.log_time_ns:
        return record
    return replace(record, log_time_ns=before.log_time_ns + _MS)


def _drive(folder: str, records: Sequence[Record]) -> Drive:
    start = datetime.fromtimestamp(records[0].publish_time_ns // _MS / 1000, tz=timezone.utc)
    session = start.strftime("%Y%m%dT%H%M%S.") + f"{start.microsecond // 1000:03d}Z"
    return Drive(folder=folder, session=session, records=tuple(records))


def _records(files: Files, folder: str, skip_broken: bool) -> Iterator[Record]:
    catalogs, deleted = _manifest(files, folder)
    pictures = {name for name in files.names() if name.startswith(folder)}
    seen: dict[int, dict[str, Any]] = {}
    last: Record | None = None
    for catalog in catalogs:
        for number, text in enumerate(_text(files, folder + catalog, pictures).splitlines(), start=1):
            where, fields, broken = f"{folder}{catalog} line {number}", {}, False
            try:
                fields = _fields(text, where)
                if fields == seen.get(fields[_INDEX]):
                    continue
                _check(fields, seen, f"{folder}images/", pictures, where)
                seen[fields[_INDEX]] = fields
            except InvalidInputError:
                if not skip_broken:
                    raise
                broken = True
            if broken and not _is_time(fields.get(_TIME)):
                if last is not None:  # nobody knows when it was: right after the one before
                    yield replace(last, where=where, broken=True)
                continue
            last = Record(
                where=f"{where} (record {fields[_INDEX]})",
                picture=f"{folder}images/{fields.get(_PICTURE)}",
                log_time_ns=fields[_TIME] * _MS,
                publish_time_ns=fields[_TIME] * _MS,
                deleted=fields[_INDEX] in deleted,
                fields=fields,
                broken=broken,
            )
            yield last


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63 // _MS  # what a recording can hold


def _manifest(files: Files, folder: str) -> tuple[list[str], frozenset[int]]:
    where = folder + MANIFEST
    try:
        last = json.loads(files.read(where).decode().splitlines()[4])
        return [str(path) for path in last["paths"]], frozenset(int(i) for i in last.get("deleted_indexes", ()))
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{where}: expected five lines of JSON, the last with paths and deleted_indexes, found {error!r}. "
            "Copy the tub from the car again."
        ) from error


def _text(files: Files, name: str, names: set[str]) -> str:
    if name not in names:
        raise InvalidInputError(f"{name}: named in {MANIFEST}, not among the files. Copy the tub from the car again.")
    return files.read(name).decode(errors="replace")


def _fields(text: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{where}: no JSON ({error}): {text[:40]!r}. {_ADVICE}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get(_INDEX), int):
        raise InvalidInputError(f"{where}: expected an object with {_INDEX}, found {text[:40]!r}. {_ADVICE}")
    return fields


def _check(
    fields: dict[str, Any], seen: dict[int, dict[str, Any]], images: str, pictures: set[str], where: str
) -> None:
    record = f"{where} (record {fields[_INDEX]})"
    if fields[_INDEX] in seen:
        raise InvalidInputError(f"{record}: this index was there before with other content. {_ADVICE}")
    if not _is_time(fields.get(_TIME)):
        raise InvalidInputError(f"{record}: {_TIME} must be milliseconds UTC, found {fields.get(_TIME)!r}. {_ADVICE}")
    if f"{images}{fields.get(_PICTURE)}" not in pictures:
        raise InvalidInputError(f"{record}: picture {images}{fields.get(_PICTURE)} is missing. {_ADVICE}")


_ADVICE = "Copy the tub from the car again, or leave broken records out (--skip-broken)."


def _is_catalog(name: str, top: str) -> bool:
    last = name.removeprefix(top)
    return name.startswith(top) and last.startswith("catalog_") and last.endswith(".catalog")
