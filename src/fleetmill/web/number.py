"""What a sentence or a cell of a page is made of: words, numbers that carry their source, and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "open", "soft"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A number with where it comes from: whoever doubts it can make it again from the fact by the rule."""

    text: str  # as a person reads it
    value: float | int
    fact: str = ""  # digest of the fact that it follows from
    rule: str = ""  # name of the function that makes it
    args: str = ""  # what the function is given beside the fact: JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A word with a tone. The word says it all; the tone only repeats it."""

    text: str
    tone: Tone = "soft"


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """A digest, a command or a key."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A way to a file beside the page."""

    text: str
    href: str


Piece = str | Number | Mark | Code | Link
Text = Piece | Sequence[Piece]


def pieces(text: Text) -> tuple[Piece, ...]:
    """The pieces of a text, one or many."""
    return (text,) if isinstance(text, str | Number | Mark | Code | Link) else tuple(text)


def mark(text: str, tone: Tone = "soft") -> Mark:
    """A word with a tone."""
    return Mark(text=text, tone=tone)


def code(text: str) -> Code:
    """A digest, a command or a key."""
    return Code(text=text)
