"""MCAP in and out: the only file that knows the library.

Indexed, zstd chunks of at most 4 MB, CRCs on, profile ``ros2`` (CONTRACTS, 4). The same messages give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal

from mcap.reader import make_reader
from mcap.records import Channel, Metadata, Schema, Statistics
from mcap.records import Message as Stored
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, IndexType, Writer

from fleetmill.core import canonical, wire
from fleetmill.core.errors import FleetmillError, IntegrityError, InvalidInputError, TooNewError
from fleetmill.core.line import Feature, Message
from fleetmill.core.plain import build, plain
from fleetmill.core.recording import FORMAT, RecordingInfo

CHUNK_BYTES = 4 * 1024 * 1024 - 256 * 1024  # a chunk ends with the message that crosses this
_LIBRARY = "fleetmill"
_METADATA = "fleet"
_MAGIC = b"\x89MCAP0\r\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A message as bytes: what spool and recording hold."""

    topic: str  # feature name, without the slash
    kind: str  # message type, a key of `wire.KINDS`
    time_ns: int
    payload: bytes


def write_recording(info: RecordingInfo, features: Iterable[Feature], messages: Iterable[Encoded]) -> bytes:
    """The bytes of a sealed recording; messages must come in log order."""
    by_name = {f.name: f for f in features}
    buffer = io.BytesIO()
    writer = Writer(
        buffer,
        chunk_size=CHUNK_BYTES,
        compression=CompressionType.ZSTD,
        index_types=IndexType.ALL,
        enable_data_crcs=True,
    )
    writer.start(profile=wire.PROFILE, library=_LIBRARY)
    channels: dict[tuple[str, str], int] = {}
    schemas: dict[str, int] = {}
    for message in messages:
        place = (message.topic, message.kind)
        if place not in channels:
            if message.kind not in schemas:
                schemas[message.kind] = writer.register_schema(
                    name=message.kind, encoding=wire.SCHEMA_ENCODING, data=wire.KINDS[message.kind].definition.encode()
                )
            channels[place] = writer.register_channel(
                topic="/" + message.topic,
                message_encoding=wire.ENCODING,
                schema_id=schemas[message.kind],
                metadata=_channel_metadata(by_name.get(message.topic)),
            )
        writer.add_message(
            channel_id=channels[place],
            log_time=message.time_ns,
            publish_time=message.time_ns,
            data=message.payload,
        )
    writer.add_metadata(_METADATA, {k: _text(v) for k, v in plain(info).items()})
    writer.finish()  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def read_info(data: bytes, where: str) -> RecordingInfo | None:
    """The ``fleet`` metadata record; None when the recording has none (it is not ours).

    Raises:
        IntegrityError: truncated or damaged.
        InvalidInputError: no MCAP file at all.
        TooNewError: written by a newer version.
    """
    with _translated(where):
        held = [r for r in _records(data, where, chunks=False) if isinstance(r, Metadata) and r.name == _METADATA]
    return _info(held[0].metadata, where) if held else None


def read_messages(data: bytes, where: str, *, topics: Collection[str] | None = None) -> Iterator[Message]:
    """Messages in log order, decoded by the wire table; other message types, and all but `topics`, are passed over.

    Raises:
        IntegrityError: truncated or damaged.
        InvalidInputError: no MCAP file at all.
    """
    with _translated(where):
        for schema, channel, message in sorted(_messages(data, where), key=lambda found: found[2].log_time):
            if topics is None or channel.topic.removeprefix("/") in topics:
                yield from _decoded(schema, channel, message)


def read_channels(data: bytes, where: str) -> dict[str, Feature]:
    """What each channel that can be decoded holds, by topic: told by its metadata, or by its first message.

    Raises:
        IntegrityError: truncated or damaged.
        InvalidInputError: no MCAP file at all.
    """
    found: dict[str, Feature] = {}
    with _translated(where):
        for schema, channel, message in _messages(data, where):
            topic = channel.topic.removeprefix("/")
            if topic in found:
                continue
            if "feature" in channel.metadata:
                found[topic] = build(Feature, canonical.loads(channel.metadata["feature"]), where)
            else:
                found |= {m.topic: _feature(m) for m in _decoded(schema, channel, message)}
    return found


def read_end(file: BinaryIO, where: str, seconds: float) -> list[Message]:
    """The messages of the last seconds of an open recording, through its index: to be looked at, never counted.

    Raises:
        IntegrityError: truncated or damaged.
    """
    found: list[Message] = []
    with _translated(where):
        reader, end = make_reader(file, validate_crcs=True), None
        for schema, channel, message in reader.iter_messages(reverse=True):
            end = message.log_time if end is None else end
            if message.log_time < end - seconds * 1e9:
                break
            found += _decoded(schema, channel, message)
    return found[::-1]


def count(data: bytes, where: str) -> tuple[int, int]:
    """(payload bytes, messages): what the books count.

    Raises:
        IntegrityError: truncated or damaged.
        InvalidInputError: no MCAP file at all.
    """
    size = number = 0
    with _translated(where):
        for _, _, message in _messages(data, where):
            size, number = size + len(message.data), number + 1
    return size, number


def encode(feature: Feature, message: Message) -> Encoded:
    """A decoded message as its bytes."""
    kind = wire.kind_of(feature, message.value)
    return Encoded(
        topic=feature.name,
        kind=kind.name,
        time_ns=message.log_time_ns,
        payload=wire.encode(kind, message.value, message.publish_time_ns),
    )


def _decoded(schema: Schema | None, channel: Channel, message: Stored) -> Iterator[Message]:
    """The message by the wire table; none where it is of another type."""
    if schema is None or schema.name not in wire.KINDS or channel.message_encoding != wire.ENCODING:
        return
    yield Message(
        topic=channel.topic.removeprefix("/"),
        log_time_ns=message.log_time,
        publish_time_ns=message.publish_time,
        value=wire.decode(schema.name, message.data, _shape(channel.metadata)),
    )


def _feature(message: Message) -> Feature:
    value = message.value["data"]
    dtype, shape = ("str", ()) if isinstance(value, str) else (str(value.dtype), value.shape)
    kind: Literal["observation", "extra"] = "extra" if dtype == "str" or "format" in message.value else "observation"
    return Feature(name=message.topic, kind=kind, dtype=dtype, shape=shape, unit="1")


def _messages(data: bytes, where: str) -> list[tuple[Schema | None, Channel, Stored]]:
    """Every message, as it stands in the file."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    found: list[tuple[Schema | None, Channel, Stored]] = []
    said: int | None = None
    for record in _records(data, where):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
        elif isinstance(record, Stored):
            channel = channels[record.channel_id]
            found.append((schemas.get(channel.schema_id), channel, record))
        elif isinstance(record, Statistics):
            said = record.message_count
    if said is not None and said != len(found):
        raise IntegrityError(f"{where}: says that it holds {said} messages, {len(found)} are found. Copy it again")
    return found


def _records(data: bytes, where: str, *, chunks: bool = True) -> Iterator[object]:
    """Every record from beginning to end, every checksum verified; what is in chunks only if asked.

    Never through the index: a damaged one would lose messages without a word.
    """
    beginning = data[: len(_MAGIC)]
    if not _MAGIC.startswith(beginning):  # a beginning of it alone is a file that was cut off
        raise InvalidInputError(f"{where}: is no MCAP file, it begins with {beginning!r}. Give another file")
    yield from StreamReader(io.BytesIO(data), emit_chunks=not chunks, validate_crcs=True).records


def _channel_metadata(feature: Feature | None) -> dict[str, str]:
    if feature is None:
        return {}
    return {"feature": canonical.dumps(plain(feature)).decode()}


def _shape(metadata: Mapping[str, str]) -> tuple[int, ...]:
    if "feature" not in metadata:
        return (-1,)
    return tuple(canonical.loads(metadata["feature"])["shape"])


def _text(value: object) -> str:
    return value if isinstance(value, str) else canonical.dumps(value).decode()


def _info(metadata: Mapping[str, str], where: str) -> RecordingInfo:
    values: dict[str, object] = dict(metadata)
    for name in ("start_ns", "end_ns", "track", "version", "tags"):
        if name in metadata:
            values[name] = canonical.loads(metadata[name])
    version = values.get("version", 1)
    if isinstance(version, int) and version > FORMAT:
        raise TooNewError(where, found=version, newest_known=FORMAT)
    return build(RecordingInfo, values, where)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except FleetmillError:
        raise
    except Exception as error:  # the library raises what its codecs raise: struct, zstd, lz4, its own
        raise IntegrityError(
            f"{where}: not a whole MCAP file ({type(error).__name__}: {error or 'ends early'}). "
            "Copy it again from its source; `mcap recover` may save its first part"
        ) from error
