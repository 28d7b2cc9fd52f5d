"""What the factory tells this machine alone: pages and answers without a signature.

The Host header is checked too: a page from elsewhere whose name was pointed at 127.0.0.1 (DNS rebinding) gets nothing.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.requests import Request

from fleetmill.core.errors import TrustError

_NAMES = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)


def must_be_local(request: Request) -> None:
    """Refuse who is not on this machine.

    Raises:
        TrustError: another address asks, or it asks for another name.
    """
    client = request.client.host if request.client else ""
    name = request.headers.get("host", "")  # as it was sent: a malformed one is not replaced by our own address
    if not _is_loopback(client) or not _NAMES.fullmatch(name):
        raise TrustError(f"{request.url.path}: is served to this machine alone. Open it as http://127.0.0.1, or tunnel")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
