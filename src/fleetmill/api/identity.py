"""Who is asking: each request is signed by a device's key (RFC 9421), is fresh, and is used once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.requests import Request

from fleetmill.core.errors import InvalidInputError, NotFoundError, TrustError
from fleetmill.core.fleet import Device
from fleetmill.core.signing import (
    FRESH_SECONDS,
    LABEL,
    PROTOCOL_HEADER,
    checked_protocol,
    read_content_digest,
    read_params,
    read_signature,
    request_base,
)
from fleetmill.seams.signatures import verify

_log = logging.getLogger("fleetmill.door")


class Gatekeeper:
    """Checks signatures and remembers nonces for as long as they could be fresh."""

    def __init__(self, find: Callable[[str], Device], clock: Callable[[], float] = time.time) -> None:
        self._find, self._clock = find, clock
        self._nonces: dict[str, float] = {}
        self._devices: dict[str, Device] = {}

    def device(self, request: Request) -> tuple[Device, str]:
        """(who asks, the SHA-256 that was signed for the body). The caller must check the body against it.

        Raises:
            TrustError: unsigned, signed by another key, stale, or seen before.
            TooNewError: it speaks a newer protocol than ours.
        """
        headers = request.headers
        checked_protocol(headers.get(PROTOCOL_HEADER))
        for name in ("signature-input", "signature", "content-digest"):
            if name not in headers:
                raise TrustError(f"{request.method} {request.url.path}: is not signed: {name} is missing")
        try:
            label, _, value = headers["signature-input"].partition("=")
            params = read_params(f"{label}={value}" if label == LABEL else "")
            signature = read_signature(headers["signature"])
            digest = read_content_digest(headers["content-digest"])
        except InvalidInputError as error:
            raise TrustError(str(error)) from error
        if abs(ahead := params.created - self._clock()) > FRESH_SECONDS:
            _log.warning("a request is stale: is the device's clock right?", extra={"ahead_seconds": round(ahead)})
            raise TrustError(
                f"device {params.key}: signed at {params.created}, more than {FRESH_SECONDS} s from now. Set its clock"
            )
        device = self._known(params.key)
        base = request_base(
            params,
            method=request.method,
            path=request.scope.get("raw_path", request.url.path.encode()).decode(),
            query=request.url.query,
            digest_field=headers["content-digest"],
        )
        verify(device.public_key, base, signature, what=f"request of {device.name}")
        self._use(f"{device.name}/{params.nonce}")
        request.scope["fleet.device"] = device.name
        return device, digest

    def _known(self, name: str) -> Device:
        if name not in self._devices:
            try:
                self._devices[name] = self._find(name)
            except NotFoundError:
                raise TrustError(f"device {name[:80]!r}: is not enrolled") from None
        return self._devices[name]

    def _use(self, nonce: str) -> None:
        now = self._clock()
        if nonce in self._nonces:
            raise TrustError("this request was made before: its nonce is used")
        self._nonces[nonce] = now
        if len(self._nonces) > 10_000:
            self._nonces = {n: t for n, t in self._nonces.items() if now - t < 2 * FRESH_SECONDS}
