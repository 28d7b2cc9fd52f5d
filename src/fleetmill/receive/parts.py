"""Recordings come in: bytes are kept under their digest, opened once, and entered in the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.fleet import Device
from fleetmill.core.plain import plain
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Draft, Ledger

MOST_BYTES = 8 * 1024**3


def take(ledger: Ledger, blobs: Blobs, device: Device, digest: str, chunks: Iterable[bytes]) -> int:
    """Keep an uploaded recording; its size in bytes. Taking the same one again changes nothing.

    When this returns, the bytes are durable under `digest`: only then may the device free its copy.

    Raises:
        IntegrityError: other bytes than announced, or no whole MCAP file.
        InvalidInputError: a recording of another device.
        UnavailableError: no space.
    """
    size = blobs.put_stream(chunks, digest)
    enter(ledger, blobs, device, digest)
    return size


def enter(ledger: Ledger, blobs: Blobs, device: Device, digest: str) -> None:
    """Enter a recording whose bytes are here."""
    data = blobs.get(digest)
    where = f"recording {digest[:12]}"
    info = recordings.read_info(data, where)
    if info is None:
        raise InvalidInputError(f"{where}: has no `fleet` metadata record. Bring foreign files in by: fleetmill import")
    if info.device != device.name:
        raise InvalidInputError(f"{where}: is of device {info.device!r}, sent by {device.name!r}")
    size, messages = recordings.count(data, where)
    record = {**plain(info), "digest": digest, "bytes": size, "messages": messages, "stored_bytes": len(data)}
    ledger.append([Draft(kind="recording", key=digest, record=record)])
