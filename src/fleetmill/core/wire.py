"""What stands inside a recording: a table from feature to ROS 2 message, and CDR in and out. No dependency.

MCAP profile ``ros2``, message encoding ``cdr``, schema encoding ``ros2msg``; topic = feature name with a leading
slash. A feature's name, shape, dtype and unit stand in the channel's metadata.

Source: OMG DDS-XTypes 1.3, 7.4.3 (plain CDR, little endian); ROS 2 common_interfaces.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fleetmill.core.errors import IntegrityError, InvalidInputError
from fleetmill.core.line import Array, Feature

PROFILE = "ros2"
ENCODING = "cdr"
SCHEMA_ENCODING = "ros2msg"
_HEADER = b"\x00\x01\x00\x00"  # CDR little endian
_RULE = "=" * 80

_TIME = "int32 sec\nuint32 nanosec\n"
_STD_HEADER = f"{_RULE}\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n" + (
    f"{_RULE}\nMSG: builtin_interfaces/Time\n{_TIME}"
)
_LAYOUT = (
    f"{_RULE}\nMSG: std_msgs/MultiArrayLayout\nstd_msgs/MultiArrayDimension[] dim\nuint32 data_offset\n"
    f"{_RULE}\nMSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One message type: its ROS name, its definition, and for arrays its element."""

    name: str
    definition: str
    element: str = ""


IMAGE = Kind(
    name="sensor_msgs/msg/Image",
    definition=(
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\n"
        "uint8[] data\n" + _STD_HEADER
    ),
)
COMPRESSED = Kind(
    name="sensor_msgs/msg/CompressedImage",
    definition="std_msgs/Header header\nstring format\nuint8[] data\n" + _STD_HEADER,
)
STRING = Kind(name="std_msgs/msg/String", definition="string data\n")


def _multi(ros: str, numpy_name: str) -> Kind:
    title = ros.capitalize() if ros[0] != "u" else "UInt" + ros[4:]
    return Kind(
        name=f"std_msgs/msg/{title}MultiArray",
        definition=f"std_msgs/MultiArrayLayout layout\n{ros}[] data\n" + _LAYOUT,
        element=numpy_name,
    )


ARRAYS = {
    name: _multi(name, name)
    for name in ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
KINDS: dict[str, Kind] = {kind.name: kind for kind in (IMAGE, COMPRESSED, STRING, *ARRAYS.values())}


def kind_of(feature: Feature, value: Mapping[str, Array | str]) -> Kind:
    """The message type that carries `value` of `feature`.

    Raises:
        InvalidInputError: a dtype that no message type carries.
    """
    if isinstance(value["data"], str):
        return STRING
    if "format" in value:
        return COMPRESSED
    if feature.dtype == "uint8" and len(feature.shape) == 3 and feature.shape[2] in (1, 3):
        return IMAGE
    if feature.dtype not in ARRAYS:
        raise InvalidInputError(f"feature {feature.name}: dtype {feature.dtype!r} has no message type")
    return ARRAYS[feature.dtype]


def encode(kind: Kind, value: Mapping[str, Array | str], time_ns: int) -> bytes:
    """CDR bytes of a message; `time_ns` goes to the header of those types that have one."""
    data = value["data"]
    if isinstance(data, str):
        text = data.encode()
        return _HEADER + struct.pack("<I", len(text) + 1) + text + b"\0"
    if kind is COMPRESSED:
        return _with_header(time_ns, _string(str(value["format"])), np.asarray(data, np.uint8).tobytes())
    if kind is IMAGE:
        height, width, channels = data.shape
        encoding = "rgb8" if channels == 3 else "mono8"
        head = struct.pack("<II", height, width) + _string(encoding) + b"\0"
        head += b"\0" * (-(len(head) + _STAMP) % 4) + struct.pack("<I", width * channels)
        return _with_header(time_ns, head, np.ascontiguousarray(data, np.uint8).tobytes())
    return _array(np.asarray(data, kind.element))


def decode(kind_name: str, payload: bytes | memoryview, shape: tuple[int, ...]) -> dict[str, Array | str]:
    """What `encode` was given; `shape` (with -1 for free axes) restores an array's.

    Raises:
        IntegrityError: the bytes are no such message.
    """
    kind = KINDS.get(kind_name)
    if kind is None:
        raise IntegrityError(f"message type {kind_name}: unknown, known are {sorted(KINDS)}")
    try:
        return _decode(kind, memoryview(payload), shape)
    except (struct.error, ValueError, IndexError) as error:
        raise IntegrityError(f"message of type {kind_name}, {len(payload)} bytes: {error}") from error


_STAMP = 16  # CDR header excluded: sec, nanosec, empty frame_id with its length, padded


def _decode(kind: Kind, view: memoryview, shape: tuple[int, ...]) -> dict[str, Array | str]:
    body = view[4:]
    if kind is STRING:
        (length,) = struct.unpack_from("<I", body, 0)
        return {"data": bytes(body[4 : 4 + length - 1]).decode()}
    if kind in (IMAGE, COMPRESSED):
        (length,) = struct.unpack_from("<I", body, 8)  # frame_id
        at = _align(12 + length)
        if kind is COMPRESSED:
            form, at = _read_string(body, at)
            data, _ = _read_bytes(body, _align(at))
            return {"data": data, "format": form}
        height, width = struct.unpack_from("<II", body, at)
        encoding, at = _read_string(body, at + 8)
        data, _ = _read_bytes(body, _align(at + 1) + 4)
        return {"data": data.reshape(height, width, {"rgb8": 3, "mono8": 1}[encoding])}
    (dims,) = struct.unpack_from("<I", body, 0)
    at, sizes = 4, []
    for _ in range(dims):
        _, at = _read_string(body, at)
        at = _align(at)
        sizes.append(struct.unpack_from("<II", body, at)[0])
        at += 8
    (count,) = struct.unpack_from("<I", body, at + 4)
    at += 8
    element = np.dtype(kind.element).newbyteorder("<")
    if element.itemsize == 8 and count:
        at = _align(at, 8)
    values = np.frombuffer(body, element, count, at)
    return {"data": values.reshape(tuple(sizes) if dims else shape if -1 not in shape else (-1,))}


def _array(values: Array) -> bytes:
    body = bytearray(struct.pack("<I", values.ndim))
    stride = values.size
    for size in values.shape:
        body += b"\x01\x00\x00\x00\x00"  # empty label
        body += b"\0" * (-len(body) % 4) + struct.pack("<II", size, stride)
        stride //= max(size, 1)
    body += struct.pack("<II", 0, values.size)
    if values.dtype.itemsize == 8 and values.size:
        body += b"\0" * (-len(body) % 8)
    return _HEADER + bytes(body) + np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def _with_header(time_ns: int, head: bytes, data: bytes) -> bytes:
    stamp = struct.pack("<iI", time_ns // 10**9, time_ns % 10**9) + struct.pack("<I", 1) + b"\0\0\0\0"
    body = stamp + head
    body += b"\0" * (-len(body) % 4)
    return _HEADER + body + struct.pack("<I", len(data)) + data


def _string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<I", len(raw)) + raw


def _read_string(body: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    return bytes(body[at + 4 : at + 4 + length - 1]).decode(), at + 4 + length


def _read_bytes(body: memoryview, at: int) -> tuple[Array, int]:
    (length,) = struct.unpack_from("<I", body, at)
    return np.frombuffer(body, np.uint8, length, at + 4), at + 4 + length


def _align(at: int, to: int = 4) -> int:
    return at + (-at % to)
