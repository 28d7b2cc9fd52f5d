"""The roll of devices: who is enrolled, in which order, with which key."""

from __future__ import annotations

import secrets
from typing import Any

from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError
from fleetmill.core.fleet import Device
from fleetmill.core.ids import checked_name, sha256
from fleetmill.core.plain import build
from fleetmill.seams.ledger import Draft, Ledger


def invite(ledger: Ledger, name: str, *, line: str) -> str:
    """A secret with which a device may enrol once as `name`; the device's number is given here, in order.

    Raises:
        ConflictError: the name was given before.
        InvalidInputError: the name may not be used.
    """
    checked_name(name, "device name")
    secret = secrets.token_hex(16)
    record = _invitation(ledger, name, line, secret_sha256=sha256(secret.encode()))
    ledger.append([Draft(kind="invited", key=name, record=record)])
    return secret


def enrol(ledger: Ledger, *, name: str, secret: str, public_key: str, hardware: str) -> Device:
    """Take a device with its key; the same device may ask again after a crash.

    Raises:
        InvalidInputError: unknown name, another secret, or a malformed key.
        ConflictError: the name is taken by another key.
    """
    try:
        invited = ledger.get("invited", name).record
    except NotFoundError:
        raise InvalidInputError(f"device {name}: was not invited. Run: fleetmill device enrol {name}") from None
    if not secrets.compare_digest(invited["secret_sha256"], sha256(secret.encode())):
        raise InvalidInputError(f"device {name}: the token's secret is wrong. Use the one that `device enrol` printed")
    if len(public_key) != 64 or not set(public_key) <= set("0123456789abcdef"):
        raise InvalidInputError("public_key: must be 64 hex digits (Ed25519, 32 raw bytes)")
    device = Device(
        name=name,
        number=invited["number"],
        line=invited["line"],
        hardware=hardware,
        public_key=public_key,
        place=invited.get("place"),
    )
    try:
        ledger.append([Draft(kind="device", key=name, record=device.record)])
    except ConflictError:
        raise ConflictError(f"device {name}: is enrolled with another key. Enrol under another name") from None
    return device


def ensure_imported(ledger: Ledger, name: str, *, line: str) -> Device:
    """The device that foreign recordings are booked on: made when absent, without a key."""
    checked_name(name, "device name")
    try:
        device = find(ledger, name)
    except NotFoundError:
        record = _invitation(ledger, name, line, secret_sha256="")
        invited = Draft(kind="invited", key=name, record=record)
        device = Device(
            name=name,
            number=record["number"],
            line=line,
            hardware="import",
            public_key="",
            place=record.get("place"),
        )
        ledger.append([invited, Draft(kind="device", key=name, record=device.record)])
    if device.line != line:
        raise ConflictError(f"device {name}: is on line {device.line}, not {line}. Give another --device")
    return device


def find(ledger: Ledger, name: str) -> Device:
    """The device called `name`.

    Raises:
        NotFoundError: it is not enrolled.
    """
    return build(Device, ledger.get("device", name).record)


def devices(ledger: Ledger) -> list[Device]:
    """Every enrolled device, by number."""
    return sorted((build(Device, f.record) for f in ledger.read(kind="device")), key=lambda d: d.number)


def _invitation(ledger: Ledger, name: str, line: str, *, secret_sha256: str) -> dict[str, Any]:
    known = {f.key: f.record["line"] for f in ledger.read(kind="invited")}
    if name in known:
        raise ConflictError(f"device {name}: is enrolled or invited already. Choose another name")
    number, place = len(known), list(known.values()).count(line)
    found = {"name": name, "number": number, "line": line, "secret_sha256": secret_sha256}
    return found if place == number else {**found, "place": place}
