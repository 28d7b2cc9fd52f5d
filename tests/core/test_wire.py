"""CDR bytes are what the rest of the ROS 2 world reads."""

from __future__ import annotations

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from fleetmill.core import wire
from fleetmill.core.errors import IntegrityError
from fleetmill.core.line import Feature

STORE = get_typestore(Stores.ROS2_HUMBLE)


def feature(dtype, shape):
    return Feature(name="x", kind="observation", dtype=dtype, shape=shape, unit="1")


@pytest.mark.parametrize("dtype", sorted(wire.ARRAYS))
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_an_array_is_read_back_by_us_and_by_rosbags(dtype, shape):
    values = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    kind = wire.kind_of(feature(dtype, shape), {"data": values})
    payload = wire.encode(kind, {"data": values}, 0)

    back = wire.decode(kind.name, payload, shape)["data"]
    foreign = STORE.deserialize_cdr(payload, kind.name)

    np.testing.assert_array_equal(back, values)
    assert back.shape == shape
    np.testing.assert_array_equal(foreign.data, values.reshape(-1))
    assert [d.size for d in foreign.layout.dim] == list(shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_read_back_by_us_and_by_rosbags(channels):
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, channels)).astype(np.uint8)
    kind = wire.kind_of(feature("uint8", picture.shape), {"data": picture})
    payload = wire.encode(kind, {"data": picture}, 1_500_000_000_000_000_123)

    foreign = STORE.deserialize_cdr(payload, kind.name)

    np.testing.assert_array_equal(wire.decode(kind.name, payload, picture.shape)["data"], picture)
    np.testing.assert_array_equal(foreign.data, picture.reshape(-1))
    assert (foreign.height, foreign.width, foreign.step) == (5, 7, 7 * channels)
    assert (foreign.header.stamp.sec, foreign.header.stamp.nanosec) == (1_500_000_000, 123)


def test_a_jpeg_keeps_its_bytes():
    jpeg = np.frombuffer(b"\xff\xd8something\xff\xd9", np.uint8)
    kind = wire.kind_of(feature("uint8", (4, 4, 3)), {"data": jpeg, "format": "jpeg"})
    payload = wire.encode(kind, {"data": jpeg, "format": "jpeg"}, 7)

    foreign = STORE.deserialize_cdr(payload, kind.name)

    assert foreign.format == "jpeg"
    assert foreign.data.tobytes() == jpeg.tobytes()
    back = wire.decode(kind.name, payload, (4, 4, 3))
    assert (back["format"], back["data"].tobytes()) == ("jpeg", jpeg.tobytes())


def test_text_is_read_back():
    payload = wire.encode(wire.STRING, {"data": "grüß"}, 0)

    assert wire.decode(wire.STRING.name, payload, ()) == {"data": "grüß"}
    assert STORE.deserialize_cdr(payload, "std_msgs/msg/String").data == "grüß"


def test_a_truncated_message_is_an_integrity_error():
    payload = wire.encode(wire.ARRAYS["float32"], {"data": np.ones(4, np.float32)}, 0)

    with pytest.raises(IntegrityError, match="Float32MultiArray"):
        wire.decode("std_msgs/msg/Float32MultiArray", payload[:-3], (4,))
