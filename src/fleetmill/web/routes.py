"""The page's two routes: the page, and the stream that keeps it new. Read only; who may ask is the door's to say."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from fleetmill.core.errors import TrustError
from fleetmill.home import Home
from fleetmill.web import page
from fleetmill.web.board import Board

_SAME = ("same-origin", "none")  # Sec-Fetch-Site: our own page, or somebody's address bar


def include(app: FastAPI, home: Home, may_ask: Callable[[Request], None]) -> None:
    """Add ``GET /`` and ``GET /live`` to an application; `may_ask` refuses by raising."""
    board = Board(home)

    async def show(request: Request) -> Response:
        may_ask(request)
        return HTMLResponse(await board.page(), headers=page.headers())

    async def live(request: Request) -> Response:
        may_ask(request)
        if request.headers.get("sec-fetch-site", "none") not in _SAME:
            raise TrustError("/live: is asked for by a page from elsewhere")
        board.check_room()
        since = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return StreamingResponse(board.stream(since), media_type="text/event-stream", headers=page.PLAIN_HEADERS)

    app.add_api_route("/", show, methods=["GET"], include_in_schema=False)
    app.add_api_route("/live", live, methods=["GET"], include_in_schema=False)
