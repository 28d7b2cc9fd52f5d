"""Ends what nothing is heard of."""

from __future__ import annotations

import asyncio


class Watch:
    """Ends an answer that does not begin within `first` seconds, or of which nothing is heard for `seconds` after that.

    It looks twice in that time, and silent twice is dead: a sign costs no timer.
    """

    def __init__(self, done: asyncio.Future[bool], seconds: float, *, first: float) -> None:
        self.is_silent, self.is_paused = True, False  # paused: the client is slow, not the server
        self._done, self._half, self._halves = done, seconds / 2, 0
        self._timer = asyncio.get_running_loop().call_later(first, self._over)

    def begin(self) -> None:
        """The first sign."""
        self._timer.cancel()
        self._look()

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._halves = self._halves + 1 if self.is_silent and not self.is_paused else 0
        self.is_silent = True
        if self._halves >= 2:
            self._over()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._half, self._look)

    def _over(self) -> None:
        if not self._done.done():
            self._done.set_result(False)
