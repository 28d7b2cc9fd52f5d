"""An event loop whose time jumps: real sockets, real code, simulated seconds.

Nothing sleeps: when no callback is ready and no socket has bytes (loopback delivers before `send` returns, and it is
looked for twice), the clock jumps to the next timer. Of a busy machine only the order of things that happen at once can
change.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0) or super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if timeout is None:
            return super().select(0.05)
        self.now += timeout
        return []


class Loop(asyncio.SelectorEventLoop):
    """Its `time` is simulated."""

    def __init__(self) -> None:
        self.selector = _Jumping()
        super().__init__(self.selector)

    def time(self) -> float:
        """Simulated seconds since it began."""
        return float(self.selector.now)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """What `main` gives, in simulated time."""
    loop = Loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
