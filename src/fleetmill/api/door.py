"""The one front door: identity and limits are checked once, then each route is a call of a verb.

Errors are problem documents (RFC 9457).
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from anyio import from_thread, to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from fleetmill import lines
from fleetmill.api import findings as learned
from fleetmill.api.identity import Gatekeeper
from fleetmill.api.local import must_be_local
from fleetmill.api.metrics import MEDIA_TYPE, Meter
from fleetmill.api.requests import Around, malformed, problem, refused
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
from fleetmill.core.signing import PROTOCOL_HEADER, checked_protocol
from fleetmill.home import Home
from fleetmill.receive import inbox, parts, roll
from fleetmill.web import routes as pages

LoopAlive = Callable[[], bool | None]
MOST_ENROLMENT_BYTES = 64 * 1024
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


class Door:
    """The routes over an opened home. Each checks who asks, then calls a verb."""

    def __init__(
        self,
        home: Home,
        find: Callable[[str], Line],
        clock: Callable[[], float],
        loop_alive: LoopAlive,
        more_metrics: Callable[[], bytes] | None,
    ) -> None:
        self._more_metrics = more_metrics
        self._home, self._find, self._loop_alive = home, find, loop_alive
        self._repository = home.settings.home / "repository"
        self._gate = Gatekeeper(lambda name: roll.find(home.ledger, name), clock)
        self.meter = Meter(home, loop_alive)
        self.news = News(self._repository / "timestamp.json")

    def health(self) -> dict[str, Any]:
        """Is it alive, does its loop run, what is it turning, and how long is the ledger."""
        seq, digest = self._home.ledger.head()
        alive = self._loop_alive()
        return {
            "status": "failing" if alive is False else "ok",
            "facts": seq,
            "head": digest,
            "loop": {None: "none", True: "running", False: "ended"}[alive],
            "turning": self.meter.turning(),
        }

    def metrics(self, request: Request) -> Response:
        """Counters and gauges for Prometheus; for this machine alone, unless the settings say otherwise."""
        if not self._home.settings.metrics_open:
            must_be_local(request)
        more = self._more_metrics() if self._more_metrics is not None else b""
        return Response(self.meter.page() + more, media_type=MEDIA_TYPE)

    async def enrol(self, request: Request) -> JSONResponse:
        """A device comes with its token and its public key."""
        checked_protocol(request.headers.get(PROTOCOL_HEADER))
        asked = canonical.loads(await _body(request, MOST_ENROLMENT_BYTES))
        return await to_thread.run_sync(_enrol, self._home, asked)

    async def put_recording(self, request: Request, digest: str) -> JSONResponse:
        """A recording arrives; the answer names its digest only when it is durable here."""
        device, signed = self._gate.device(request)
        if signed != checked_digest(digest):
            raise IntegrityError(f"recording {digest[:12]}: the signed digest is {signed[:12]}")
        chunks = _chunks(request, parts.MOST_BYTES)
        size = await to_thread.run_sync(lambda: parts.take(self._home.ledger, self._home.blobs, device, digest, chunks))
        return JSONResponse({"digest": digest, "bytes": size}, 201)

    def journal(self, request: Request) -> dict[str, int]:
        """The last journal entry of the asking device that the books hold; -1: none."""
        device, _ = self._gate.device(request)
        known = self._home.books.journal(device.number)
        return {"entry": known.entry if known else -1}

    async def post_journal(self, request: Request) -> JSONResponse:
        """A signed journal segment."""
        device, body = await _statement(request, self._gate)
        home = self._home
        entry = await to_thread.run_sync(lambda: inbox.take_journal(home.ledger, home.books, device, body))
        return JSONResponse({"entry": entry}, 201)

    async def post_session(self, request: Request) -> JSONResponse:
        """A signed manifest closes a session."""
        device, body = await _statement(request, self._gate)
        home, line = self._home, self._find(device.line)
        session = await to_thread.run_sync(
            lambda: inbox.take_manifest(home.ledger, home.books, home.blobs, device, line, body)
        )
        return JSONResponse({"session": session.key}, 201)

    async def post_report(self, request: Request) -> JSONResponse:
        """A signed report: what became of a release on the device."""
        device, body = await _statement(request, self._gate)
        report = await to_thread.run_sync(lambda: inbox.take_report(self._home.ledger, device, body))
        return JSONResponse({"state": report.state}, 201)

    async def wait(self, request: Request, timestamp: int = 0) -> dict[str, int]:
        """Answered when the signed timestamp is newer than `timestamp`, or after the home's poll seconds."""
        self._gate.device(request)
        return {"timestamp": await self.news.after(timestamp, self._home.settings.poll_seconds)}

    def metadata(self, request: Request, name: str) -> Response:
        """A file of the signed repository."""
        self._gate.device(request)
        path = self._repository / name
        if "/" in name or not name.endswith(".json") or not path.is_file():
            raise NotFoundError(f"no metadata {name}")
        return FileResponse(path, media_type="application/json")

    def target(self, request: Request, kind: str, digest: str, name: str) -> Response:  # noqa: ARG002
        """The bytes of a signed target; the device checks them against the signature, not against us."""
        self._gate.device(request)
        return FileResponse(self._home.blobs.path(digest), media_type="application/octet-stream")


_ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", "/health", "health"),
    ("GET", "/metrics", "metrics"),
    ("POST", "/v1/enrol", "enrol"),
    ("PUT", "/v1/recordings/{digest}", "put_recording"),
    ("GET", "/v1/journal", "journal"),
    ("POST", "/v1/journal", "post_journal"),
    ("POST", "/v1/sessions", "post_session"),
    ("POST", "/v1/reports", "post_report"),
    ("GET", "/v1/wait", "wait"),
    ("GET", "/v1/repository/metadata/{name}", "metadata"),
    ("GET", "/v1/repository/targets/{kind}/{digest}/{name}", "target"),
)


def make_app(
    home: Home,
    *,
    find: Callable[[str], Line] = lines.find,
    clock: Callable[[], float] = time.time,
    loop_alive: LoopAlive = lambda: None,
    more_metrics: Callable[[], bytes] | None = None,
) -> FastAPI:
    """The ASGI application over an opened home; `find` gives a line by name.

    `clock`: seconds since 1970, by which a request is fresh or not. `loop_alive`: whether the loop's process runs; None
    where there is none. `more_metrics`: Prometheus text after our own, the gateway's where there is one.
    """
    door = Door(home, find, clock, loop_alive, more_metrics)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(door.news.watch())
        yield
        task.cancel()

    app = FastAPI(title="Fleetmill", lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(Around, told=door.meter.answered)
    app.add_exception_handler(FleetmillError, _problem)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    for method, path, name in _ROUTES:
        app.add_api_route(path, getattr(door, name), methods=[method], status_code=200 if method == "GET" else 201)
    learned.include(app, home, find)
    pages.include(app, home, must_be_local)
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
    request.scope["fleet.error"] = type(error).__name__
    return problem(request, status, type(error).__name__, str(error))
