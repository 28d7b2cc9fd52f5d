"""Documents that are signed: canonical JSON with a type and a version; one sentence for what is wrong with one."""

from __future__ import annotations

from typing import Any, TypeVar

from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError, InvalidInputError, TooNewError
from fleetmill.core.plain import build

T = TypeVar("T")


def read_document(cls: type[T], document: bytes, where: str, *, type: str, version: int) -> T:
    """A `cls` (a dataclass with ``type`` and ``version``) from the bytes that were signed.

    Raises:
        IntegrityError: it is none.
        TooNewError: a newer version wrote it.
    """
    try:
        found = build(cls, canonical.loads(document), where)
    except InvalidInputError as error:
        raise IntegrityError(
            f"{where}: is no document of type {type} ({error}). Restore the home from a copy"
        ) from error
    said: Any = found
    if said.type != type:
        raise IntegrityError(f"{where}: is a {said.type!r}, expected {type!r}. Restore the home from a copy")
    if said.version > version:
        raise TooNewError(where, found=said.version, newest_known=version)
    return found
