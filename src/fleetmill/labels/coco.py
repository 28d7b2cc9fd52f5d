"""COCO: a frame is an image, a label is its annotations: boxes, or one class. Pure.

Source: COCO data format, https://cocodataset.org/#format-data. `extra` of an image is ours: where the frame is from and
who said what stands there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.label import Value, is_boxes
from fleetmill.core.line import Feature
from fleetmill.labels.frames import Place, place_of
from fleetmill.labels.rows import Found, Looked, Reader, asked, instant


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One picture to be labelled, and what is known of it."""

    place: Place
    width: int
    height: int
    known: bool
    value: Value = None
    source: str = ""


def read(name: str, data: bytes, reader: Reader) -> Found:
    """A row for each image that has annotations.

    Raises:
        InvalidInputError: it is no COCO file, or something in it does not fit; says where.
    """
    value = asked(canonical.loads(data), dict, name, "a COCO file")
    categories = {c.get("id"): str(c.get("name", "")) for c in _objects(value, "categories", name)}
    held: dict[Any, list[Mapping[str, Any]]] = {}
    for number, note in enumerate(_objects(value, "annotations", name)):
        held.setdefault(note.get("image_id"), []).append({**note, "where": f"{name} annotations[{number}]"})
    rows, looked, images = [], [], _objects(value, "images", name)
    unknown = set(held) - {image.get("id") for image in images}
    for image_id in unknown:
        raise InvalidInputError(f"{held[image_id][0]['where']}: image_id {image_id!r} is no image of this file")
    for number, image in enumerate(images):
        where = f"{name} images[{number}]"
        told = asked(image.get("extra") or {}, dict, where, "extra")
        place = place_of(told, str(image.get("file_name", "")), reader, where)
        notes, source = held.get(image.get("id"), []), str(told.get("source", ""))
        feature = reader.named(str(told.get("feature", "")), where)
        seen = Looked(
            where=where,
            device=place.device,
            session=place.session,
            feature=feature.name,
            start_ns=place.time_ns,
            end_ns=instant(place.time_ns),
        )
        looked.append(seen)
        if notes or source:
            found = _value(notes, feature, categories, reader, where)
            rows.append(seen.row(found, source))
    return Found(rows=tuple(rows), looked=tuple(looked))


def write(frames: Sequence[Frame], feature: Feature, classes: Mapping[str, float], folder: str) -> bytes:
    """The file that a tool opens; its pictures lie in `folder`, beside it.

    Raises:
        InvalidInputError: COCO holds boxes and whole numbers of classes, and a label is neither.
    """
    images, notes, used = [], list[dict[str, Any]](), set(classes.values())
    for number, frame in enumerate(frames, start=1):
        extra: dict[str, Any] = {
            "device": frame.place.device,
            "session": frame.place.session,
            "time_ns": str(frame.place.time_ns),  # many readers of JSON round what is above 2^53
            "feature": feature.name,
        }
        if frame.known:
            extra["source"] = frame.source
        size = {"width": frame.width, "height": frame.height}
        images.append({"id": number, "file_name": f"{folder}/{frame.place.path}", **size, "extra": extra})
        for box, kind in _marks(frame, feature) if frame.known else ():
            used.add(kind)
            note = {"id": len(notes) + 1, "image_id": number, "category_id": int(kind), "bbox": box, "iscrowd": 0}
            notes.append({**note, "area": box[2] * box[3]})
    names = {number: name for name, number in classes.items()}
    categories = [{"id": int(kind), "name": names.get(kind, f"{kind:g}")} for kind in sorted(used)]
    whole = {"info": {"description": "fleetmill labels"}, "images": images, "annotations": notes}
    return json.dumps({**whole, "categories": categories}, indent=1, ensure_ascii=False).encode()


def _marks(frame: Frame, feature: Feature) -> list[tuple[list[float], float]]:
    """(box, class) of each annotation."""
    if is_boxes(feature):
        return [(list(box[:4]), float(box[4]) if len(box) > 4 else 1.0) for box in frame.value or ()]
    if feature.shape or isinstance(frame.value, str) or (frame.value is not None and frame.value % 1):
        raise InvalidInputError(
            f"{feature.name} is {str(frame.value)[:40]}, and COCO holds boxes and whole numbers of classes. "
            "Use --format csv"
        )
    return [] if frame.value is None else [([0.0, 0.0, float(frame.width), float(frame.height)], float(frame.value))]


def _value(
    notes: Sequence[Mapping[str, Any]],
    feature: Feature,
    categories: Mapping[Any, str],
    reader: Reader,
    where: str,
) -> Value:
    kinds = [_kind(note, categories, reader) for note in notes]
    if not is_boxes(feature):
        if len(set(kinds)) > 1:
            raise InvalidInputError(f"{where}: is of classes {sorted(set(kinds))}; {feature.name} holds one")
        return kinds[0] if kinds else None
    wide = feature.shape[1] == 5
    return [[*_box(note), *([kind] if wide else [])] for note, kind in zip(notes, kinds, strict=True)]


def _kind(note: Mapping[str, Any], categories: Mapping[Any, str], reader: Reader) -> float:
    number = note.get("category_id")
    if number not in categories:
        raise InvalidInputError(f"{note['where']}: category_id {number!r} is none of this file's categories")
    return float(reader.classes.get(categories[number], asked(number, int, note["where"], "category_id")))


def _box(note: Mapping[str, Any]) -> list[float]:
    box = note.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        raise InvalidInputError(f"{note['where']}: bbox must be [x, y, width, height] in pixels, found {str(box)[:60]}")
    return [float(v) for v in box]


def _objects(value: Mapping[str, Any], what: str, name: str) -> list[Mapping[str, Any]]:
    found = asked(value.get(what, []), list, name, what)
    return [asked(each, dict, f"{name} {what}[{i}]", "an entry") for i, each in enumerate(found)]
