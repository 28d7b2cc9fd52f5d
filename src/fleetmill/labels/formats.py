"""Which formats there are, and which one a file is in."""

from __future__ import annotations

from collections.abc import Callable

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError
from fleetmill.labels import coco, label_studio, table
from fleetmill.labels.rows import Found, Reader

READ: dict[str, Callable[[str, bytes, Reader], Found]] = {
    "csv": table.read,
    "coco": coco.read,
    "label-studio": label_studio.read,
}


def checked(form: str) -> str:
    """`form` itself when it is a format.

    Raises:
        InvalidInputError: it is none.
    """
    if form not in READ:
        raise InvalidInputError(f"--format {form!r}: must be one of {', '.join(READ)}")
    return form


def detect(name: str, data: bytes) -> str:
    """The format of a file's bytes.

    Raises:
        InvalidInputError: JSON that is neither COCO nor Label Studio's.
    """
    if data.lstrip()[:1] not in (b"{", b"["):
        return "csv"
    try:
        value = canonical.loads(data)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(value, dict) and "images" in value:
        return "coco"
    if isinstance(first, dict) and "data" in first:
        return "label-studio"
    raise InvalidInputError(f"{name}: is JSON, but no COCO (images, annotations) and no tasks of Label Studio (data)")
