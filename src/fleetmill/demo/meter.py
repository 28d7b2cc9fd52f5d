"""The simulated machine's own hour meter: what was really lived, noted by the world and by nobody else.

The audit compares it with the books. One line per instant: when it began, in ns since the world did. Every instant
lasts one period of the line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from fleetmill.core.line import Frame, Step, World


class Metered:
    """A world that notes each instant when it begins; a kill loses nothing that was lived before it."""

    def __init__(self, world: World, handle: int) -> None:
        self._world, self._handle = world, handle
        self.tags: Mapping[str, str] = getattr(world, "tags", {})

    def begin(self) -> Step:
        """The first instant."""
        return self._note(self._world.begin())

    def act(self, action: Frame) -> Step:
        """The next instant."""
        return self._note(self._world.act(action))

    def close(self) -> None:
        """Close the world and the meter."""
        self._world.close()
        os.close(self._handle)

    def _note(self, step: Step) -> Step:
        os.write(self._handle, f"{step.time_ns}\n".encode())
        return step


def metered(world: Callable[[str, int], World], log: Path) -> Callable[[str, int], World]:
    """`world` with a meter that appends to `log`: a line ``begin SCENARIO SEED``, then one line per instant."""

    def opened(scenario: str, seed: int) -> World:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"begin {scenario} {seed}\n".encode())
        return Metered(world(scenario, seed), handle)

    return opened
