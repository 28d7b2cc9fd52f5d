"""A row of a file of labels, as each format gives it; nothing is known of the home here. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.label import Value, is_boxes
from fleetmill.core.line import Feature

_NOBODY = ("nan", "null")
NONE = "none"  # of boxes: somebody looked, and nothing is there


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What a file says was right over an interval."""

    where: str  # file and row, for people
    device: str
    session: str  # "": whichever the interval lies in
    feature: str
    start_ns: int
    end_ns: int  # after start_ns; one more than it: an instant
    value: Value
    source: str = ""  # who the file says said so


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """An interval that somebody looked at, whatever was marked in it."""

    where: str
    device: str
    session: str
    feature: str
    start_ns: int
    end_ns: int  # start_ns: the whole session

    def row(self, value: Value, source: str) -> Row:
        """The row that says one thing of all of it."""
        return Row(
            where=self.where,
            device=self.device,
            session=self.session,
            feature=self.feature,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            value=value,
            source=source,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a file holds. `explicit`: its sources were written by whoever wrote the rows, not by our export."""

    rows: tuple[Row, ...]
    looked: tuple[Looked, ...]
    explicit: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """What every format needs to read a row."""

    features: Mapping[str, Feature]  # the line's of kind label
    feature: str  # of rows that name none; "": each must
    classes: Mapping[str, float]  # name -> the number that the feature holds
    moment: Callable[[str, str, str], int]  # device, text, where -> ns

    def named(self, name: str, where: str) -> Feature:
        """The feature that a row is about.

        Raises:
            InvalidInputError: the line has no such label feature, or none is named.
        """
        chosen = name if name in self.features or not self.feature else self.feature
        if chosen in self.features:
            return self.features[chosen]
        known = ", ".join(self.features) or "none"
        if not chosen:
            raise InvalidInputError(f"{where}: of which feature? Give --feature; the line's labels are {known}")
        raise InvalidInputError(f"{where}: the line has no label feature {chosen[:60]!r}; it has {known}")

    def value(self, text: str, feature: Feature, where: str) -> Value:
        """What a written value means: a number, the number of a named class, JSON, or text; ``nan``: nobody knows.

        Raises:
            InvalidInputError: it is none of these.
        """
        text = text.strip()
        if feature.dtype == "str":
            return text
        if text.lower() in _NOBODY:
            return None
        if text.lower() == NONE and is_boxes(feature):
            return []
        if text in self.classes:
            return self.classes[text]
        try:
            value = json.loads(text)
        except ValueError:
            raise InvalidInputError(
                f"{where}: {text[:60]!r} is no number. If it is a class, say which number {feature.name} holds for it: "
                f"--class {text[:40] or 'NAME'}=1"
            ) from None
        return value


def instant(at_ns: int) -> int:
    """Where the interval of an instant ends."""
    return at_ns + 1


def texted(classes: Mapping[str, float], value: Value) -> str:
    """A value as people read it: the name of its class, or what `Reader.value` reads again."""
    if value is None:
        return "nan"
    if isinstance(value, str):
        return value
    names = {number: name for name, number in classes.items()}
    if not isinstance(value, list) and float(value) in names:
        return names[float(value)]
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def asked(value: Any, kind: type, where: str, what: str) -> Any:
    """`value` when it is of that kind.

    Raises:
        InvalidInputError: it is not.
    """
    if not isinstance(value, kind):
        raise InvalidInputError(f"{where}: {what} must be {kind.__name__}, found {str(value)[:60]!r}")
    return value
