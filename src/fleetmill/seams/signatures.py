"""Is this signed by that key? Ed25519 (RFC 8032) through `cryptography`."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError, TrustError


def verify(public_key: str, data: bytes, signature: bytes, *, what: str) -> None:
    """Pass when `signature` is the key's over `data`.

    Raises:
        TrustError: it is not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, data)
    except (InvalidSignature, ValueError) as error:
        raise TrustError(f"{what}: not signed by the key {public_key[:16] or '(none)'}") from error


def read_statement(public_key: str, data: bytes, *, what: str) -> tuple[canonical.Json, str]:
    """(record, signature in hex) of a statement: canonical JSON ``{"signed": record, "signature": hex}``.

    Raises:
        InvalidInputError: it is no statement.
        TrustError: it is not signed by the key.
    """
    value = canonical.loads(data)
    if not isinstance(value, dict) or not isinstance(value.get("signature"), str) or "signed" not in value:
        raise InvalidInputError(f"{what}: must be an object with 'signed' and 'signature'")
    try:
        signature = bytes.fromhex(value["signature"])
    except ValueError:
        raise InvalidInputError(f"{what}.signature: must be hex") from None
    verify(public_key, canonical.dumps(value["signed"]), signature, what=what)
    return value["signed"], value["signature"]
