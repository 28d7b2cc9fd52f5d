"""What is signed, byte by byte: HTTP requests (RFC 9421) and statements. No keys here.

A request's signature covers method, path with query, content digest, the time it was made, a nonce and the key's
name; the content digest is RFC 9530's. A statement is a record with a signature over its canonical JSON.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

from fleetmill.core.errors import InvalidInputError, TooNewError

PROTOCOL_HEADER = "Fleet-Protocol"  # says which version of the device protocol a request speaks; none: 1
PROTOCOL, OLDEST_PROTOCOL = 1, 1  # what we speak, and what we still understand
LABEL = "fleet"
COVERED = ("@method", "@path", "@query", "content-digest")
FRESH_SECONDS = 300
_PARAM = r';[a-z]+=(?:\d{1,12}|"[^";\\]{1,80}")'
_INPUT = re.compile(rf'{LABEL}=(\("@method" "@path" "@query" "content-digest"\)((?:{_PARAM}){{4}}))')
_KNOWN = {
    "created": re.compile(r"\d{1,12}"),
    "nonce": re.compile(r'"[0-9a-f]{32}"'),
    "keyid": re.compile(r'"[^";\\]{1,80}"'),
    "alg": re.compile(r'"ed25519"'),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """The parameters of a request's signature."""

    created: int  # seconds since 1970
    nonce: str
    key: str  # the device's name
    written: str = field(default="", compare=False)  # as the signer wrote it: parameters may come in any order

    def text(self) -> str:
        """The inner list as it stands in Signature-Input."""
        if self.written:
            return self.written
        covered = " ".join(f'"{name}"' for name in COVERED)
        return f'({covered});created={self.created};nonce="{self.nonce}";keyid="{self.key}";alg="ed25519"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A signature and which key made it, as TUF writes both: hex."""

    keyid: str
    sig: str


def checked_protocol(field: str | None) -> int:
    """The version of the device protocol that a request speaks, from its header; a request without one speaks 1.

    Raises:
        TooNewError: it is newer than ours.
        InvalidInputError: it is no number, or no longer understood.
    """
    text = "1" if field is None else field.strip()
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise InvalidInputError(f"{PROTOCOL_HEADER} {text[:20]!r}: must be a number from 1")
    found = int(text)
    if found > PROTOCOL:
        raise TooNewError("device protocol", found=found, newest_known=PROTOCOL)
    if found < OLDEST_PROTOCOL:
        raise InvalidInputError(f"device protocol {found}: is understood from {OLDEST_PROTOCOL} on. Update the device")
    return found


def content_digest(sha256_hex: str) -> str:
    """The Content-Digest field for a body (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256_hex)).decode()}:"


def read_content_digest(field: str) -> str:
    """The SHA-256 in hex that a Content-Digest field names.

    Raises:
        InvalidInputError: it names none.
    """
    match = re.fullmatch(r"sha-256=:([A-Za-z0-9+/]{43}=):", field.strip())
    if match is None:
        raise InvalidInputError(f"Content-Digest {field[:80]!r}: must be sha-256=:<44 characters of base64>:")
    return base64.b64decode(match.group(1)).hex()


def request_base(params: Params, *, method: str, path: str, query: str, digest_field: str) -> bytes:
    """The signature base (RFC 9421, 2.5). `path` and `query` as they stand in the request line, `query` without ?."""
    lines = (
        f'"@method": {method.upper()}',
        f'"@path": {path}',
        f'"@query": ?{query}',
        f'"content-digest": {digest_field}',
        f'"@signature-params": {params.text()}',
    )
    return "\n".join(lines).encode()


def read_params(signature_input: str) -> Params:
    """The parameters in a Signature-Input field.

    Raises:
        InvalidInputError: it does not cover what must be covered, or is malformed.
    """
    match = _INPUT.fullmatch(signature_input.strip())
    found = dict(p.split("=", 1) for p in match[2].split(";")[1:]) if match else {}
    if match is None or not all(rule.fullmatch(found.get(name, "")) for name, rule in _KNOWN.items()):
        covered = " ".join(f'"{name}"' for name in COVERED)
        raise InvalidInputError(f'Signature-Input: must be {LABEL}=({covered});created;nonce;keyid;alg="ed25519"')
    return Params(created=int(found["created"]), nonce=found["nonce"][1:-1], key=found["keyid"][1:-1], written=match[1])


def signature_field(signature: bytes) -> str:
    """The Signature field."""
    return f"{LABEL}=:{base64.b64encode(signature).decode()}:"


def read_signature(field: str) -> bytes:
    """The signature in a Signature field.

    Raises:
        InvalidInputError: there is none of 64 bytes.
    """
    match = re.fullmatch(rf"{LABEL}=:([A-Za-z0-9+/]{{86}}==):", field.strip())
    if match is None:
        raise InvalidInputError(f"Signature: must be {LABEL}=:<64 bytes in base64>:")
    return base64.b64decode(match.group(1))
