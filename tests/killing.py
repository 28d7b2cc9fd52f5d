"""Kill a piece of code at its nth effect on the disk, as a power cut would: nothing that comes after has an effect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

EFFECTS = ("open", "write", "pwrite", "ftruncate", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


class Killed(BaseException):
    """The process is gone. No `except Exception` may see it."""


@contextmanager
def killed_at(nth: int) -> Iterator[None]:
    """Die at the nth effect; a write that dies has written half."""
    left = nth

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and name in ("write", "pwrite"):
                real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
            if left <= 0:
                raise Killed
            return real(*args, **kwargs)

        return effect

    with pytest.MonkeyPatch.context() as patch:
        for name in EFFECTS:
            patch.setattr(os, name, dying(name, getattr(os, name)))
        yield


def every_death(act: Callable[[int], Any], *, before: Callable[[int], Any] = lambda nth: None) -> Iterator[int]:
    """Run `act(n)` killed at its nth effect, for n = 1, 2, ... until it lives; gives each n at which it died.

    `before(n)` runs unharmed, to set up what is then acted on.
    """
    for nth in count(1):
        before(nth)
        try:
            with killed_at(nth):
                act(nth)
        except Killed:
            yield nth
        else:
            assert nth > 1, "nothing was ever written"
            return


@contextmanager
def watched() -> Iterator[list[str]]:
    """The names of the effects on the disk, in order."""
    seen: list[str] = []

    def watching(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return real(*args, **kwargs)

        return effect

    with pytest.MonkeyPatch.context() as patch:
        for name in EFFECTS:
            patch.setattr(os, name, watching(name, getattr(os, name)))
        yield seen
