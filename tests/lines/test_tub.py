"""Donkeycar tubs: what is read, and what is said of broken ones. Small tubs are made here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import UNREADABLE, Foreign, Message
from fleetmill.lines.rccar.importing import donkeycar, sessions

START_MS = 1_639_711_765_876


class Memory:
    """Foreign files in memory. `core.line.Files`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def names(self) -> Sequence[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return self.files[name]


class Disk:
    """A folder. `core.line.Files`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Sequence[str]:
        return sorted(p.relative_to(self._path).as_posix() for p in self._path.rglob("*") if p.is_file())

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()


def a_picture(shade: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((120, 160, 3), shade, np.uint8))


def a_record(index: int, time_ms: int, **more: Any) -> dict[str, Any]:
    return {
        "_index": index,
        "_session_id": "21-12-17_0",
        "_timestamp_ms": time_ms,
        "cam/image_array": f"{index}_cam_image_array_.jpg",
        "user/angle": 0.5,
        "user/mode": "user",
        "user/throttle": 0.9,
        **more,
    }


def a_tub(records: Sequence[dict[str, Any]], *, deleted: Sequence[int] = (), folder: str = "") -> Memory:
    manifest = [
        ["cam/image_array"],
        ["image_array"],
        {},
        {},
        {"paths": ["catalog_0.catalog"], "deleted_indexes": deleted},
    ]
    files = {
        f"{folder}manifest.json": "\n".join(json.dumps(part) for part in manifest).encode(),
        f"{folder}catalog_0.catalog": b"".join(json.dumps(r).encode() + b"\n" for r in records),
    }
    return Memory(files | {f"{folder}images/{r['cam/image_array']}": a_picture(r["_index"] % 256) for r in records})


def at(*times_ms: int, **more: Any) -> list[dict[str, Any]]:
    return [a_record(i, START_MS + t, **more) for i, t in enumerate(times_ms)]


def read(files: Memory | Disk, **options: Any) -> list[tuple[Foreign, list[Message]]]:
    return [(foreign, list(foreign.messages)) for foreign in sessions(files, **options)]


def topics(messages: Sequence[Message]) -> dict[str, Any]:
    return {m.topic: m.value["data"] for m in messages}


def test_a_tub_is_known_by_its_manifest_and_catalogs_wherever_it_lies() -> None:
    assert donkeycar.detects(a_tub(at(0)))
    assert donkeycar.detects(a_tub(at(0), folder="car/tub/"))
    assert not donkeycar.detects(Memory({"manifest.json": b"{}"}))
    assert not donkeycar.detects(Memory({"other/manifest.json": b"{}", "catalog_0.catalog": b""}))


def test_a_record_becomes_what_the_car_saw_did_and_knew() -> None:
    tub = a_tub(at(0, **{"range/cms": 37.06}))
    ((foreign, messages),) = read(tub)
    found = topics(messages)
    assert found["camera"].tobytes() == tub.read("images/0_cam_image_array_.jpg")  # the car's own bytes
    assert messages[0].value["format"] == "jpeg"
    assert found["mode"] == "user"
    numbers = {k: float(v) for k, v in found.items() if k not in ("camera", "mode")}
    assert numbers == pytest.approx(
        {"steer": 0.5, "label.steer": 0.5, "throttle": 0.9, "range_cm": 37.06, "deleted": 0}
    )
    assert {m.log_time_ns for m in messages} == {START_MS * 1_000_000}
    assert (foreign.time_base, foreign.tags) == ("utc", {"tub_session": "21-12-17_0"})
    assert foreign.session == "20211217T032925.876Z"


def test_a_drive_ends_at_a_pause_longer_than_the_gap() -> None:
    tub = a_tub(at(0, 50, 5_050, 10_051, 10_101))
    assert [len(messages) // 6 for _, messages in read(tub)] == [3, 2]
    assert len(read(tub, gap_seconds=1.0)) == 3


def test_a_drive_ends_where_the_tub_says_a_session_ended() -> None:
    first, second = at(0, 50)
    assert len(read(a_tub([first, second | {"_session_id": "21-12-17_1"}]))) == 2


def test_a_clock_that_was_set_back_ends_a_drive_and_a_small_step_back_does_not() -> None:
    assert len(read(a_tub(at(60_000, 60_050, 0, 50)))) == 2
    ((_, messages),) = read(a_tub(at(0, 100, 40, 100, 200)))
    cameras = [m for m in messages if m.topic == "camera"]
    assert [(m.log_time_ns // 1_000_000 - START_MS) for m in cameras] == [0, 100, 101, 102, 200]
    assert [(m.publish_time_ns // 1_000_000 - START_MS) for m in cameras] == [0, 100, 40, 100, 200]


def test_what_a_human_deleted_stays_in_the_recording_and_is_marked() -> None:
    ((_, messages),) = read(a_tub(at(0, 50, 100), deleted=[1]))
    assert [float(m.value["data"]) for m in messages if m.topic == "deleted"] == [0, 1, 0]  # type: ignore[arg-type]


def test_where_the_pilot_drove_there_is_no_label() -> None:
    ((_, messages),) = read(a_tub(at(0, **{"user/mode": "local", "pilot/angle": -0.25, "pilot/throttle": 0.3})))
    found = topics(messages)
    assert "label.steer" not in found
    assert (float(found["steer"]), float(found["throttle"])) == pytest.approx((-0.25, 0.3))
    ((_, unknown),) = read(a_tub(at(0, **{"user/mode": "local"})))
    assert not {"steer", "label.steer", "throttle"} & set(topics(unknown))


def test_the_same_record_twice_counts_once_and_with_other_content_it_is_broken() -> None:
    first, second = at(0, 50)
    assert len(read(a_tub([first, first, second]))[0][1]) == 12
    twice = a_tub([first, first | {"user/angle": -1.0}, second])
    with pytest.raises(InvalidInputError, match=r"catalog_0.catalog line 2 \(record 0\): .* before with other content"):
        read(twice)
    assert [float(v) for v in (topics(read(twice, skip_broken=True)[0][1][:6])["steer"],)] == [0.5]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda f: f.pop("images/1_cam_image_array_.jpg"), r"line 2 \(record 1\): picture images/1_cam.* is missing"),
        (
            lambda f: f.update({"images/1_cam_image_array_.jpg": a_picture(1)[:-50]}),
            r"line 2 \(record 1\): picture images/1_cam.* is no whole JPEG \(\d+ bytes\)",
        ),
        (
            lambda f: f.update({"catalog_0.catalog": f["catalog_0.catalog"].replace(b'{"_index": 1,', b'{"_ind')}),
            "catalog_0.catalog line 2: no JSON",
        ),
        (
            lambda f: f.update(
                {"catalog_0.catalog": f["catalog_0.catalog"].replace(b'"_index": 1,', b'"_index": "x",')}
            ),
            "catalog_0.catalog line 2: expected an object with _index",
        ),
        (
            lambda f: f.update({"catalog_0.catalog": f["catalog_0.catalog"].replace(b"1639711765926", b'"now"')}),
            "_timestamp_ms must be milliseconds UTC, found 'now'",
        ),
        (
            lambda f: f.update({"catalog_0.catalog": f["catalog_0.catalog"].replace(b'e": 0.5, "u', b'e": NaN, "u')}),
            "user/angle must be a number, found nan",
        ),
    ],
)
def test_a_broken_record_is_refused_by_file_and_record_or_read_past(breaks: Any, says: str) -> None:
    tub = a_tub(at(0, 50, 100))
    breaks(tub.files)
    with pytest.raises(InvalidInputError, match=says):
        read(tub)
    left = [m.topic for _, messages in read(tub, skip_broken=True) for m in messages]
    unreadable = left.count(UNREADABLE)
    assert (len(left) - unreadable, unreadable) in ((12, 1), (0, 3))  # NaN stood in every record


@pytest.mark.parametrize("manifest", [b"", b"[]\n[]\n{}\n{}\n{", b"1\n2\n3\n4\n5", b"[]\n[]\n{}\n{}\n{}"])
def test_a_broken_manifest_is_always_refused(manifest: bytes) -> None:
    tub = a_tub(at(0))
    tub.files["manifest.json"] = manifest
    for skip in (False, True):
        with pytest.raises(InvalidInputError, match=r"manifest.json: expected five lines"):
            read(tub, skip_broken=skip)


def test_a_catalog_that_is_not_there_is_named() -> None:
    tub = a_tub(at(0))
    tub.files["catalog_1.catalog"] = tub.files.pop("catalog_0.catalog")
    with pytest.raises(InvalidInputError, match=r"catalog_0.catalog: named in manifest.json"):
        read(tub)


@pytest.mark.data
@pytest.mark.parametrize(
    ("room", "records", "deleted", "drives"),
    [("roomb", 3191, 1041, 31), ("rooma", 2000, 600, 19), ("messy", 4113, 100, 45)],
)
def test_real_tubs_are_read_whole(data: Path, room: str, records: int, deleted: int, drives: int) -> None:
    found = read(Disk(data / f"drive-rc-{room}"))
    marks = [float(m.value["data"]) for _, messages in found for m in messages if m.topic == "deleted"]  # type: ignore[arg-type]
    assert (len(marks), sum(marks), len(found)) == (records, deleted, drives)
    for _, messages in found:
        assert (np.diff([m.log_time_ns for m in messages]) >= 0).all()
    assert len({foreign.session for foreign, _ in found}) == drives
