"""Names and digests, checked where they come in."""

from __future__ import annotations

import hashlib
import re

from fleetmill.core.errors import InvalidInputError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def sha256(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of `data` as 64 hex digits: the one digest everywhere.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def checked_name(name: str, what: str = "name") -> str:
    """`name` itself when it may be used in paths, URLs and keys.

    Raises:
        InvalidInputError: not 1 to 63 of a-z 0-9 . _ - beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{what} {name!r}: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


def checked_digest(text: str, what: str = "digest") -> str:
    """`text` itself when it is a SHA-256 in hex.

    Raises:
        InvalidInputError: it is not 64 lower-case hex digits.
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidInputError(f"{what} {text[:80]!r}: must be 64 lower-case hex digits (SHA-256)")
    return text
