"""What a server says of itself: which models, whether it is there, how busy it is. Nothing of a request is in it.

Such a question is a fixed path of the engine's adapter and no body, so its label is `open`. It still tells the other
side that we are here and when: so a partner is asked once for its models, if the settings name none, and never again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.serve import Label, Load, Served, Server, Tier
from fleetmill.seams.engine import ServingEngine
from fleetmill.serve.egress import Egress, ServerLostError

SECONDS = 3.0  # for an answer
_MOST = 1024 * 1024  # bytes of one


def is_watched(server: Server) -> bool:
    """Whether it is asked again and again how it does: an own server is, a partner is not."""
    return server.tier < Tier.ATTESTED


async def models(
    egress: Egress, server: Server, engine: ServingEngine, *, key: str | None = None
) -> Mapping[str, Served]:
    """What it serves, by name.

    Raises:
        UnavailableError: it does not answer.
        InvalidInputError: it answers otherwise than an engine of its kind does.
    """
    answers = {}
    for path in engine.told:
        status, body = await ask(egress, server, path, key=key)
        if status == 200:
            answers[path] = body
        elif path == engine.told[0]:
            raise UnavailableError(f"server {server.name}: {path} answers {status}. Is it up, and its key right?")
    return engine.models(answers)


async def is_up(egress: Egress, server: Server, engine: ServingEngine, *, key: str | None = None) -> bool:
    """Whether it says that it can answer. One that has no such path (404) is there."""
    return not engine.health or (await ask(egress, server, engine.health, key=key))[0] < 500


async def load(egress: Egress, server: Server, engine: ServingEngine, *, key: str | None = None) -> Load | None:
    """How busy it is; None: it does not say.

    Raises:
        UnavailableError: it does not answer.
        InvalidInputError: it answers otherwise than an engine of its kind does.
    """
    if not engine.metrics:
        return None
    status, body = await ask(egress, server, engine.metrics, key=key)
    return engine.load(body) if status == 200 else None


async def ask(egress: Egress, server: Server, path: str, *, key: str | None = None) -> tuple[int, bytes]:
    """(status, body) of a `GET` without content.

    Raises:
        ServerLostError: no answer, none in time, or one that is too long.
    """
    headers = {"authorization": f"Bearer {key}"} if key else None
    answer = await egress.send(
        server, path, b"", label=Label.OPEN, consent=True, headers=headers, method="GET", seconds=SECONDS
    )
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    pieces: list[bytes] = []

    def over(whole: bool) -> None:
        if not done.done():
            done.set_result(whole)

    def piece(data: bytes) -> None:
        pieces.append(data)
        if sum(map(len, pieces)) > _MOST:
            over(False)

    answer.listen(piece, over)
    try:
        is_whole = await asyncio.wait_for(done, SECONDS)
    except asyncio.TimeoutError:
        is_whole = False
    finally:
        if not done.done() or not done.result():
            answer.cut()
    if not is_whole:
        raise ServerLostError(f"server {server.name}: {path} did not answer whole")
    return answer.status, b"".join(pieces)


def fault(error: Exception) -> str:
    """Why a server is not used, in one line."""
    if isinstance(error, (InvalidInputError, UnavailableError)):
        return str(error)
    return type(error).__name__
