"""How somebody speaks with the line's model: the part of the contract that a device needs, without any library.

A question and its answer are recorded as every conversation is: rows of 256 bytes, with who answered and how sure the
device's own model was beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from fleetmill.core.line import Frame
from fleetmill.core.talk import Limits, Said, Source, Talk
from fleetmill.lines.language.conversations import (
    CONTEXT,
    MARK_OF,
    ROLES,
    conversations,
    rows_of,
)
from fleetmill.lines.language.sums import is_right, worth
from fleetmill.lines.vocabulary import ASSISTANT, END, PAD, Vocabulary

_TOKENS = 64  # of an answer


def ids(said: Sequence[Said], *, words: Vocabulary) -> list[int]:
    """A conversation as the model reads it, up to the mark of who answers."""
    found = [i for turn in said for i in (MARK_OF[ROLES[turn.role]], *words.spell(turn.text), END)]
    return [*found, ASSISTANT]


def rows(turn: Said, first: bool, source: Source | None) -> list[Frame]:
    """A turn as rows of a recording; where somebody answered, who it was."""
    extra: dict[str, np.ndarray] = {}
    if source is not None:
        extra = {
            "tier": np.asarray(int(source.tier), np.uint8),
            "may_train": np.asarray(int(source.may_train), np.uint8),
            "sure": np.asarray(source.sure, np.float32),
        }
    found = rows_of(ROLES[turn.role], turn.text)
    return [{**row, "first": np.asarray(int(first and n == 0), np.uint8), **extra} for n, row in enumerate(found)]


def turns(frames: Sequence[Frame]) -> list[Said]:
    """The turns of one conversation's rows; plain text that nobody says is none."""
    if not frames:
        return []
    text, role = (np.stack([np.asarray(frame[name]) for frame in frames]) for name in ("text", "role"))
    one = conversations(text, role, np.arange(len(frames)) == 0)[0]
    names = {number: name for name, number in ROLES.items()}
    return [Said(role=names[turn.role], text=turn.text) for turn in one if turn.role in names]


def begins(frame: Frame) -> bool:
    """Whether a conversation begins with this row."""
    return bool(np.asarray(frame["first"]) == 1)


def right(question: str, answer: str) -> bool | None:
    """Whether a sum (``48/2=``) was answered rightly; None: it is no sum.

    >>> right("48/2=", "24"), right("How are you?", "24")
    (True, None)
    """
    truth = worth(question.removesuffix("=")) if question.endswith("=") else None
    return None if truth is None else is_right(answer, truth)


def talk(words: Vocabulary) -> Talk:
    """How a model of these words is spoken with."""
    return Talk(
        ids=partial(ids, words=words),
        text=words.decode,
        ends=(END, PAD),
        context=CONTEXT,
        rows=rows,
        turns=turns,
        begins=begins,
        right=right,
        limits=Limits(sure=0.9, tokens=_TOKENS),
    )
