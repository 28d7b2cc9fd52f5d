"""Recordings: the reference library and rosbags read what we write; what is cut off is an error, never less data."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from fleetmill.core.errors import IntegrityError, InvalidInputError, TooNewError
from fleetmill.core.line import Feature, Message
from fleetmill.core.recording import RecordingInfo
from fleetmill.seams import recordings

START = 1_700_000_000_000_000_000
STEP = 50_000_000


def feature(name: str, dtype: str, shape: tuple[int, ...]) -> Feature:
    return Feature(name=name, kind="observation", dtype=dtype, shape=shape, unit="1", hold_ns=STEP)


FEATURES = (
    feature("camera", "uint8", (6, 8, 3)),
    feature("jpeg", "uint8", (6, 8, 3)),
    feature("state", "float32", (2, 3)),
    feature("count", "int64", ()),
    feature("mode", "str", ()),
)
INFO = RecordingInfo(
    device="d0", session="s0", line="tiny", start_ns=START, end_ns=START + 20 * STEP, model="m", tags={"room": "ä"}
)


def messages(rows: int = 20) -> list[Message]:
    rng = np.random.default_rng(0)
    values = {
        "camera": lambda i: {"data": rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)},
        "jpeg": lambda i: {"data": np.frombuffer(b"\xff\xd8%d\xff\xd9" % i, np.uint8), "format": "jpeg"},
        "state": lambda i: {"data": rng.normal(size=(2, 3)).astype(np.float32)},
        "count": lambda i: {"data": np.int64(2**53 + i)},
        "mode": lambda i: {"data": f"grün {i}"},
    }
    return [
        Message(topic=f.name, log_time_ns=START + i * STEP, publish_time_ns=START + i * STEP, value=values[f.name](i))
        for i in range(rows)
        for f in FEATURES
    ]


def written(rows: int = 20, info: RecordingInfo = INFO) -> bytes:
    by_name = {f.name: f for f in FEATURES}
    return recordings.write_recording(info, FEATURES, [recordings.encode(by_name[m.topic], m) for m in messages(rows)])


def test_what_was_written_is_read_back() -> None:
    data = written()

    found = list(recordings.read_messages(data, "it"))

    assert recordings.read_info(data, "it") == INFO
    assert len(found) == len(messages())
    for a, b in zip(found, messages(), strict=True):
        assert (a.topic, a.log_time_ns, a.publish_time_ns) == (b.topic, b.log_time_ns, b.publish_time_ns)
        assert a.value.keys() == b.value.keys()
        for name in a.value:
            np.testing.assert_array_equal(a.value[name], b.value[name])
            assert np.shape(a.value[name]) == np.shape(b.value[name])


def test_the_reference_library_reads_it_with_its_index_and_checks_every_sum() -> None:
    data = written()
    reader = make_reader(io.BytesIO(data), validate_crcs=True)
    summary = reader.get_summary()

    assert summary is not None
    assert summary.statistics is not None
    assert (summary.statistics.message_count, summary.statistics.chunk_count) == (100, 1)
    assert reader.get_header().profile == "ros2"
    assert {c.topic: summary.schemas[c.schema_id].name for c in summary.channels.values()} == {
        "/camera": "sensor_msgs/msg/Image",
        "/jpeg": "sensor_msgs/msg/CompressedImage",
        "/state": "std_msgs/msg/Float32MultiArray",
        "/count": "std_msgs/msg/Int64MultiArray",
        "/mode": "std_msgs/msg/String",
    }
    assert {c.compression for c in summary.chunk_indexes} == {"zstd"}
    middle = list(reader.iter_messages(topics=["/count"], starting_at=START + 5 * STEP, ending_before=START + 8 * STEP))
    assert [m.log_time for _, _, m in middle] == [START + i * STEP for i in (5, 6, 7)]
    (meta,) = reader.iter_metadata()
    assert (meta.name, meta.metadata["device"], meta.metadata["tags"]) == ("fleet", "d0", '{"room":"ä"}')
    assert (int(meta.metadata["start_ns"]), int(meta.metadata["version"])) == (START, 1)


def test_rosbags_reads_it_by_the_definitions_that_stand_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(written())
    reader = McapReader(path)
    reader.open()
    try:
        found = [(c.topic, c.msgtype, t, bytes(raw)) for c, t, raw in reader.messages(reader.connections)]
        definitions = {c.msgtype: c.msgdef.data for c in reader.connections}
    finally:
        reader.close()
    store = get_typestore(Stores.EMPTY)
    for name, text in definitions.items():
        store.register({k: v for k, v in get_types_from_msg(text, name).items() if k not in store.types})

    expected = messages()
    assert len(found) == len(expected)
    for (topic, msgtype, time, raw), m in zip(found, expected, strict=True):
        assert (topic, time) == ("/" + m.topic, m.log_time_ns)
        message, value = store.deserialize_cdr(raw, msgtype), m.value["data"]
        if isinstance(value, str):
            assert message.data == value
        else:
            np.testing.assert_array_equal(np.asarray(message.data), np.asarray(value).reshape(-1))
        if m.topic == "state":
            assert [d.size for d in message.layout.dim] == [2, 3]
        if m.topic == "camera":
            assert (message.height, message.width, message.encoding, message.step) == (6, 8, "rgb8", 24)
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == m.publish_time_ns


def test_the_same_messages_give_the_same_bytes() -> None:
    assert written() == written()
    assert written() != written(info=replace(INFO, session="s1"))


def test_a_chunk_ends_before_four_megabytes() -> None:
    big = feature("big", "uint8", (1_000_000,))
    rows = [
        Message(topic="big", log_time_ns=t, publish_time_ns=t, value={"data": np.zeros(10**6, np.uint8)})
        for t in range(9)
    ]
    data = recordings.write_recording(INFO, [big], [recordings.encode(big, m) for m in rows])

    summary = make_reader(io.BytesIO(data)).get_summary()

    assert summary is not None
    assert [c.uncompressed_size <= 4 * 1024**2 + 1000 for c in summary.chunk_indexes] == [True] * 3


def test_cut_off_anywhere_it_is_an_integrity_error_for_every_reader() -> None:
    data = written(3)
    offsets = sorted({*range(0, len(data), max(1, len(data) // 150)), *range(0, 12), *range(len(data) - 40, len(data))})

    for size in offsets:
        for read in (recordings.read_info, recordings.count, lambda d, w: list(recordings.read_messages(d, w))):
            with pytest.raises(IntegrityError, match="it: not a whole MCAP file"):
                read(data[:size], "it")


def test_damaged_anywhere_it_is_an_error_or_the_same_messages() -> None:
    data, whole = written(3), [(m.topic, m.log_time_ns) for m in messages(3)]
    refused = 0

    for at in range(0, len(data), max(1, len(data) // 250)):
        bad = data[:at] + bytes([data[at] ^ 0x21]) + data[at + 1 :]
        try:
            found = [(m.topic, m.log_time_ns) for m in recordings.read_messages(bad, "it")]
        except (IntegrityError, InvalidInputError):
            refused += 1
        else:
            assert found == whole
    assert refused > 100


def test_a_newer_format_is_not_guessed_at() -> None:
    with pytest.raises(TooNewError, match=r"it: format 2, this version reads up to 1. Update fleetmill") as told:
        recordings.read_info(written(1, replace(INFO, version=2)), "it")

    assert (told.value.found, told.value.newest_known) == (2, 1)


def test_a_field_that_we_do_not_know_is_kept() -> None:
    info = replace(INFO, extra={"weather": "fog"})

    assert recordings.read_info(written(1, info), "it") == info


def test_a_foreign_recording_has_no_info_and_other_types_are_passed_over() -> None:
    buffer = io.BytesIO()
    writer = Writer(buffer)
    writer.start()
    schema = writer.register_schema(name="foreign/msg/Thing", encoding="ros2msg", data=b"")
    channel = writer.register_channel(topic="/thing", message_encoding="cdr", schema_id=schema)
    writer.add_message(channel_id=channel, log_time=1, publish_time=1, data=b"xyz")
    writer.finish()

    assert recordings.read_info(buffer.getvalue(), "it") is None
    assert list(recordings.read_messages(buffer.getvalue(), "it")) == []
    assert recordings.count(buffer.getvalue(), "it") == (3, 1)
