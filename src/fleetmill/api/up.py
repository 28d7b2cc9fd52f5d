"""`fleetmill up`: the door in this process, the loop in a child, so that training never delays an answer."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn

from fleetmill import due, lines, logs, loop
from fleetmill.api.door import make_app
from fleetmill.api.front import Config, Front, Server
from fleetmill.core.errors import EngineMissingError, FleetmillError, UnavailableError, last_words
from fleetmill.core.line import Line, Metrics
from fleetmill.home import FORMAT, Home, check_format, open_home
from fleetmill.seams.processes import be_child_of
from fleetmill.settings import ServeSettings, Settings, read_settings

_log = logging.getLogger("fleetmill.up")
_LOOK_SECONDS = 0.2
_RETRY_SECONDS = 5.0
_HOURS_SECONDS = 20.0  # how often it is looked whether a session has waited long enough
_TELL_SECONDS = 60.0  # how often a training says that it goes on
_SIGN_SECONDS = 60.0  # how often it is looked whether the timestamp must be signed anew


def up(settings: Settings, *, ready: Callable[[str], None], turning: bool = True, serving: bool | None = None) -> int:
    """Serve until stopped, or until the loop ends by itself; the exit code that the process should end with.

    `ready` is told the address as soon as requests are answered. `serving`: whether models are served behind the same
    door; None: if the settings have a table [serve].

    Raises:
        NotFoundError: no home, or the settings name a line that is not installed.
        UnavailableError: the port is taken.
        ConflictError: another factory runs on this home.
    """
    with open_home(settings) as home, _listen(settings) as listener:
        for name in due.lines_in_use(home):
            lines.find(name)  # an unknown one is said before anything is served
        if (found := check_format(settings.home)) < FORMAT:
            _log.warning("the home is of an older format and works as it is", extra={"format": found, "newest": FORMAT})
        address = f"http://{settings.host}:{listener.getsockname()[1]}"
        children: list[subprocess.Popen[bytes]] = []
        serves = settings.serve != ServeSettings() if serving is None else serving
        models = Models(home, address) if serves else None
        app = make_app(
            home,
            loop_alive=lambda: children[0].poll() is None if children else None,
            more_metrics=models.metrics if models else None,
        )
        config = Config(app, http=Front, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
        server = Server(config, models.open if models else None)
        if turning:
            children.append(_start_loop(settings, server))
        try:
            ready(address)
            _log.info("the factory is up", extra={"address": address, "home": str(settings.home)})
            server.run(sockets=[listener])
        finally:
            ended = next((child.poll() for child in children), None)
            for child in children:
                child.terminate()
                child.wait()
            _log.info("the factory is down")
        return ended or 0  # a factory that serves and never turns would lie


class Models:
    """The gateway of a home behind the door's address: opened by the server, in its own loop."""

    def __init__(self, home: Home, address: str) -> None:
        try:  # a factory that serves no models need not have it
            from fleetmill.serving.gateway import gateway
        except ModuleNotFoundError as error:
            raise EngineMissingError("serving models", extra="serve") from error
        self._make = partial(gateway, home, address=address)
        self._opened: Any = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """The gateway, until the server ends."""
        async with self._make() as self._opened:
            yield self._opened

    def metrics(self) -> bytes:
        """The gateway's counts, once it is open."""
        return self._opened.metrics() if self._opened is not None else b""


def turn_forever(home: Home) -> None:
    """Turn each line when enough has arrived, and keep the signed timestamp fresh; what came of it is logged."""
    found: dict[str, Line] = {}
    seen, signed, looked = -1, 0.0, 0.0
    while True:
        try:
            head = home.ledger.head()[0]
            if head != seen or time.monotonic() - looked > _HOURS_SECONDS:  # hours pass without facts
                looked = time.monotonic()
                for name in due.lines_in_use(home):  # a device may bring a line that was not there before
                    line = found.setdefault(name, found.get(name) or lines.find(name))
                    loop.start(home, line)
                    with logs.bound(turn=f"{name}/{due.turns(home, line)}"):
                        _turn(home, line)
                seen = head
            if time.monotonic() - signed > _SIGN_SECONDS:
                home.repository.refresh_timestamp(now_ns=home.clock())
                signed = time.monotonic()
        except UnavailableError as error:  # a full disk: each step finds its place again
            _log.warning("cannot go on now", extra={"error": logs.words(error), "again_in_seconds": _RETRY_SECONDS})
            time.sleep(_RETRY_SECONDS)
        time.sleep(_LOOK_SECONDS)


def _turn(home: Home, line: Line) -> None:
    asked = home.settings.line(line.name)
    examined = loop.examine(home, line)
    if examined is not None:
        _log.info(
            "a model was examined",
            extra={
                "candidate": examined.candidate,
                "decision": examined.decision,
                "reasons": list(examined.sentences()),
            },
        )
    if asked.turns and due.turns(home, line) >= asked.turns:
        return
    began = time.monotonic()
    turned = loop.turn(home, line, progress=_progress())
    if turned is not None:
        _log.info(
            "the turn ended",
            extra={
                "decision": turned.verdict.decision,
                "dataset": turned.dataset.digest,
                "candidate": turned.candidate.digest,
                "release": turned.release.counter if turned.release else 0,
                "reasons": list(turned.verdict.sentences()),
                "seconds": round(time.monotonic() - began, 1),
            },
        )


def _progress() -> loop.Progress:
    """Says that a training goes on: at once, and then every minute."""
    said = -_TELL_SECONDS

    def tell(step: int, of: int, metrics: Metrics) -> None:
        nonlocal said
        if time.monotonic() - said >= _TELL_SECONDS:
            said = time.monotonic()
            _log.info("training", extra={"step": step, "of": of, "metrics": dict(metrics)})

    return tell


def _start_loop(settings: Settings, server: uvicorn.Server) -> subprocess.Popen[bytes]:
    """The loop in a child process; when it ends by itself, the server stops."""
    command = [sys.executable, "-m", "fleetmill.api.up", str(os.getpid()), str(settings.home)]
    child = subprocess.Popen(command, env=_environment(settings), start_new_session=True)  # no Ctrl-C reaches it

    def watch() -> None:
        child.wait()
        server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    return child


def _environment(settings: Settings) -> dict[str, str]:
    """The child reads the same home and file; what flags changed reaches it by the environment."""
    return {
        **os.environ,
        "FLEETMILL_SEED": str(settings.seed),
        "FLEETMILL_WORKERS": str(settings.workers),
        "FLEETMILL_LOG_LEVEL": settings.log_level,
        "FLEETMILL_LOG_FILE": logs.beside(settings.log_file, "loop"),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _listen(settings: Settings) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"{settings.host}:{settings.port}: {error.strerror}. Stop what listens there, or choose another --port"
        ) from error
    return listener


def main(arguments: list[str]) -> None:
    """The loop's own process: ``python -m fleetmill.api.up PARENT HOME``."""
    from pathlib import Path

    be_child_of(int(arguments[0]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that worker processes are waited for
    try:
        settings = read_settings(home=Path(arguments[1]))
        logs.set_up(settings.log_level, settings.log_file)
        with open_home(settings, own=False, workers=settings.workers) as home:
            turn_forever(home)
    except Exception as error:
        if os.environ.get("FLEETMILL_DEBUG"):
            raise
        told = {"why": logs.words(error)} if isinstance(error, FleetmillError) else {}
        _log.error("the loop ended", exc_info=True, extra=told)
        sys.exit(last_words(error)[1])


if __name__ == "__main__":
    main(sys.argv[1:])
