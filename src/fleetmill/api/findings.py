"""Findings over HTTP, for this machine alone: the signed document of a turn, and the contact sheets that it names."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetmill.api.local import must_be_local
from fleetmill.core.plain import plain
from fleetmill.core.signing import Signature
from fleetmill.findings.published import contact_sheet, published
from fleetmill.findings.sheet import media_type
from fleetmill.home import Home

# a sheet may be an SVG: nothing in it is ever run, and a browser guesses no other type
_HARMLESS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=31536000, immutable",
}


def include(app: FastAPI, home: Home) -> None:
    """Add the routes to the front door."""

    def verify(document: bytes, signature: Signature) -> None:
        home.repository.verify_statement(document, signature, what="findings")

    def findings(request: Request, line: str | None = None, turn: int | None = None) -> JSONResponse:
        """The findings of a turn: as browsers can hold them, and the very text that was signed."""
        must_be_local(request)
        found = published(home.ledger, home.blobs, line=line, turn=turn, verify=verify)
        told = {
            "fact": found.fact,
            "digest": found.digest,
            "keyid": found.signature.keyid,
            "signature": found.signature.sig,
            "document": for_browsers(plain(found.findings)),
            "signed": found.document.decode(),
        }
        return JSONResponse(told)

    def sheet(request: Request, digest: str) -> Response:
        """A contact sheet; the digest is its content's."""
        must_be_local(request)
        data = contact_sheet(home.ledger, home.blobs, digest)
        return Response(data, media_type=media_type(data), headers=_HARMLESS)

    app.add_api_route("/v1/findings", findings, methods=["GET"], response_model=None)
    app.add_api_route("/v1/findings/sheet/{digest}", sheet, methods=["GET"], response_model=None)


def for_browsers(value: Any) -> Any:
    """Numbers of nanoseconds as text: JavaScript's numbers are exact up to 2^53 only.

    >>> for_browsers({"start_ns": 1767225600000000001, "rows": [{"end_ns": 2, "n": 3}]})
    {'start_ns': '1767225600000000001', 'rows': [{'end_ns': '2', 'n': 3}]}
    """
    if isinstance(value, dict):
        return {
            key: str(item) if key.endswith("_ns") and isinstance(item, int) else for_browsers(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [for_browsers(item) for item in value]
    return value
