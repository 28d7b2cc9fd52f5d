"""Records to plain JSON values and back, keeping fields that this version does not know."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fleetmill.core.errors import InvalidInputError

T = TypeVar("T")


def plain(record: Any) -> Any:
    """`record` as dicts, lists, numbers and strings; unknown fields kept in ``extra`` come out at the top again."""
    if is_dataclass(record) and not isinstance(record, type):
        found = {f.name: plain(getattr(record, f.name)) for f in fields(record) if f.name != "extra"}
        return {**found, **plain(getattr(record, "extra", {}))}
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [plain(value) for value in record]
    return record


def build(cls: type[T], value: Any, where: str = "") -> T:
    """A `cls` (a dataclass) from plain values; what it has no field for goes to its ``extra``, if it has one.

    Raises:
        InvalidInputError: a field is missing or of another type; the message names it.
    """
    where = where or cls.__name__
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{where}: must be an object, is {type(value).__name__}")
    hints, known = get_type_hints(cls), {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, field in known.items():
        if name == "extra":
            continue
        if name in value:
            found[name] = _as(hints[name], value[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InvalidInputError(f"{where}.{name}: is missing")
    if "extra" in known:
        found["extra"] = {key: item for key, item in value.items() if key not in known}
    return cls(**found)


def _as(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _as(next(a for a in args if a is not type(None)), value, where)
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InvalidInputError(f"{where}: must be a list, is {type(value).__name__}")
        return tuple(_as(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InvalidInputError(f"{where}: must be an object, is {type(value).__name__}")
        return {key: _as(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise InvalidInputError(f"{where}: must be {hint.__name__}, is {type(value).__name__} {str(value)[:40]!r}")
    return value
