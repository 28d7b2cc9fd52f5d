"""Labels from outside: what was right over an interval of a session, and who said so. Pure.

A label speaks of instants: those of the channel that its feature describes and that lie in its interval. For
``label.steer`` that is ``steer`` where it was recorded, else the line's first observation that was.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Feature, Line, Message

RECORDED = "recorded"  # the source of labels that came with the recording itself
TYPE, VERSION = "fleet.labels", 1
_PREFIX = "label."
_BOX = (4, 5)  # x, y, width, height in pixels, and a class

Value = Any  # number, text, list of them, list of boxes; None: nobody knows


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What was right over [start_ns, end_ns) of a session."""

    device: str
    session: str
    feature: str
    start_ns: int
    end_ns: int
    value: Value
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSet:
    """The labels that came in together; `digest` names their bytes."""

    digest: str
    labels: tuple[Label, ...]

    def of(self, device: str, session: str) -> tuple[Label, ...]:
        """Those that touch one session."""
        return tuple(label for label in self.labels if (label.device, label.session) == (device, session))


def is_boxes(feature: Feature) -> bool:
    """Whether a feature holds boxes: (N, 4) or (N, 5) of floats."""
    return len(feature.shape) == 2 and feature.shape[1] in _BOX and feature.dtype.startswith("float")


def array_of(feature: Feature, value: Value) -> Array | str:
    """The value as a message of the feature holds it; boxes are filled up with NaN.

    Raises:
        InvalidInputError: it is none of the feature's; says what the feature takes.
    """
    if feature.dtype == "str":
        if not isinstance(value, str):
            raise InvalidInputError(f"{feature.name} takes text, found {value!r}")
        return value
    if -1 in feature.shape:
        fixed = (16, *feature.shape[1:])
        raise InvalidInputError(
            f"{feature.name} has shape {feature.shape}, and a dataset's column holds rows of one length only. Give the "
            f"feature room for a fixed number, e.g. {fixed}; what is not used is NaN"
        )
    if value is None or is_boxes(feature):
        return _filled(feature, value)
    try:
        found = np.asarray(value, np.float64)
        with np.errstate(over="ignore"):
            kept: Array = found.astype(feature.dtype)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{feature.name} takes numbers, found {str(value)[:60]!r}") from None
    exact = np.issubdtype(kept.dtype, np.floating) or np.array_equal(kept.astype(np.float64), found)
    if kept.shape != feature.shape or not np.isfinite(kept).all() or not exact:
        raise InvalidInputError(f"{feature.name} takes {feature.dtype}{feature.shape}, found {str(value)[:60]!r}")
    return kept


def plain_of(feature: Feature, value: Array | str) -> Value:
    """What `array_of` was given, as JSON holds it; None: NaN, nobody knows."""
    if isinstance(value, str):
        return value
    if is_boxes(feature):
        return [box for box in np.asarray(value).tolist() if not np.isnan(box).any()]
    values = np.asarray(value)
    known = not np.issubdtype(values.dtype, np.floating) or np.isfinite(values).all()
    return values.tolist() if known else None


def clock_of(line: Line, feature: str, recorded: Container[str]) -> str | None:
    """The channel whose instants a label feature describes, among the `recorded` ones; None: there is none."""
    described = feature.removeprefix(_PREFIX)
    first = [f.name for f in line.features if f.name == described and f.kind != "label"]
    seen = [f.name for f in line.features if f.kind == "observation"]
    return next((name for name in (*first, *seen) if name in recorded), None)


def clocks(line: Line, feature: str) -> set[str]:
    """Every channel that could be `clock_of` the feature."""
    return {f.name for f in line.features if f.kind == "observation" or f.name == feature.removeprefix(_PREFIX)}


def instants(line: Line, feature: str, messages: Sequence[Message]) -> Array:
    """int64 (N,), rising: the instants of a session that a label feature describes."""
    clock = clock_of(line, feature, {m.topic for m in messages})
    return np.unique(np.array([m.log_time_ns for m in messages if m.topic == clock], np.int64))


def said(times_ns: Array, labels: Sequence[Label]) -> dict[int, Label]:
    """Instant -> the label of one feature that counts there: the last one that holds it."""
    found: dict[int, Label] = {}
    for label in labels:
        a, b = np.searchsorted(times_ns, [label.start_ns, label.end_ns])
        found |= dict.fromkeys(times_ns[a:b].tolist(), label)
    return found


def merged(
    line: Line, messages: Sequence[Message], labels: Sequence[Label]
) -> tuple[list[Message], Mapping[str, Array]]:
    """A session's messages with labels from outside among them, in log order, and each source's instants, rising.

    `labels`: of this session, later ones over earlier ones. They take the place of recorded ones in their intervals;
    those of features that the line does not have are passed over.
    """
    if not labels:
        return list(messages), {}
    features = {f.name: f for f in line.features if f.kind == "label"}
    kept, made = list(messages), list[Message]()
    sources: dict[str, set[int]] = {}
    for name in sorted({label.feature for label in labels} & set(features)):
        mine = [label for label in labels if label.feature == name]
        kept = [m for m in kept if m.topic != name or not _covered(m.log_time_ns, mine)]
        for at, label in sorted(said(instants(line, name, messages), mine).items()):
            value = {"data": array_of(features[name], label.value)}
            made.append(Message(topic=name, log_time_ns=at, publish_time_ns=at, value=value))
            sources.setdefault(label.source, set()).add(at)
    found = sorted([*kept, *made], key=lambda m: m.log_time_ns)
    return found, {source: np.array(sorted(at), np.int64) for source, at in sources.items()}


def _covered(at: int, labels: Sequence[Label]) -> bool:
    return any(label.start_ns <= at < label.end_ns for label in labels)


def _filled(feature: Feature, value: Value) -> Array:
    if not np.issubdtype(np.dtype(feature.dtype), np.floating):
        raise InvalidInputError(f"{feature.name} is {feature.dtype}, which has no way to say that nothing is known")
    whole = np.full(feature.shape, np.nan, feature.dtype)
    if value is None:
        return whole
    room, width = feature.shape
    try:
        boxes = np.asarray(value, np.float64).reshape(-1, width)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{feature.name} takes boxes of {width} numbers, found {str(value)[:60]!r}") from None
    if len(boxes) > room or len(boxes) != len(value) or not np.isfinite(boxes).all():
        raise InvalidInputError(f"{feature.name} takes at most {room} boxes of {width} numbers, found {len(boxes)}")
    whole[: len(boxes)] = boxes
    return whole
