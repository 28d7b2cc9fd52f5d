"""`fleetmill up`: the door in this process, the loop in a child, so that training never delays an answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import uvicorn

from fleetmill import lines, loop
from fleetmill.api.door import make_app
from fleetmill.core.errors import UnavailableError
from fleetmill.core.line import Line
from fleetmill.home import Home, open_home
from fleetmill.seams.processes import die_with_parent
from fleetmill.settings import Settings, read_settings

_LOOK_SECONDS = 0.2
_SIGN_SECONDS = 60.0  # how often it is looked whether the timestamp must be signed anew


def up(settings: Settings, *, ready: Callable[[str], None], turning: bool = True) -> None:
    """Serve until stopped. `ready` is told the address as soon as requests are answered.

    Raises:
        UnavailableError: the port is taken.
        ConflictError: another factory runs on this home.
    """
    with open_home(settings) as home, _listen(settings) as listener:
        address = f"http://{settings.host}:{listener.getsockname()[1]}"
        child = _start_loop(settings) if turning else None
        try:
            ready(address)
            config = uvicorn.Config(make_app(home), log_level="critical", access_log=False, timeout_graceful_shutdown=1)
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            if child is not None:
                child.terminate()
                child.wait()


def turn_forever(home: Home, names: list[str]) -> None:
    """Turn each line when enough has arrived, and keep the signed timestamp fresh; the last words go to stderr."""
    found = [lines.find(name) for name in names]
    for line in found:
        loop.start(home, line)
    seen, signed = -1, 0.0
    while True:
        head = home.ledger.head()[0]
        if head != seen:
            seen = head
            for line in found:
                _turn(home, line)
        if time.monotonic() - signed > _SIGN_SECONDS:
            home.repository.refresh_timestamp(now_ns=home.clock())
            signed = time.monotonic()
        time.sleep(_LOOK_SECONDS)


def _turn(home: Home, line: Line) -> None:
    asked = home.settings.line(line.name)
    if asked.turns and loop.turns(home, line) >= asked.turns:
        return
    turned = loop.turn(home, line)
    if turned is not None:
        reasons = "; ".join(r.sentence() for r in turned.verdict.reasons)
        print(f"turn {turned.number} of {line.name}: {turned.verdict.decision}: {reasons}", file=sys.stderr, flush=True)  # noqa: T201


def _start_loop(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "fleetmill.api.up", str(settings.home)], env=_environment(settings))


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
    """The loop's own process: ``python -m fleetmill.api.up HOME``."""
    from pathlib import Path

    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that worker processes are waited for
    settings = read_settings(home=Path(arguments[0]))
    with open_home(settings, own=False, workers=settings.workers) as home:
        enrolled = {f.record["line"] for f in home.ledger.read(kind="device")}
        turn_forever(home, sorted({*settings.lines, *enrolled}))


if __name__ == "__main__":
    main(sys.argv[1:])
