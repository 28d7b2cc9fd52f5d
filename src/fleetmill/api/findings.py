"""Findings and forecasts over HTTP, for this machine alone: signed documents, and the contact sheets that they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetmill.api.local import must_be_local
from fleetmill.core.line import Line
from fleetmill.core.plain import plain
from fleetmill.core.signing import Signature
from fleetmill.findings.foretold import TrackRecords, line_of, told
from fleetmill.findings.published import contact_sheet, published
from fleetmill.findings.sheet import media_type
from fleetmill.home import Home

# a sheet may be an SVG: nothing in it is ever run, and a browser guesses no other type
_HARMLESS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=31536000, immutable",
}


def include(app: FastAPI, home: Home, find: Callable[[str], Line]) -> None:
    """Add the routes to the front door; `find` gives a line by name."""
    records = TrackRecords(home.ledger)

    def verify(document: bytes, signature: Signature) -> None:
        home.repository.verify_statement(document, signature, what="findings")

    def verify_forecast(document: bytes, signature: Signature) -> None:
        home.repository.verify_statement(document, signature, what="forecast")

    def findings(request: Request, line: str | None = None, turn: int | None = None) -> JSONResponse:
        """The findings of a turn: as browsers can hold them, and the very text that was signed."""
        must_be_local(request)
        found = published(home.ledger, home.blobs, line=line, turn=turn, verify=verify)
        shown = {
            "fact": found.fact,
            "digest": found.digest,
            "keyid": found.signature.keyid,
            "signature": found.signature.sig,
            "document": for_browsers(plain(found.findings)),
            "signed": found.document.decode(),
        }
        return JSONResponse(shown)

    def sheet(request: Request, digest: str) -> Response:
        """A contact sheet; the digest is its content's."""
        must_be_local(request)
        data = contact_sheet(home.ledger, home.blobs, digest)
        return Response(data, media_type=media_type(data), headers=_HARMLESS)

    def forecasts(
        request: Request, line: str | None = None, device: str | None = None, after: int | None = None
    ) -> JSONResponse:
        """What was told of each device last, or all that was told after a fact, and how well that turned out so far."""
        must_be_local(request)
        named = find(line_of(home.ledger, line))
        found = told(home.ledger, home.blobs, named, device=device, after=after, verify=verify_forecast)
        answer = {
            "line": named.name,
            "track_record": plain(records.of(named, device)),
            "forecasts": [for_browsers(each.shown()) | {"signed": each.document.decode()} for each in found],
        }
        return JSONResponse(answer)

    app.add_api_route("/v1/forecasts", forecasts, methods=["GET"], response_model=None)
    app.add_api_route("/v1/findings", findings, methods=["GET"], response_model=None)
    app.add_api_route("/v1/findings/sheet/{digest}", sheet, methods=["GET"], response_model=None)


def for_browsers(value: Any) -> Any:
    """Numbers of nanoseconds as text: JavaScript's numbers are exact up to 2^53 only.

    >>> for_browsers({"start_ns": 1767225600000000001, "rows": [{"end_ns": 2, "n": 3}]})
    {'start_ns': '1767225600000000001', 'rows': [{'end_ns': '2', 'n': 3}]}
    >>> for_browsers({"times_ns": [1767225600000000001]})
    {'times_ns': ['1767225600000000001']}
    """
    if isinstance(value, dict):
        return {key: _text(item) if key.endswith("_ns") else for_browsers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [for_browsers(item) for item in value]
    return value


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return str(value) if isinstance(value, int) else for_browsers(value)
