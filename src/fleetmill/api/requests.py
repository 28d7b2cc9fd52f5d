"""Around every request: an id that its answer, its problem document and its log lines carry, and one line in the log.

The line names route, status, device, sizes and the kind of error. It never holds what was sent, not even where an error
quotes it: who asked has the whole error in the answer, with the id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleetmill import logs
from fleetmill.core.plain import plain
from fleetmill.core.signing import PROTOCOL, PROTOCOL_HEADER

ID = "X-Request-Id"
_NO_ROUTE = "(none)"
_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH")
_log = logging.getLogger("fleetmill.door")
Told = Callable[[str, str, int, float], None]  # method, route, status, seconds


class Around:
    """ASGI middleware. `told` hears of each answer; an error that nobody foresaw becomes a problem document."""

    def __init__(self, app: ASGIApp, told: Told) -> None:
        self._app, self._told = app, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, began, status = logs.new_id(), time.perf_counter(), 0
        scope["fleet.request"] = name

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(ID.lower().encode(), name.encode()), (PROTOCOL_HEADER.lower().encode(), str(PROTOCOL).encode())]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        with logs.bound(request=name):
            try:
                await self._app(scope, receive, answer)
            except ClientDisconnect:
                scope["fleet.error"] = "hung up"
            except Exception as error:
                scope["fleet.error"] = type(error).__name__
                _log.exception("internal error")
                if status:  # the answer has begun: there is no other way to say that it is not whole
                    raise
                told = f"internal error. Look for request {name} in the factory's log"
                await problem(Request(scope), 500, type(error).__name__, told)(scope, receive, answer)
            finally:
                self._tell(scope, status, time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method = (
            scope["method"] if scope["method"] in _METHODS else "other"
        )  # a caller could make up any number of them
        route, length = (
            getattr(scope.get("route"), "path", _NO_ROUTE),
            dict(scope["headers"]).get(b"content-length", b""),
        )
        self._told(method, route, status, seconds)
        fields: dict[str, Any] = {
            "method": method,
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            "bytes": int(length) if length.isdigit() else 0,
            **{key: scope[f"fleet.{key}"] for key in ("device", "error") if f"fleet.{key}" in scope},
        }
        _log.log(_level(method, status), "answered", extra=fields)


def problem(request: Request, status: int, title: str, detail: str) -> JSONResponse:
    """A problem document (RFC 9457) with the request's id."""
    body = {
        "type": f"about:blank#{title}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "request": request.scope.get("fleet.request", ""),
    }
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(plain(body), status, media_type="application/problem+json", headers=headers)


async def refused(request: Request, error: Exception) -> JSONResponse:
    """What the router itself refuses: no such path, or another method."""
    assert isinstance(error, HTTPException)
    return problem(request, error.status_code, "NotFoundError" if error.status_code == 404 else "Refused", error.detail)


async def malformed(request: Request, error: Exception) -> JSONResponse:
    """A parameter of the path or the query that is of another type."""
    wrong = [".".join(map(str, found["loc"])) for found in getattr(error, "errors", list)()]
    return problem(request, 400, "InvalidInputError", f"{', '.join(wrong)}: not of the type that is expected")


def _level(method: str, status: int) -> int:
    if status >= 500:
        return logging.WARNING
    asks = method in ("GET", "HEAD", "OPTIONS")
    is_usual = asks and (status < 400 or status == 404)  # a device looks for the next root until there is one
    return logging.DEBUG if is_usual else logging.INFO
