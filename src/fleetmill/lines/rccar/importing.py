"""The importer ``donkeycar``: each drive of a tub is a session, each record five to seven messages.

Pictures stay the JPEG bytes that the car wrote: ``{"data": uint8 (n,), "format": "jpeg"}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import UNREADABLE, Array, Files, Foreign, Importer, Message
from fleetmill.lines.rccar.tub import Drive, Record, drives, folders

_LARGEST = float(np.finfo(np.float32).max)
GAP_SECONDS = 5.0  # a longer pause ends a drive


def read(files: Files) -> Iterator[Foreign]:
    """The tubs' drives; a broken record is refused."""
    return sessions(files)


def sessions(files: Files, *, gap_seconds: float = GAP_SECONDS, skip_broken: bool = False) -> Iterator[Foreign]:
    """The tubs' drives as sessions.

    Raises:
        InvalidInputError: see `tub.drives`; a picture that is no whole JPEG is found only when its message is read.
    """
    for drive in drives(files, gap_seconds=gap_seconds, skip_broken=skip_broken):
        name = str(drive.records[0].fields.get("_session_id", ""))
        yield Foreign(
            device="",
            session=drive.session,
            time_base="utc",
            tags={"tub_session": name} if name else {},
            messages=_messages(files, drive, skip_broken),
        )


def _messages(files: Files, drive: Drive, skip_broken: bool) -> Iterator[Message]:
    for record in drive.records:
        try:
            picture, values = ({}, {}) if record.broken else (_jpeg(files, record), _values(record))
        except InvalidInputError:
            if not skip_broken:
                raise
            picture, values = {}, {}
        if not values:
            at_ns = record.log_time_ns
            yield Message(topic=UNREADABLE, log_time_ns=at_ns, publish_time_ns=record.publish_time_ns, value={})
            continue
        for topic, value in ({"camera": picture} | values).items():
            yield Message(
                topic=topic, log_time_ns=record.log_time_ns, publish_time_ns=record.publish_time_ns, value=value
            )


def _jpeg(files: Files, record: Record) -> Mapping[str, Array | str]:
    data = files.read(record.picture)
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        raise InvalidInputError(
            f"{record.where}: picture {record.picture} is no whole JPEG ({len(data)} bytes). "
            "Copy the tub from the car again, or leave broken records out (--skip-broken)."
        )
    return {"data": np.frombuffer(data, dtype=np.uint8), "format": "jpeg"}


def _values(record: Record) -> dict[str, Mapping[str, Array | str]]:
    """What the car did, what the driver did (only where he steered), and what it knew."""
    mode = str(record.fields.get("user/mode", "user"))
    drove = "user" if mode == "user" else "pilot"
    values: dict[str, Mapping[str, Array | str]] = {
        "mode": {"data": mode},
        "deleted": {"data": np.array(record.deleted, dtype=np.float32)},
    }
    taken = {
        "steer": f"{drove}/angle",
        "throttle": f"{'pilot' if mode == 'local' else 'user'}/throttle",
        "label.steer": "user/angle" if drove == "user" else "",
        "range_cm": "range/cms",
    }
    for topic, name in taken.items():
        if record.fields.get(name) is not None:
            values[topic] = {"data": _number(record, name)}
    return values


def _number(record: Record, name: str) -> Array:
    value: Any = record.fields[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:  # nor NaN
        raise InvalidInputError(f"{record.where}: {name} must be a number, found {value!r}.")
    return np.array(value, dtype=np.float32)


def read_past(files: Files) -> Iterator[Foreign]:
    """The tubs' drives; a broken record is a message that says so."""
    return sessions(files, skip_broken=True)


donkeycar = Importer(name="donkeycar", detects=lambda files: bool(folders(files)), read=read, read_past=read_past)
