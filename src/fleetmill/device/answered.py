"""A world in which people ask, with the device's answers in it, each lived and recorded as instants of its own.

Where somebody else answered in what is replayed, the device is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

from fleetmill.core.errors import TrustError
from fleetmill.core.line import Frame, Line, Step, World
from fleetmill.core.talk import Said, Talk
from fleetmill.device.asking import Desk

Open = Callable[[str, int], World]
Answer = Callable[[Sequence[Said]], Sequence[Frame]]  # a conversation -> the rows of an answer; none: nobody answered


class Answered:
    """Implements `core.line.World` around another one; time is counted anew, an instant a period."""

    def __init__(self, world: World, talk: Talk, answer: Answer, *, period_ns: int) -> None:
        self._world, self._talk, self._answer, self._period_ns = world, talk, answer, period_ns
        self.tags: Mapping[str, str] = getattr(world, "tags", {})
        self._life = self._lived()
        self._count = 0

    def begin(self) -> Step:
        """The first instant."""
        return self._told(next(self._life))

    def act(self, action: Frame) -> Step:
        """The next instant."""
        return self._told(self._life.send(action))

    def close(self) -> None:
        """Close the world within."""
        self._life.close()
        self._world.close()

    def _told(self, step: Step) -> Step:
        at, self._count = self._count * self._period_ns, self._count + 1
        return replace(step, time_ns=at)

    def _lived(self) -> Generator[Step, Frame, None]:
        step, heard = self._world.begin(), list[Frame]()
        while True:
            if self._talk.begins(step.observation):
                heard = []
            heard.append(step.observation)
            if step.done:
                rows = self._rows(heard)
                yield replace(step, done=not rows)
                for left, row in zip(range(len(rows) - 1, -1, -1), rows):
                    yield _row(row, done=not left)
                return
            action = yield step
            step = self._world.act(action)
            rows = self._rows(heard) if self._talk.begins(step.observation) else []
            for row in rows:
                yield _row(row, done=False)

    def _rows(self, heard: Sequence[Frame]) -> Sequence[Frame]:
        turns = self._talk.turns(heard)
        return self._answer(turns) if turns and turns[-1].role == "user" else []


def _row(frame: Frame, *, done: bool) -> Step:
    return Step(time_ns=0, observation=frame, label={}, takeover=None, events={}, done=done, acts=False)


def answering(world: Open, desk: Desk, line: Line) -> Open:
    """Worlds of a line with the desk's answers in them; where nobody answers, nothing is added."""
    period_ns = round(1e9 / line.model.rate_hz)

    def answer(said: Sequence[Said]) -> Sequence[Frame]:
        try:
            reply = desk.answer(said)
        except TrustError:  # what a gateway gave against the rule is not recorded either
            return []
        if reply.source is None:
            return []
        return desk.talk.rows(Said(role="assistant", text=reply.text), False, reply.source)

    return lambda scenario, seed: Answered(world(scenario, seed), desk.talk, answer, period_ns=period_ns)
