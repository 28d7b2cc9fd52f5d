"""Canonical JSON: one byte string per value, so that a digest names a value.

UTF-8, keys sorted by code point, no spaces, integers exact (nanoseconds exceed 2^53, so no float may touch them),
floats as Python's shortest repr, NaN and infinity refused, no duplicate keys.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fleetmill.core.errors import InvalidInputError

Json = Any  # dict, list, str, int, float, bool or None: what JSON can hold


def dumps(value: Json) -> bytes:
    """The canonical bytes of `value`.

    >>> dumps({"b": 1, "a": [True, None, 0.1, "ü"]})
    b'{"a":[true,null,0.1,"\\xc3\\xbc"],"b":1}'

    Raises:
        InvalidInputError: it holds NaN, infinity, or something that is not JSON.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"cannot be written as canonical JSON: {error}") from error
    return text.encode("utf-8")


def loads(data: bytes | str) -> Json:
    """The value of canonical (or any) JSON bytes.

    Raises:
        InvalidInputError: no JSON, a duplicate key, NaN or infinity.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"not JSON: {error}") from error


def digest(value: Json) -> str:
    """SHA-256 of the canonical bytes, as 64 hex digits."""
    return hashlib.sha256(dumps(value)).hexdigest()


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice")
        found[key] = value
    return found


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not allowed")
