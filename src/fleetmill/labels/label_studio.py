"""Label Studio's JSON: a task is a session with its series, or one frame; a label is a region or a choice. Pure.

Source: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks. `data` of a task holds device,
session and start (and for a series end). Times of regions are seconds since the task's start, as our export writes
them; text is a time or nanoseconds. Both ends of a region lie in it. What is known before anybody annotates is a
prediction whose `model_version` is its source; an annotation is a person's whole answer and takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import quoteattr

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.label import Value, is_boxes
from fleetmill.core.line import Feature
from fleetmill.labels.coco import Frame
from fleetmill.labels.frames import place_of
from fleetmill.labels.rows import Found, Looked, Reader, Row, asked, instant, texted

_NS_FROM = 10**15  # a number of this size is no second of any session
_SECOND_NS = 10**9
_TIMES, _BOXES = "timeserieslabels", "rectanglelabels"
_WHOLE = ("choices", "number", "labels")


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One session to be labelled: its numbers over time, and what is known of it."""

    device: str
    session: str
    start_ns: int
    end_ns: int
    times_ns: Sequence[int]
    columns: Mapping[str, Sequence[float | None]]
    known: Sequence[Row]


def read(name: str, data: bytes, reader: Reader) -> Found:
    """A row for each region, choice or number, and one for all boxes of a frame.

    Raises:
        InvalidInputError: no tasks, one with several annotations, or a result of a kind that no label is; says where.
    """
    value = canonical.loads(data)
    tasks = asked([value] if isinstance(value, dict) else value, list, name, "Label Studio's JSON")
    rows, looked = list[Row](), list[Looked]()
    for number, task in enumerate(tasks):
        where = f"{name} task {asked(task, dict, f'{name}[{number}]', 'a task').get('id', number)}"
        place = _place(asked(task.get("data"), dict, where, "data"), reader, where)
        answers = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
        if len(answers) > 1:
            raise InvalidInputError(f"{where}: has {len(answers)} annotations. Keep the one that counts")
        for answer in answers or task.get("predictions") or []:
            source = "" if answers else str(answer.get("model_version") or "")
            told = asked(answer.get("result", []), list, where, "result")
            results = [asked(result, dict, where, "a result") for result in told]
            rows += _rows(results, place, reader, source)
            named = {_feature(r, reader, where).name for r in results} or {reader.named("", where).name}
            looked += [replace(place, feature=feature) for feature in sorted(named)]
    return Found(rows=tuple(rows), looked=tuple(looked))


def write_frames(frames: Sequence[Frame], feature: Feature, classes: Mapping[str, float], folder: str) -> bytes:
    """One task for each frame; its picture lies in `folder`, beside the file."""
    tasks = []
    for frame in frames:
        place = frame.place
        names = {"device": place.device, "session": place.session, "time_ns": str(place.time_ns)}
        results = list(_marks(frame, feature, classes)) if frame.known else []
        told = [{"model_version": frame.source, "result": results}] if frame.known else []
        data = {"image": f"{folder}/{place.path}", **names}
        tasks.append({"data": data, "predictions": told})
    return json.dumps(tasks, indent=1, ensure_ascii=False).encode()


def write_series(series: Sequence[Series], classes: Mapping[str, float]) -> bytes:
    """One task for each session, its series inside it (`valueType="json"`, `timeColumn="time"`)."""
    tasks = []
    for one in series:
        names = {"device": one.device, "session": one.session, "start": str(one.start_ns), "end": str(one.end_ns)}
        seconds = [(t - one.start_ns) / _SECOND_NS for t in one.times_ns]
        told = []
        for source in sorted({row.source for row in one.known}):
            results = [_region(row, one, classes) for row in one.known if row.source == source]
            told.append({"model_version": source, "result": results})
        data: dict[str, Any] = {**names, "series": {"time": seconds, **one.columns}}
        tasks.append({"data": data, "predictions": told})
    return json.dumps(tasks, indent=1, ensure_ascii=False).encode()


def config(names: Sequence[str], feature: Feature, values: Sequence[str], *, frames: bool) -> str:
    """The labelling interface that fits what was written: what Label Studio asks for when a project is made."""
    word = "Choice" if frames and not is_boxes(feature) else "Label"
    marks = "".join(f"\n    <{word} value={quoteattr(value)}/>" for value in values)
    if frames:
        tag = "RectangleLabels" if is_boxes(feature) else "Choices"
        shown = '<Image name="shown" value="$image"/>'
    else:
        tag, channels = "TimeSeriesLabels", "".join(f"\n    <Channel column={quoteattr(name)}/>" for name in names)
        shown = (
            f'<TimeSeries name="shown" value="$series" valueType="json" timeColumn="time">{channels}\n  </TimeSeries>'
        )
    return f'<View>\n  <{tag} name="{feature.name}" toName="shown">{marks}\n  </{tag}>\n  {shown}\n</View>\n'


def _place(data: Mapping[str, Any], reader: Reader, where: str) -> Looked:
    """What a task is about; its feature is not known yet."""
    if "start" in data and "device" in data:
        device, session = str(data["device"]), str(data.get("session", ""))
        start_ns = reader.moment(device, str(data["start"]), f"{where}: start")
        end_ns = reader.moment(device, str(data["end"]), f"{where}: end") if data.get("end") else instant(start_ns)
    else:
        frame = place_of(data, str(data.get("image", "")), reader, where)
        device, session, start_ns, end_ns = frame.device, frame.session, frame.time_ns, instant(frame.time_ns)
    return Looked(where=where, device=device, session=session, feature="", start_ns=start_ns, end_ns=end_ns)


def _feature(result: Mapping[str, Any], reader: Reader, where: str) -> Feature:
    return reader.named(str(result.get("from_name", "")), where)


def _rows(results: Sequence[Mapping[str, Any]], task: Looked, reader: Reader, source: str) -> Iterator[Row]:
    boxes: dict[str, list[list[float]]] = {}
    for result in results:
        feature = _feature(result, reader, task.where)
        kind, value = str(result.get("type", "")), asked(result.get("value"), dict, task.where, "value")
        if kind == _BOXES:
            boxes.setdefault(feature.name, []).append(_box(result, value, feature, reader, task.where))
        elif kind == _TIMES:
            start_ns, end_ns = (_at(value.get(edge), task, reader) for edge in ("start", "end"))
            marked = replace(task, feature=feature.name, start_ns=start_ns, end_ns=instant(end_ns))
            yield marked.row(_class(value, kind, feature, reader, task.where), source)
        elif kind in _WHOLE:
            yield replace(task, feature=feature.name).row(_class(value, kind, feature, reader, task.where), source)
        else:
            raise InvalidInputError(
                f"{task.where}: a result of type {kind[:40]!r} is no label; known: {_TIMES}, {_BOXES}, choices, number"
            )
    if not results and source and is_boxes(reader.named("", task.where)):
        boxes[reader.named("", task.where).name] = []  # our export: somebody looked, and nothing was there
    for name, found in boxes.items():
        yield replace(task, feature=name).row(found, source)


def _class(value: Mapping[str, Any], kind: str, feature: Feature, reader: Reader, where: str) -> Value:
    told = value.get(kind)
    chosen = told if isinstance(told, list) else [told]
    if len(chosen) != 1 or chosen[0] is None:
        raise InvalidInputError(f"{where}: {kind} must be one value, found {str(told)[:60]}")
    return reader.value(str(chosen[0]), feature, where)


def _at(told: Any, task: Looked, reader: Reader) -> int:
    """An instant of a region."""
    if isinstance(told, str):
        return reader.moment(task.device, told, task.where)
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        raise InvalidInputError(f"{task.where}: a region must begin and end, found {str(told)[:40]!r}")
    return round(told) if told >= _NS_FROM else task.start_ns + round(told * _SECOND_NS)


def _box(
    result: Mapping[str, Any], value: Mapping[str, Any], feature: Feature, reader: Reader, where: str
) -> list[float]:
    """Pixels of a rectangle, which stands there in percent."""
    try:
        wide, high = float(result["original_width"]), float(result["original_height"])
        parts = [float(value[k]) for k in ("x", "y", "width", "height")]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{where}: a rectangle lacks {error}") from None
    if value.get("rotation"):
        raise InvalidInputError(f"{where}: a rectangle is turned by {value['rotation']} degrees; boxes stand upright")
    box = [v * side / 100.0 for v, side in zip(parts, (wide, high, wide, high), strict=True)]
    if is_boxes(feature) and feature.shape[1] == 4:
        return box
    kind = _class(value, _BOXES, feature, reader, where)
    if isinstance(kind, bool) or not isinstance(kind, (int, float)):
        raise InvalidInputError(
            f"{where}: a class must be a number, found {str(kind)[:40]!r}. Give --class NAME=NUMBER"
        )
    return [*box, float(kind)]


def _marks(frame: Frame, feature: Feature, classes: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    common = {"from_name": feature.name, "to_name": "shown"}
    if not is_boxes(feature):
        yield {**common, "type": "choices", "value": {"choices": [texted(classes, frame.value)]}}
        return
    sides = (frame.width, frame.height, frame.width, frame.height)
    for box in frame.value or ():
        value = {k: 100.0 * v / side for k, v, side in zip(("x", "y", "width", "height"), box, sides)}
        kind = texted(classes, box[4]) if len(box) > 4 else "1"
        size = {"original_width": frame.width, "original_height": frame.height}
        yield {**common, **size, "type": _BOXES, "value": {**value, "rotation": 0, _BOXES: [kind]}}


def _region(row: Row, one: Series, classes: Mapping[str, float]) -> dict[str, Any]:
    inside = [t for t in one.times_ns if row.start_ns <= t < row.end_ns]
    first, last = (((t - one.start_ns) / _SECOND_NS) for t in (inside[0], inside[-1]))
    value = {"start": first, "end": last, "instant": first == last, _TIMES: [texted(classes, row.value)]}
    return {"from_name": row.feature, "to_name": "shown", "type": _TIMES, "value": value}
