"""A device's key pair: it signs every request and every statement. The private key never leaves the device."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError
from fleetmill.core.ids import sha256
from fleetmill.core.signing import (
    LABEL,
    PROTOCOL,
    PROTOCOL_HEADER,
    Params,
    content_digest,
    request_base,
    signature_field,
)
from fleetmill.seams.files import write_whole


class Identity:
    """A device's name and private key."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.name, self._key = name, key

    @property
    def public_key(self) -> str:
        """32 raw bytes in hex."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return self._key.sign(data)

    def statement(self, record: canonical.Json) -> bytes:
        """Canonical JSON of ``{"signed": record, "signature": hex}``."""
        return canonical.dumps({"signed": record, "signature": self.sign(canonical.dumps(record)).hex()})


def open_identity(path: Path, name: str) -> Identity:
    """The key in `path`, made when absent (readable by its owner only).

    Raises:
        IntegrityError: the file is no Ed25519 key.
    """
    if not path.exists():
        fresh = Ed25519PrivateKey.generate()
        pem = fresh.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_whole(path, pem, mode=0o600)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise IntegrityError(f"{path}: no private key. Restore it, or enrol this device anew") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IntegrityError(f"{path}: must be an Ed25519 key. Restore it, or enrol this device anew")
    return Identity(name, key)


class SignedRequests(httpx.Auth):
    """Signs each request of an httpx client (RFC 9421).

    A streamed body must bring its own Content-Digest header; any other body is digested here.
    """

    requires_request_body = False

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add Content-Digest, Signature-Input and Signature, and say which protocol we speak."""
        request.headers[PROTOCOL_HEADER] = str(PROTOCOL)
        if "Content-Digest" not in request.headers:
            request.headers["Content-Digest"] = content_digest(sha256(request.read()))
        params = Params(created=int(time.time()), nonce=secrets.token_hex(16), key=self._identity.name)
        url: Any = request.url
        path, _, query = url.raw_path.decode().partition("?")
        base = request_base(
            params, method=request.method, path=path, query=query, digest_field=request.headers["Content-Digest"]
        )
        request.headers["Signature-Input"] = f"{LABEL}={params.text()}"
        request.headers["Signature"] = signature_field(self._identity.sign(base))
        yield request
