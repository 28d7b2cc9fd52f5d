"""A gateway process: it listens, relays, and when it is told to end it finishes what it has begun."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from fleetmill.core.errors import UnavailableError
from fleetmill.seams.processes import leave_no_core
from fleetmill.serve.http import Connection, Handle

DRAIN_SECONDS = 30.0


def listening(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket; `shared`: several processes listen at one port, and the kernel deals connections to them.

    Raises:
        UnavailableError: the port is taken.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UnavailableError(f"{host}:{port}: cannot listen there ({error.strerror}). Give another --port") from error
    sock.listen(1024)
    sock.setblocking(False)
    return sock


async def answer(
    sock: socket.socket, handle: Handle, *, stop: asyncio.Event, drain_seconds: float = DRAIN_SECONDS
) -> bool:
    """Answer until `stop`; then take nothing new and finish what was begun. Whether all of it was finished in time."""
    connections: set[Connection] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(handle, connections), sock=sock)
    async with server:
        await stop.wait()
        server.close()
        limit = asyncio.get_running_loop().time() + drain_seconds
        while open_ones := [c for c in list(connections) if not c.close_idle()]:
            if asyncio.get_running_loop().time() > limit:
                for connection in open_ones:
                    connection.cut()
                return False
            await asyncio.sleep(0.05)
    return True


@contextmanager
def signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask for an end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on uvloop where it is there, else on asyncio's own loop: slower, and the same.

    What passes through lies in this process's memory, so that leaves no image of itself behind.
    """
    leave_no_core()
    gc.freeze()  # what was loaded stays: a collection need not look through it again
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
