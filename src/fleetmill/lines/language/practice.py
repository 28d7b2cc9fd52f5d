"""Sums as a conversation: what is asked, what is answered, and more of the same kind with other numbers.

New numbers have as many digits as those that they stand for; what they come to follows from the rule, so that no answer
is anybody's guess. Sums whose result is too long or is not round to a cent are not made.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from fleetmill.lines.language.conversations import ASSISTANT_SAYS, USER_SAYS, Conversation, Turn
from fleetmill.lines.language.sums import worth

Sum = tuple[str, str]  # an expression, and what it comes to as it is written
_NUMBER = re.compile(r"\d+")
_LONGEST = 9  # characters of a made result


def told(expression: str, result: str) -> Conversation:
    """A sum asked and answered."""
    return (Turn(role=USER_SAYS, text=f"{expression}="), Turn(role=ASSISTANT_SAYS, text=result))


def pairs(said: Conversation) -> list[Sum]:
    """The sums that somebody asked in a conversation (``48/2=``), each with what was answered, right or wrong."""
    found = []
    for ask, answer in itertools.pairwise(said):
        if (ask.role, answer.role) == (USER_SAYS, ASSISTANT_SAYS) and ask.text.endswith("="):
            expression = ask.text[:-1].strip()
            found += [(expression, answer.text)] if worth(expression) is not None else []
    return found


def asked(found: Sequence[Sum]) -> list[Sum]:
    """The same sums, each result as it is shortest."""
    return [(expression, _written(worth(expression)) or result) for expression, result in found]


def drawn(known: Sum, chance: np.random.Generator) -> Sum:
    """A sum of the same form with other numbers; `known` itself where none comes out well."""
    expression = _NUMBER.sub(lambda m: _like(m[0], chance), known[0])
    result = _written(worth(expression))
    return (expression, result) if result and len(result) <= _LONGEST else known


def _like(number: str, chance: np.random.Generator) -> str:
    """Another number of as many digits, the noughts at its end kept."""
    head = number.rstrip("0")
    if not head or len(head) > 4:
        return number
    return str(chance.integers(10 ** (len(head) - 1), 10 ** len(head))) + "0" * (len(number) - len(head))


def _written(value: Fraction | None) -> str:
    """A value as people write it, to a cent; empty where it is none."""
    if value is None or (100 * value).denominator != 1:
        return ""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.2f}".rstrip("0")
