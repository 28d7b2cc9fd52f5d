"""Ends what nothing is heard of."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Rings when the time that was set has passed. Set anew for each request it costs no timer of its own.

    The one that runs is left to run: when it wakes it sees whether there is time left, and sleeps that long.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring, self._loop = ring, asyncio.get_running_loop()
        self._at = self._wakes = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """It is to ring after so long, and not when it was to ring before."""
        self._at = self._loop.time() + seconds
        if self._at < self._wakes:
            self._sleep(seconds)

    def stop(self) -> None:
        """It is not to ring."""
        self._at = math.inf

    def close(self) -> None:
        """It will not be needed any more."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()

    def _sleep(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes = self._at
        self._timer = self._loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._wakes, self._timer, left = math.inf, None, self._at - self._loop.time()
        if left <= 0.0:
            self._at = math.inf
            self._ring()
        elif left < math.inf:
            self._sleep(left)


class Watch:
    """Ends an answer that does not begin within `first` seconds, or of which nothing is heard for `seconds` after that.

    It looks twice in `seconds`, and silent twice is dead: a sign costs no timer.
    """

    def __init__(self, done: asyncio.Future[bool], seconds: float, *, first: float) -> None:
        self.is_silent, self.is_paused = True, False  # paused: the client is slow, not the server
        self._done, self._half, self._looks = done, seconds / 2, math.ceil(2 * first / seconds)
        self._loop = done.get_loop()
        self._timer = self._loop.call_later(self._half, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._looks = self._looks - 1 if self.is_silent and not self.is_paused else 2
        self.is_silent = True
        if self._looks > 0:
            self._timer = self._loop.call_later(self._half, self._look)
        elif not self._done.done():
            self._done.set_result(False)
