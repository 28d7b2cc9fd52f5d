"""Which sessions train, which validate, which are held out: by session and device, never by frame (CONTRACTS, 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Role = Literal["train", "validation", "held_out"]
ROLES: tuple[Role, ...] = ("train", "validation", "held_out")
Given = Literal["train", "validation", "held_out", "by_time"]
BY_TIME: Given = "by_time"  # no role of its own: each dataset version's cut-off decides, see `in_time`


def role(split: Literal["session", "device", "time"], *, device: int, session: int) -> Given:
    """What a device's nth session is given, from the device's place on its line and the number in its own journal.

    Both count from 0 and do not depend on arrival order; what is given never moves.

    >>> [role("session", device=0, session=n) for n in range(5)]
    ['train', 'train', 'held_out', 'train', 'validation']
    >>> role("time", device=0, session=2)
    'by_time'
    """
    if split == "time":
        return BY_TIME
    number = device + (session if split == "session" else 0)
    if number % 4 == 2:
        return "held_out"
    return "validation" if number % 8 == 4 else "train"


def in_time(intervals: Mapping[str, tuple[int, int]]) -> dict[str, Role]:
    """The roles of one dataset version's sessions by (start_ns, end_ns), for ``time``: what is later is held out.

    The cut-off is the start of a session that three quarters of them do not start after. A session that has anything
    later than it is held out whole, so nothing that trains is later than anything that is asked. More sessions make a
    later cut-off: that is a new evaluation. Fewer than four sessions: all train, nothing can be proven. None validates:
    that would take the latest of what trains away from the training, and no line of ours chooses by it.

    >>> in_time({name: (at, at + 10) for at, name in zip(range(0, 40, 10), "abcd")})
    {'a': 'train', 'b': 'train', 'c': 'train', 'd': 'held_out'}
    """
    cut = _cut_off(sorted(start for start, _ in intervals.values()))
    return {name: "train" if cut is None or end <= cut else "held_out" for name, (_, end) in intervals.items()}


def _cut_off(starts: list[int]) -> int | None:
    """The first start that at most a quarter of the sessions do not lie before; several of one start stay together."""
    at = -(-3 * len(starts) // 4)
    later = [start for start in starts[at:] if start > starts[at - 1]]
    earlier = [start for start in starts[at : at + 1] if start > starts[0]]
    return next(iter([*later, *earlier]), None)
