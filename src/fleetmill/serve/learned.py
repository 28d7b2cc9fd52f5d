"""What is learned of one server from its answers: figures in, predictions out; no clock, no socket.

How long a first token takes depends on how many requests the server has at once, and on how much it must read before:
what is asked, without the beginning that it has read before, and what others wait to have read. For each load (1, 2-3,
4-7 ... at once) a line is fitted over those tokens; old answers fade.

How many it gets at once follows from that too. If a first token takes over three times as long as it would at the best
load, requests wait inside the engine, where nobody can send them elsewhere: where a quarter of a round did, a fifth
fewer from then on, and one more after each round in which they did not (AIMD). A server that says itself that it is
full gets a fifth fewer than it had, and one more after as many good answers. Never more than its capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_FADE = 0.98  # of the weight of what was learned before, per answer
_NEW = 0.2  # weight of a new figure in a mean
_MUCH = 3.0  # times what was predicted: so much later is slow
_LITTLE_SECONDS = 0.2  # what comes no later than this above what was predicted is not slow
_LITTLE_PACE = 0.02  # the same, per token
_ENOUGH_TOKENS = 8  # an answer of fewer tells little of its pace
_CONGESTED_SECONDS = 0.1  # what waits no longer than this does not wait
_DOWN = 0.8
_HIGH, _STEP = 0.95, 0.1  # share of first tokens that are to come within `high`, and how fast that is learned
_SOONER, _LATER = math.exp(_STEP * (_HIGH - 1.0)), math.exp(_STEP * _HIGH)
_HIGH_LEAST, _HIGH_MOST = 1.2, 20.0


@dataclass(slots=True)
class Fit:
    """A line through points that fade: y over x, never falling."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        """One more point."""
        self.weight = self.weight * _FADE + 1.0
        self.x = self.x * _FADE + x
        self.y = self.y * _FADE + y
        self.xx = self.xx * _FADE + x * x
        self.xy = self.xy * _FADE + x * y

    def at(self, x: float) -> float:
        """The line at `x`; the mean where all points had about one x."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        spread = self.xx / self.weight - mean_x * mean_x
        if spread < 1.0 + 0.01 * mean_x * mean_x:
            return mean_y
        slope = max(0.0, (self.xy / self.weight - mean_x * mean_y) / spread)
        return max(0.0, mean_y + slope * (x - mean_x))


@dataclass(slots=True)
class Kind:
    """Answers of one kind: those in pieces, or those at once (where the first byte is the last)."""

    first: dict[int, Fit] = field(default_factory=dict)  # seconds to the first byte over tokens to read, by load
    high: float = 3.0  # times what was predicted: 19 of 20 come within that
    pace: float = 0.0  # seconds per token written; 0: not known

    def seconds(self, load: int, tokens: float) -> float:
        """To the first byte; as learned at this load, else at the nearest. 0: nothing is known, nothing bad thought."""
        if not self.first:
            return 0.0
        fit = self.first.get(load)
        return (fit or self.first[min(self.first, key=lambda known: (abs(known - load), known))]).at(tokens)

    def best(self, tokens: float) -> float:
        """The same at the best load."""
        return min((fit.at(tokens) for fit in self.first.values()), default=0.0)

    def learn(self, load: int, tokens: float, seconds: float, predicted: float) -> None:
        """A first byte came. What is far too late counts as `_MUCH` only: one bad hour is not the new rule at once."""
        if predicted > 0.0:
            step = _SOONER if seconds <= self.high * predicted else _LATER
            self.high = min(_HIGH_MOST, max(_HIGH_LEAST, self.high * step))
            if len(self.first) and is_late(seconds, predicted):
                seconds = _MUCH * predicted + _LITTLE_SECONDS
        self.first.setdefault(load, Fit()).add(tokens, seconds)


@dataclass(slots=True)
class Learned:
    """Of one server."""

    capacity: int
    pieces: Kind = field(default_factory=Kind)
    at_once: Kind = field(default_factory=Kind)
    answer_seconds: float = 0.0  # a whole answer, in the mean; 0: not known
    late: int = 0  # answers in a row that began far later than was predicted
    dragged: int = 0  # answers in a row that were written far slower than those before
    _quick: float = 0.0  # requests at once with which none waits inside
    _taken: float = 0.0  # requests at once of which it refuses none
    _seen: int = 0  # first tokens of this round
    _waited: int = 0  # of these those that came as if they had waited inside
    _was_full: bool = False  # the limit was reached in it

    def __post_init__(self) -> None:
        self._quick = self._taken = float(self.capacity)

    @property
    def limit(self) -> float:
        """Requests at once."""
        return min(self._quick, self._taken)

    @property
    def slow(self) -> int:
        """Answers in a row that were slow in the one way or the other."""
        return max(self.late, self.dragged)

    def kind(self, at_once: bool) -> Kind:
        """What is known of that kind."""
        return self.at_once if at_once else self.pieces

    def spoke(self, *, at_once: bool, in_flight: int, tokens: float, seconds: float, predicted: float) -> None:
        """A first byte came; all but `seconds` as it was when it was asked, itself included."""
        kind, load = self.at_once if at_once else self.pieces, load_of(in_flight)
        if not at_once:
            self.waited(seconds, predicted, is_over=True)
            self._round(in_flight, seconds, kind.best(tokens) if seconds > _CONGESTED_SECONDS else 0.0)
        kind.learn(load, tokens, seconds, predicted)

    def waited(self, seconds: float, predicted: float, *, is_over: bool) -> None:
        """So long nothing was heard; `is_over`: then something was, so that it may also not be slow."""
        if predicted > 0.0 and is_late(seconds, predicted):
            self.late += 1
        elif is_over:
            self.late = 0

    def wrote(self, *, at_once: bool, tokens: int, seconds: float) -> None:
        """An answer is whole; `seconds` that it was written for, without those to its first token if in pieces."""
        if tokens < _ENOUGH_TOKENS:
            return
        kind, pace = self.kind(at_once), seconds / tokens
        if kind.pace and pace > _MUCH * kind.pace and pace - kind.pace > _LITTLE_PACE:
            self.dragged += 1
            pace = _MUCH * kind.pace
        else:
            self.dragged = 0
        kind.pace += (_NEW if kind.pace else 1.0) * (pace - kind.pace)

    def took(self, seconds: float) -> None:
        """A whole answer took so long, from when it was asked."""
        self.answer_seconds += (_NEW if self.answer_seconds else 1.0) * (seconds - self.answer_seconds)
        self._taken = min(float(self.capacity), self._taken + 1.0 / self._taken)

    def refused(self, in_flight: int) -> None:
        """It said that it took no more at so many."""
        self._taken = max(1.0, _DOWN * min(self.limit, float(in_flight)))

    def _round(self, in_flight: int, seconds: float, best: float) -> None:
        """Once in a round (as many first tokens as are allowed at once): down if a quarter of them waited, else up."""
        self._seen += 1
        self._waited += best > 0.0 and in_flight > 1 and seconds > _MUCH * best + _CONGESTED_SECONDS
        self._was_full = self._was_full or in_flight + 1.0 >= self.limit
        if self._seen < self.limit:
            return
        if 4 * self._waited >= self._seen:
            self._quick = max(1.0, _DOWN * min(self.limit, float(in_flight)))
        elif self._was_full:
            self._quick = min(float(self.capacity), self._quick + 1.0)
        self._seen, self._waited, self._was_full = 0, 0, False


def is_late(seconds: float, predicted: float) -> bool:
    """Whether that is slow, and not merely the last of twenty."""
    return seconds > _MUCH * predicted and seconds - predicted > _LITTLE_SECONDS


def load_of(in_flight: int) -> int:
    """0, 1, 2-3, 4-7, ... requests at once."""
    return in_flight.bit_length() if in_flight > 0 else 0
