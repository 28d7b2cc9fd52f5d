"""Triggers are data: text in a small grammar, evaluated streaming on the device and vectorised on columns.

```
when       := comparison {("and" | "or") comparison} ["for" SECONDS["s"]]
comparison := [abs(] term [- term] [)] op number   |   term            (a bare term: above 0.5)
op         := > | >= | < | <=
term       := feature name; "action.x" is the action that was sent, "x"
```

``and`` binds tighter than ``or``; ``for`` asks that the whole condition has held that long. A comparison whose term
is absent or NaN at an instant is false. Both evaluations are equal by a property test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Trigger

_TOKEN = re.compile(r"\s*(?:(abs\()|(\))|(>=|<=|>|<)|(-?\d+(?:\.\d+)?(?:e-?\d+)?s?\b)|(-)|([A-Za-z_][\w.]*))")
_OPS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """``abs(first - second) op limit``."""

    first: str
    second: str | None
    absolute: bool
    op: str
    limit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Any of the groups, each all of its comparisons, held for `hold_ns`."""

    groups: tuple[tuple[Comparison, ...], ...]
    hold_ns: int

    @property
    def terms(self) -> frozenset[str]:
        """Every feature that the condition looks at."""
        return frozenset(t for group in self.groups for c in group for t in (c.first, c.second) if t)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """An interval worth keeping, and how much."""

    start_ns: int
    end_ns: int
    priority: int
    peak: float

    @property
    def order(self) -> tuple[float, float, int]:
        """Sorts the most valuable first."""
        return (-self.priority, -self.peak, self.start_ns)


@lru_cache(maxsize=256)
def parse(text: str) -> Condition:
    """The condition that `text` says.

    >>> parse("takeover or abs(action.steer - label.steer) > 0.35 for 0.08s").hold_ns
    80000000

    Raises:
        InvalidInputError: it does not follow the grammar; names the place.
    """
    tokens = _tokens(text)
    groups: list[list[Comparison]] = [[]]
    hold_ns, at = 0, 0
    while True:
        comparison, at = _comparison(text, tokens, at)
        groups[-1].append(comparison)
        word = tokens[at] if at < len(tokens) else ""
        if word == "or":
            groups.append([])
        if word == "for":
            hold_ns = _seconds(text, tokens[at + 1 :])
        if word not in ("and", "or"):
            if word not in ("", "for"):
                raise InvalidInputError(f"trigger {text!r}: 'and', 'or' or 'for' was expected, {word!r} stands there")
            return Condition(groups=tuple(tuple(g) for g in groups), hold_ns=hold_ns)
        at += 1


class Watch:
    """One condition, evaluated as the instants come."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self._since: int | None = None

    def see(self, time_ns: int, values: Mapping[str, float]) -> tuple[bool, float]:
        """(does it hold now, the largest left side among the comparisons that are true)."""
        peak, met = -np.inf, False
        for group in self._condition.groups:
            sides = [_left(c, values) for c in group]
            if all(side is not None and bool(_OPS[c.op](side, c.limit)) for c, side in zip(group, sides, strict=True)):
                met, peak = True, max(peak, *(side for side in sides if side is not None))
        if not met:
            self._since = None
            return False, -np.inf
        self._since = time_ns if self._since is None else self._since
        return time_ns - self._since >= self._condition.hold_ns, peak


def evaluate(condition: Condition, times_ns: Array, columns: Mapping[str, Array]) -> tuple[Array, Array]:
    """(holds, peaks) for every row at once; equal to `Watch` row by row."""
    n = len(times_ns)
    met, peaks = np.zeros(n, bool), np.full(n, -np.inf)
    for group in condition.groups:
        sides = [_left_column(c, columns, n) for c in group]
        with np.errstate(invalid="ignore"):
            true = np.logical_and.reduce(
                [_OPS[c.op](s, c.limit) & ~np.isnan(s) for c, s in zip(group, sides, strict=True)]
            )
        best = np.maximum.reduce(sides)
        peaks = np.where(true, np.fmax(peaks, best), peaks)
        met |= true
    starts = met & ~np.concatenate([[False], met[:-1]])
    since = np.maximum.accumulate(np.where(starts, np.arange(n), 0)) if n else np.zeros(0, int)
    holds = met & (np.asarray(times_ns) - np.asarray(times_ns)[since] >= condition.hold_ns) if n else met
    return holds, peaks


def windows(trigger: Trigger, times_ns: Array, ends_ns: Array, columns: Mapping[str, Array]) -> list[Window]:
    """One window for each run of instants at which the trigger holds, with its seconds before and after."""
    holds, peaks = evaluate(parse(trigger.when), times_ns, columns)
    found, at = [], 0
    while at < len(holds):
        if not holds[at]:
            at += 1
            continue
        last = at
        while last + 1 < len(holds) and holds[last + 1]:
            last += 1
        found.append(
            Window(
                start_ns=int(times_ns[at]) - trigger.before_ns,
                end_ns=int(ends_ns[last]) + trigger.after_ns,
                priority=trigger.priority,
                peak=float(peaks[at : last + 1].max()),
            )
        )
        at = last + 1
    return found


def choose(found: Sequence[Window], times_ns: Array, sizes: Array, *, most_bytes: int) -> tuple[Array, Array]:
    """(kept, wanted) per instant: the most valuable windows that fit into `most_bytes`, and all that was wanted.

    Windows are taken by priority, then peak, then time; of the one that no longer fits whole, the instants that come
    first are taken, since what precedes an event teaches most. No instant is counted twice.
    """
    kept, wanted = np.zeros(len(times_ns), bool), np.zeros(len(times_ns), bool)
    left = most_bytes
    for window in sorted(found, key=lambda w: w.order):
        inside = (times_ns >= window.start_ns) & (times_ns < window.end_ns)
        wanted |= inside
        new = np.flatnonzero(inside & ~kept)
        fits = new[np.cumsum(sizes[new]) <= left]
        kept[fits] = True
        left -= int(sizes[fits].sum())
    return kept, wanted


def _left(comparison: Comparison, values: Mapping[str, float]) -> float | None:
    first = values.get(comparison.first)
    second = values.get(comparison.second) if comparison.second else 0.0
    if first is None or second is None or first != first or second != second:
        return None
    return abs(first - second) if comparison.absolute else first - second


def _left_column(comparison: Comparison, columns: Mapping[str, Array], n: int) -> Array:
    nothing = np.full(n, np.nan)
    first = np.asarray(columns.get(comparison.first, nothing), np.float64)
    second = np.asarray(columns.get(comparison.second, nothing), np.float64) if comparison.second else 0.0
    side = first - second
    return np.abs(side) if comparison.absolute else side


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if not match:
            raise InvalidInputError(f"trigger {text!r}: {text[at:].strip()[:20]!r} is not understood")
        found.append(match.group().strip())
        at = match.end()
    return found


def _comparison(text: str, tokens: list[str], at: int) -> tuple[Comparison, int]:
    def take() -> str:
        nonlocal at
        if at >= len(tokens):
            raise InvalidInputError(f"trigger {text!r}: ends where a comparison was expected")
        at += 1
        return tokens[at - 1]

    word = take()
    absolute = word == "abs("
    first = _term(text, take() if absolute else word)
    second = None
    if at < len(tokens) and tokens[at] == "-":
        take()
        second = _term(text, take())
    if absolute and take() != ")":
        raise InvalidInputError(f"trigger {text!r}: abs( is not closed")
    if at >= len(tokens) or tokens[at] not in _OPS:
        if absolute or second:
            raise InvalidInputError(f"trigger {text!r}: one of {', '.join(_OPS)} was expected after {first}")
        return Comparison(first=first, second=None, absolute=False, op=">", limit=0.5), at
    op, number = take(), take()
    return Comparison(first=first, second=second, absolute=absolute, op=op, limit=_number(text, number)), at


def _term(text: str, word: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*", word) or word in ("and", "or", "for"):
        raise InvalidInputError(f"trigger {text!r}: a feature name was expected, {word!r} stands there")
    return word.removeprefix("action.")


def _number(text: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InvalidInputError(f"trigger {text!r}: a number was expected, {word!r} stands there") from None


def _seconds(text: str, rest: list[str]) -> int:
    if len(rest) != 1:
        raise InvalidInputError(f"trigger {text!r}: 'for' takes one number of seconds at the end")
    return round(_number(text, rest[0].removesuffix("s")) * 1e9)
