"""`fleetmill up`: the door in this process, the loop in a child, so that training never delays an answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from fleetmill import due, lines, loop
from fleetmill.api.door import make_app
from fleetmill.core.errors import UnavailableError, last_words
from fleetmill.core.line import Line
from fleetmill.home import Home, open_home
from fleetmill.seams.processes import be_child_of
from fleetmill.settings import Settings, read_settings

_LOOK_SECONDS = 0.2
_RETRY_SECONDS = 5.0
_HOURS_SECONDS = 20.0  # how often it is looked whether a session has waited long enough
_SIGN_SECONDS = 60.0  # how often it is looked whether the timestamp must be signed anew


def up(settings: Settings, *, ready: Callable[[str], None], turning: bool = True) -> int:
    """Serve until stopped, or until the loop ends by itself; the exit code that the process should end with.

    `ready` is told the address as soon as requests are answered.

    Raises:
        NotFoundError: no home, or the settings name a line that is not installed.
        UnavailableError: the port is taken.
        ConflictError: another factory runs on this home.
    """
    with open_home(settings) as home, _listen(settings) as listener:
        for name in due.lines_in_use(home):
            lines.find(name)  # an unknown one is said before anything is served
        address = f"http://{settings.host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(make_app(home), log_level="critical", access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        child = _start_loop(settings, server) if turning else None
        try:
            ready(address)
            server.run(sockets=[listener])
        finally:
            ended = child.poll() if child is not None else None
            if child is not None:
                child.terminate()
                child.wait()
        return ended or 0  # a factory that serves and never turns would lie


def turn_forever(home: Home) -> None:
    """Turn each line when enough has arrived, and keep the signed timestamp fresh; what came of it goes to stderr."""
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
                    _turn(home, line)
                seen = head
            if time.monotonic() - signed > _SIGN_SECONDS:
                home.repository.refresh_timestamp(now_ns=home.clock())
                signed = time.monotonic()
        except UnavailableError as error:  # a full disk: each step finds its place again
            _say(f"{error}; again in {_RETRY_SECONDS:.0f} s")
            time.sleep(_RETRY_SECONDS)
        time.sleep(_LOOK_SECONDS)


def _turn(home: Home, line: Line) -> None:
    asked = home.settings.line(line.name)
    examined = loop.examine(home, line)
    if examined is not None:
        reasons = "; ".join(r.sentence() for r in examined.reasons)
        _say(f"model {examined.candidate[:12]} of {line.name}: {examined.decision}: {reasons}")
    if asked.turns and due.turns(home, line) >= asked.turns:
        return
    turned = loop.turn(home, line)
    if turned is not None:
        reasons = "; ".join(r.sentence() for r in turned.verdict.reasons)
        _say(f"turn {turned.number} of {line.name}: {turned.verdict.decision}: {reasons}")


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
        with open_home(settings, own=False, workers=settings.workers) as home:
            turn_forever(home)
    except Exception as error:
        if os.environ.get("FLEETMILL_DEBUG"):
            raise
        text, code = last_words(error)
        _say(f"fleetmill: the loop ended: {text}")
        sys.exit(code)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
