"""`fleetmill serve`: the gateway of a home. It relays to servers, and answers for the home's own champions itself."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from fleetmill.core.errors import FleetmillError
from fleetmill.core.line import Frame
from fleetmill.home import Home, open_home
from fleetmill.release import publish as release
from fleetmill.serve import backends, words
from fleetmill.serve import run as gateway
from fleetmill.serve.accounts import open_accounts
from fleetmill.serve.asked import key_digest
from fleetmill.serve.http import Reply, Request
from fleetmill.serve.journal import Journal
from fleetmill.serve.keys import StoredKeys
from fleetmill.serve.oip import Inference, Loaded
from fleetmill.serve.pool import Pool
from fleetmill.serve.purse import AccountPurse
from fleetmill.serve.relay import Relay
from fleetmill.settings import Settings

FOLDER, SENT = "serve", "sent"
_LOOK_SECONDS = 1.0
_LOG = logging.getLogger("fleetmill.serve")


class Champions:
    """`oip.Models`: each line's model that the gate admitted, as of a second ago. Who has one keeps it to the end."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._loaded: dict[str, Loaded] = {}
        self.look()

    def look(self) -> None:
        """Load what has become champion since the last look; the old one answers until the new one is loaded."""
        names = {str(f.record["line"]) for f in self._home.ledger.read(kind="release")}
        for name in sorted(names):
            champion = release.champion(self._home.ledger, name)
            known = self._loaded.get(name)
            if champion is None or (known is not None and known.version == str(champion.counter)):
                continue
            data = self._home.blobs.get(champion.model_file)
            model = self._home.runtime.load(data)
            self._loaded[name] = Loaded(
                name=name, version=str(champion.counter), model=model, digest=champion.model_file
            )
            _LOG.info("a model is served", extra={"line": name, "release": champion.counter})

    def names(self) -> Sequence[str]:
        """Lines with a champion."""
        return sorted(self._loaded)

    def get(self, name: str, version: str = "") -> Loaded | None:
        """The champion; a version that is not the champion's is not served any more."""
        found = self._loaded.get(name)
        return found if found is not None and version in ("", found.version) else None

    def versions(self, name: str) -> Sequence[str]:
        """Its release's number."""
        return [self._loaded[name].version] if name in self._loaded else []

    def saw(self, loaded: Loaded, inputs: Frame, outputs: Frame) -> None:
        """Nobody watches yet."""


def serve(settings: Settings, *, ready: Callable[[str], None], follows: bool = False) -> bool:
    """Answer until told to end; whether all that was begun was finished.

    `follows`: one more process at a port at which another one listens already.

    Raises:
        NotFoundError: no home. UnavailableError: the port is taken. InvalidInputError: backends that make no sense.
    """
    asked, result = settings.serve, True
    shared = asked.workers > 1 or follows
    with gateway.listening(asked.host, asked.port, shared=shared) as sock, ExitStack() as stack:
        port = sock.getsockname()[1]
        followers = [] if follows else stack.enter_context(_followers(settings, port, asked.workers - 1))

        async def main() -> None:
            nonlocal result
            stop = asyncio.Event()
            with gateway.signals(stop):
                result = await _answer(settings, sock, stop, lambda: ready(f"http://{asked.host}:{port}"), followers)

        gateway.run(main)
    return result


async def _answer(
    settings: Settings,
    sock: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[], None],
    followers: Sequence[subprocess.Popen[bytes]],
) -> bool:
    loop, folder = asyncio.get_running_loop(), settings.home / FOLDER
    with open_home(settings, own=False) as home, ThreadPoolExecutor(2, "models") as pool:
        accounts = open_accounts(folder)
        purse, journal = AccountPurse(accounts), Journal(folder / SENT)
        keys, champions = StoredKeys(accounts), Champions(home)
        servers = Pool(backends.servers(settings.serve.backend), clock=loop.time)
        relay = Relay(
            servers,
            keys=keys,
            purse=purse,
            witness=journal,
            secrets=backends.secrets(settings.serve.backend, os.environ),
            stall_seconds=settings.serve.stall_seconds,
            wait_seconds=settings.serve.wait_seconds,
            waiting=settings.serve.waiting,
            hedge_share=settings.serve.hedge_share,
        )
        front = _Front(relay, Inference(champions, pool), keys)
        looking = loop.create_task(_look(champions, followers, stop))
        try:
            ready()
            return await gateway.answer(sock, front.handle, stop=stop)
        finally:
            looking.cancel()
            relay.egress.close()
            await purse.close()
            await asyncio.to_thread(journal.close)
            accounts.close()


class _Front:
    """Which part answers a request."""

    def __init__(self, relay: Relay, inference: Inference, keys: StoredKeys) -> None:
        self._relay, self._inference, self._keys = relay, inference, keys

    async def handle(self, request: Request, reply: Reply) -> None:
        if request.path == "/metrics" and request.method == "GET":
            reply.whole(200, metrics(self._relay, self._inference), kind=b"text/plain; version=0.0.4")
        elif request.path.partition("?")[0].split("/")[1:2] != ["v2"]:
            await self._relay.handle(request, reply)
        elif self._keys.tenant(key_digest(request)) is None:
            body = words.error("no such API key", kind="authentication_error", code="no_key")
            reply.whole(401, body)
        else:
            await self._inference.handle(request, reply)


def metrics(relay: Relay, inference: Inference) -> bytes:
    """Counts in the Prometheus text format; nothing in it is content."""
    rows = [
        *(
            f'fleetmill_serve_{what}{{server="{name}"}} {number}'
            for name, tally in sorted(relay.pool.tallies().items())
            for what, number in tally.items()
        ),
        *(f'fleetmill_serve_refused{{reason="{name}"}} {n}' for name, n in sorted(relay.refusals.items())),
        *(f'fleetmill_serve_inferences{{model="{name}"}} {n}' for name, n in sorted(inference.answered.items())),
        f"fleetmill_serve_waiting {relay.waiting}",
        f"fleetmill_serve_hedged {relay.hedged}",
        f"fleetmill_serve_egress_stopped {relay.egress.refused}",
    ]
    return ("\n".join(rows) + "\n").encode()


async def _look(champions: Champions, followers: Sequence[subprocess.Popen[bytes]], stop: asyncio.Event) -> None:
    """Once a second: has a line a new champion, and is every follower still there?"""
    while not stop.is_set():
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            await asyncio.to_thread(champions.look)
        except FleetmillError as error:
            _LOG.error("a new model is not served", extra={"why": str(error)})
        if any(follower.poll() is not None for follower in followers):
            _LOG.error("a process of the gateway ended; all of it ends")
            stop.set()


@contextmanager
def _followers(settings: Settings, port: int, number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    words_ = [sys.executable, "-m", "fleetmill.cli", "serve", "--home", str(settings.home), "--port", str(port)]
    found = [subprocess.Popen([*words_, "--follow"]) for _ in range(number)]
    try:
        yield found
    finally:
        for follower in found:
            follower.terminate()
        for follower in found:
            follower.wait()
