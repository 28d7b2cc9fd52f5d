"""Instants as people write them. Pure: integers and text, no clock."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from fleetmill.core.errors import InvalidInputError

_SECOND_NS = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_COUNT = re.compile(r"\d{1,19}")
_SINCE = re.compile(r"\+(\d{1,10}(?:\.\d{1,9})?)s")
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?)?(?:Z|\+00:00)?")


def read_moment(text: str, what: str, *, first_ns: int | None) -> int:
    """Nanoseconds UTC of ``1767225600000000000``, ``2026-01-01T00:00:12.5Z`` or ``+12.5s``.

    The last counts from `first_ns`, the first instant that the device lived; None: it has lived none.

    >>> read_moment("2026-01-01T00:00:12.5Z", "START", first_ns=None)
    1767225612500000000
    >>> read_moment("+12.5s", "START", first_ns=100)
    12500000100

    Raises:
        InvalidInputError: it is none of these, or counts from an instant that there is not.
    """
    if _COUNT.fullmatch(text):
        return int(text)
    if since := _SINCE.fullmatch(text):
        if first_ns is None:
            raise InvalidInputError(f"{what} {text}: counts from the first lived instant, and nothing was lived yet")
        return first_ns + int(Decimal(since[1]) * _SECOND_NS)
    if date := _DATE.fullmatch(text):
        return _utc(date[1], date[2] or "00:00:00", date[3] or "", f"{what} {text}")
    raise InvalidInputError(
        f"{what} {text[:60]!r}: must be nanoseconds (1767225600000000000), a UTC time (2026-01-01T00:00:12.5Z) or "
        "seconds since the first lived instant (+12.5s)"
    )


def iso(ns: int) -> str:
    """The UTC time of an instant, exact.

    >>> iso(1767225612500000000)
    '2026-01-01T00:00:12.500000000Z'
    """
    whole = _EPOCH + timedelta(seconds=ns // _SECOND_NS)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns % _SECOND_NS:09d}Z"


def short(ns: int) -> str:
    """The same without zeros at its end.

    >>> short(1767225612000000000), short(1767225612500000000)
    ('2026-01-01T00:00:12Z', '2026-01-01T00:00:12.5Z')
    """
    return iso(ns)[:-1].rstrip("0").rstrip(".") + "Z"


def _utc(day: str, time: str, fraction: str, what: str) -> int:
    try:
        found = datetime.strptime(f"{day} {time} +0000", "%Y-%m-%d %H:%M:%S %z")
    except ValueError as error:
        raise InvalidInputError(f"{what}: is no time ({error})") from None
    return (found - _EPOCH) // timedelta(seconds=1) * _SECOND_NS + int(fraction.ljust(9, "0") or 0)
