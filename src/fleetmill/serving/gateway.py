"""`fleetmill serve`: the gateway of a home. It relays to servers, and answers for the home's own models itself."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

from fleetmill.core.errors import FleetmillError
from fleetmill.home import Home, open_home
from fleetmill.seams.runtime import Runtime
from fleetmill.serve import openapi
from fleetmill.serve import run as listener
from fleetmill.serve.accounts.book import open_accounts
from fleetmill.serve.accounts.journal import Journal
from fleetmill.serve.accounts.keys import StoredKeys
from fleetmill.serve.accounts.purse import AccountPurse
from fleetmill.serve.asked import key_digest
from fleetmill.serve.egress import Egress
from fleetmill.serve.http import Reply, Request
from fleetmill.serve.oip import Inference
from fleetmill.serve.pool import Pool
from fleetmill.serve.relay import Relay
from fleetmill.serve.responses import PATH as RESPONSES
from fleetmill.serve.responses_stream import Responses
from fleetmill.serve.servers import backends, running
from fleetmill.serve.servers.nodes import FOLDER as NODES
from fleetmill.serve.servers.nodes import Nodes
from fleetmill.serve.servers.roster import Roster
from fleetmill.serving.models import LineModels
from fleetmill.serving.told import KIND, metrics
from fleetmill.settings import ServeSettings, Settings

FOLDER, SENT = "serve", "sent"
_LOOK_SECONDS = 1.0
_LOG = logging.getLogger("fleetmill.serve")


class Front:
    """Which part answers a request."""

    def __init__(
        self, relay: Relay, inference: Inference, models: LineModels, watch: Roster, keys: StoredKeys, address: str
    ) -> None:
        self._relay, self._inference, self._models, self._watch = relay, inference, models, watch
        self._keys, self._address = keys, address
        self._responses = Responses(relay, keys)

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request; see `serve.http.Connection`."""
        path = request.path.partition("?")[0]
        if path == "/metrics" and request.method == "GET":
            reply.whole(200, self.metrics(), kind=KIND)
        elif path in openapi.PATHS and request.method == "GET":
            reply.whole(200, openapi.document(self._address))
        elif path == RESPONSES and request.method == "POST":
            await self._responses.handle(request, reply)
        elif path.split("/")[1:2] != ["v2"]:
            await self._relay.handle(request, reply)
        elif self._keys.tenant(key_digest(request)) is None:
            reply.whole(401, b'{"error":"no such API key; send Authorization: Bearer KEY"}')
        else:
            await self._inference.handle(request, reply)

    def metrics(self) -> bytes:
        """Counts; no content."""
        return metrics(self._relay, self._inference, self._models, self._watch)


def serve(settings: Settings, *, ready: Callable[[str], None], follows: bool = False) -> bool:
    """Answer until told to end; whether all that was begun was finished.

    `follows`: one more process at a port at which another one listens already.

    Raises:
        NotFoundError: no home. UnavailableError: the port is taken. InvalidInputError: backends that make no sense.
    """
    asked, result = settings.serve, True
    shared = asked.workers > 1 or follows
    with listener.listening(asked.host, asked.port, shared=shared) as sock, ExitStack() as stack:
        port = sock.getsockname()[1]
        followers = [] if follows else stack.enter_context(_followers(settings, port, asked.workers - 1))
        address = f"http://{asked.host}:{port}"

        async def main() -> None:
            nonlocal result
            stop = asyncio.Event()
            with listener.signals(stop), open_home(settings, own=False) as home:
                async with gateway(home, address=address) as front:
                    watching = asyncio.get_running_loop().create_task(_keep(followers, stop))
                    ready(address)
                    result = await listener.answer(sock, front.handle, stop=stop)
                    watching.cancel()

        listener.run(main)
    return result


@asynccontextmanager
async def gateway(home: Home, *, address: str) -> AsyncIterator[Front]:
    """What answers at an endpoint of a home, in a running loop.

    Raises:
        InvalidInputError: the settings make no sense.
    """
    settings, loop = home.settings.serve, asyncio.get_running_loop()
    folder = home.settings.home / FOLDER
    backends.servers(settings.backend)
    secrets = partial(backends.secrets, environment=os.environ)
    secrets(settings.backend)
    models = LineModels(home, settings.lines, runtime=_runtime(settings))
    accounts = open_accounts(folder)
    purse, journal, egress = AccountPurse(accounts), Journal(folder / SENT), Egress()
    keys, nodes, pool = StoredKeys(accounts), Nodes(folder / NODES), Pool(clock=loop.time)
    wanted = partial(nodes.wanted, settings.backend)
    watch = Roster(pool, egress, wanted=wanted, secrets=secrets, clock=loop.time)
    relay = Relay(
        pool,
        keys=keys,
        purse=purse,
        witness=journal,
        egress=egress,
        secrets=watch.keys,
        stall_seconds=settings.stall_seconds,
        wait_seconds=settings.wait_seconds,
        waiting=settings.waiting,
        hedge_share=settings.hedge_share,
    )
    with ThreadPoolExecutor(2, "models") as threads:
        front = Front(relay, Inference(models, threads), models, watch, keys, address)
        tell = partial(_tell, home, watch, address)
        tasks = [loop.create_task(watch.run()), loop.create_task(_look(models, tell))]
        for task in tasks:
            task.add_done_callback(_ended)
        try:
            yield front
        finally:
            for task in tasks:
                task.cancel()
            running.end(folder / running.FOLDER, os.getpid())
            egress.close()
            await purse.close()
            await asyncio.to_thread(journal.close)
            accounts.close()
            models.close()


def _runtime(settings: ServeSettings) -> Runtime | None:
    """The runtime that the settings ask for; None: the home's own will do."""
    if settings.providers == ServeSettings().providers:
        return None
    from fleetmill.engines.runtime_onnx import OnnxRuntime

    return OnnxRuntime(providers=settings.providers)


def _tell(home: Home, watch: Roster, address: str) -> None:
    said = running.Running(pid=os.getpid(), address=address, time_ns=time.time_ns(), servers=tuple(watch.seen()))
    running.write(home.settings.home / FOLDER / running.FOLDER, said)


async def _look(models: LineModels, tell: Callable[[], None]) -> None:
    """Once a second: has a line another model? And say how the servers stand."""
    while True:
        try:
            await asyncio.to_thread(models.look)
            tell()
        except (FleetmillError, OSError) as error:
            _LOG.error("a new model is not served", extra={"why": type(error).__name__})
        await asyncio.sleep(_LOOK_SECONDS)


def _ended(task: asyncio.Task[None]) -> None:
    """Neither ends by itself: if one does, that is a fault of ours, and the pool or the models stay as they are."""
    if not task.cancelled() and task.exception() is not None:
        _LOG.error("a task of the gateway fell", extra={"error": type(task.exception()).__name__})


async def _keep(followers: Sequence[subprocess.Popen[bytes]], stop: asyncio.Event) -> None:
    """Is every follower still there?"""
    while not stop.is_set():
        if any(follower.poll() is not None for follower in followers):
            _LOG.error("a process of the gateway ended; all of it ends")
            stop.set()
        await asyncio.sleep(_LOOK_SECONDS)


@contextmanager
def _followers(settings: Settings, port: int, number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    words_ = [sys.executable, "-m", "fleetmill.cli", "serve", "--home", str(settings.home)]
    words_ += ["--host", settings.serve.host, "--port", str(port)]
    providers = [word for provider in settings.serve.providers for word in ("--provider", provider)]
    found = [subprocess.Popen([*words_, *providers, "--follow", str(os.getpid())]) for _ in range(number)]
    try:
        yield found
    finally:
        for follower in found:
            follower.terminate()
        for follower in found:
            follower.wait()
