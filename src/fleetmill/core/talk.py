"""What a device needs of a line whose model answers people: text to ids and back, and rows of a recording to turns.

A value of pure functions like the rest of a line. Who runs it looks at nothing else of the line: the loop that asks the
model id by id is the device's, and so are the rules of who answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from fleetmill.core.serve import Tier

Frame = Mapping[str, NDArray[Any]]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one side of a conversation said."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Who gave an answer, and whether its terms let us learn from it."""

    tier: Tier
    may_train: bool
    sure: float  # how likely the device's own model found its own answer, from 0 to 1; NaN: it was not asked

    @property
    def is_ours_to_learn(self) -> bool:
        """Own machines' answers are; a partner's only where its terms say so."""
        return self.tier < Tier.ATTESTED or self.may_train


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a device may spend on an answer, and from when on it is sure. Signed with a release."""

    sure: float  # an answer that its own model finds less likely than this is handed on where that is allowed
    tokens: int  # of one answer at most


def whole(likely: Sequence[float]) -> float:
    """How likely a whole answer is: the product of its ids' likelihoods, its end's included.

    >>> whole([0.5, 0.5])
    0.25
    """
    return math.prod(likely)


@dataclass(frozen=True, kw_only=True, slots=True)
class Talk:
    """How a line's model is spoken with. All functions are pure, and heavy libraries are not needed for them.

    `rows` and `turns` are each other's inverse: what is said becomes frames of observed and extra features, and comes
    out of them as it went in. Only one role speaks in a frame.
    """

    ids: Callable[[Sequence[Said]], list[int]]  # a conversation so far -> what the model reads before it answers
    text: Callable[[Sequence[int]], str]  # the ids of an answer, its end not among them -> what was said
    ends: tuple[int, ...]  # ids that end an answer
    context: int  # ids that the model looks back over: what is asked and answered together
    rows: Callable[[Said, bool, Source | None], list[Frame]]  # a turn, whether it begins a conversation, who answered
    turns: Callable[[Sequence[Frame]], list[Said]]  # frames of one conversation -> its turns
    begins: Callable[[Frame], bool]  # whether a conversation begins with this frame
    right: Callable[[str, str], bool | None]  # question, answer -> by rule; None: there is no rule for this question
    limits: Limits  # where the owner's settings say nothing else
    takes: str = "ids"  # input port: int64 (length,)
    gives: str = "logits"  # output port: float32 (vocabulary,) of what comes next
    sureness: Callable[[Sequence[float]], float] = whole
