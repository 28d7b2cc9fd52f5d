"""The one front door: identity and limits are checked once, then each route is a call of a verb.

Errors are problem documents (RFC 9457).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from anyio import from_thread, to_thread
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from fleetmill import lines
from fleetmill.api.identity import Gatekeeper
from fleetmill.core import canonical
from fleetmill.core.errors import (
    ConflictError,
    FleetmillError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    TrustError,
    UnavailableError,
)
from fleetmill.core.fleet import Device
from fleetmill.core.ids import checked_digest, sha256
from fleetmill.core.line import Line
from fleetmill.core.plain import plain
from fleetmill.home import Home
from fleetmill.receive import inbox, parts, roll

MOST_STATEMENT_BYTES = 64 * 1024**2
_STATUS: tuple[tuple[type[FleetmillError], int], ...] = (
    (TrustError, 401),
    (IntegrityError, 422),
    (NotFoundError, 404),
    (ConflictError, 409),
    (InvalidInputError, 400),
    (UnavailableError, 503),
    (FleetmillError, 500),
)


class News:
    """Wakes those who wait for newer signed metadata: one look at the file for all of them."""

    def __init__(self, timestamp: Path) -> None:
        self._path, self._changed, self.version = timestamp, asyncio.Event(), 0

    async def watch(self) -> None:
        """Look until cancelled."""
        stamp = 0
        while True:
            found = self._path.stat().st_mtime_ns
            if found != stamp:
                stamp, self.version = found, int(json.loads(self._path.read_bytes())["signed"]["version"])
                self._changed.set()
                self._changed = asyncio.Event()
            await asyncio.sleep(0.1)

    async def after(self, version: int, seconds: float) -> int:
        """The version, as soon as it is above `version`, or after so many seconds whatever it is."""
        if self.version <= version:
            changed = self._changed
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), seconds)
        return self.version


def make_app(home: Home, *, find: Callable[[str], Line] = lines.find) -> FastAPI:
    """The ASGI application over an opened home; `find` gives a line by name."""
    repository = home.settings.home / "repository"
    gate = Gatekeeper(lambda name: roll.find(home.ledger, name))
    news = News(repository / "timestamp.json")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(news.watch())
        yield
        task.cancel()

    app = FastAPI(title="Fleetmill", lifespan=life, docs_url=None, redoc_url=None)
    app.add_exception_handler(FleetmillError, _problem)

    @app.get("/health")
    def health() -> dict[str, Any]:
        seq, digest = home.ledger.head()
        return {"status": "ok", "facts": seq, "head": digest}

    @app.post("/v1/enrol", status_code=201)
    async def enrol(request: Request) -> JSONResponse:
        asked = canonical.loads(await _body(request, 64 * 1024))
        return await to_thread.run_sync(_enrol, home, asked)

    @app.put("/v1/recordings/{digest}", status_code=201)
    async def recording(request: Request, digest: str) -> JSONResponse:
        device, signed = gate.device(request)
        if signed != checked_digest(digest):
            raise IntegrityError(f"recording {digest[:12]}: the signed digest is {signed[:12]}")
        size = await to_thread.run_sync(
            lambda: parts.take(home.ledger, home.blobs, device, digest, _chunks(request, parts.MOST_BYTES))
        )
        return JSONResponse({"digest": digest, "bytes": size}, 201)

    @app.get("/v1/journal")
    def journal(request: Request) -> dict[str, int]:
        device, _ = gate.device(request)
        known = home.books.journal(device.number)
        return {"entry": known.entry if known else -1}

    @app.post("/v1/journal", status_code=201)
    async def post_journal(request: Request) -> JSONResponse:
        device, body = await _statement(request, gate)
        entry = await to_thread.run_sync(lambda: inbox.take_journal(home.ledger, home.books, device, body))
        return JSONResponse({"entry": entry}, 201)

    @app.post("/v1/sessions", status_code=201)
    async def post_session(request: Request) -> JSONResponse:
        device, body = await _statement(request, gate)
        line = find(device.line)
        session = await to_thread.run_sync(
            lambda: inbox.take_manifest(home.ledger, home.books, home.blobs, device, line, body)
        )
        return JSONResponse({"session": session.key}, 201)

    @app.post("/v1/reports", status_code=201)
    async def post_report(request: Request) -> JSONResponse:
        device, body = await _statement(request, gate)
        report = await to_thread.run_sync(lambda: inbox.take_report(home.ledger, device, body))
        return JSONResponse({"state": report.state}, 201)

    @app.get("/v1/wait")
    async def wait(request: Request, timestamp: int = 0) -> dict[str, int]:
        gate.device(request)
        return {"timestamp": await news.after(timestamp, home.settings.poll_seconds)}

    @app.get("/v1/repository/metadata/{name}")
    def metadata(request: Request, name: str) -> Response:
        gate.device(request)
        path = repository / name
        if "/" in name or not name.endswith(".json") or not path.is_file():
            raise NotFoundError(f"no metadata {name}")
        return FileResponse(path, media_type="application/json")

    @app.get("/v1/repository/targets/{kind}/{digest}/{name}")
    def target(request: Request, kind: str, digest: str, name: str) -> Response:  # noqa: ARG001
        gate.device(request)
        return FileResponse(home.blobs.path(digest), media_type="application/octet-stream")

    return app


def _enrol(home: Home, asked: Any) -> JSONResponse:
    if not isinstance(asked, dict):
        raise InvalidInputError("enrolment: must be an object")
    wanted = {name: str(asked.get(name, "")) for name in ("name", "secret", "public_key", "hardware")}
    device = roll.enrol(home.ledger, **wanted)
    root = home.repository.root()
    told = {"name": device.name, "number": device.number, "line": device.line, "hardware": device.hardware}
    return JSONResponse({"device": told, "root": base64.b64encode(root).decode()}, 201)


async def _statement(request: Request, gate: Gatekeeper) -> tuple[Device, bytes]:
    device, signed = gate.device(request)
    body = await _body(request, MOST_STATEMENT_BYTES)
    if sha256(body) != signed:
        raise IntegrityError(f"{request.url.path}: the body is not what was signed")
    return device, body


async def _body(request: Request, most: int) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most:
            raise InvalidInputError(f"{request.url.path}: more than {most} bytes")
    return bytes(found)


def _chunks(request: Request, most: int) -> Iterator[bytes]:
    """The body as a plain iterator for the verb, which runs in a worker thread."""
    stream, size = request.stream(), 0

    async def next_chunk() -> bytes | None:
        try:
            return await anext(stream)
        except StopAsyncIteration:
            return None
        except ClientDisconnect as error:
            raise UnavailableError("the device hung up before the end") from error

    while (chunk := from_thread.run(next_chunk)) is not None:
        size += len(chunk)
        if size > most:
            raise InvalidInputError(f"{request.url.path}: more than {most} bytes")
        yield chunk


async def _problem(request: Request, error: Exception) -> JSONResponse:
    status = next(code for kind, code in _STATUS if isinstance(error, kind))
    body = {
        "type": f"about:blank#{type(error).__name__}",
        "title": type(error).__name__,
        "status": status,
        "detail": str(error),
        "instance": request.url.path,
    }
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(plain(body), status, media_type="application/problem+json", headers=headers)
