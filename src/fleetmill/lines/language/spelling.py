"""Text to ids in plain Python: the same ids as `words.encode` gives, for a device that has no tokenizer installed.

Slower by two powers of ten, which a question of somebody does not feel. How text is split beforehand is `words`'
pattern, spelled out by the kind of each letter, since Python's own patterns know no Unicode categories.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import cache, lru_cache

from fleetmill.lines.language.pieces import MERGES
from fleetmill.lines.language.words import letters, vocabulary

_SHORT = re.compile(r"'(?:s|t|re|ve|m|ll|d|ſ)", re.IGNORECASE)
# L letter, N number, R end of a line, S and blank other space, O anything else
_PART = re.compile(r"[OS ]?L+|N| ?O+R*|[ SR]*R|[ SR]+(?![LNO])|[ SR]+")
_SPACES = frozenset("\t\v\f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))


def encode(text: str) -> list[int]:
    """The ids of a text; no part of it is read as a mark."""
    return [i for part in parts(text) for i in _merged(part)]


def parts(text: str) -> list[str]:
    """The text cut as byte-level BPE wants it; nothing is merged across a cut."""
    kinds = "".join(map(_kind, text))
    found, at = [], 0
    while at < len(text):
        short = _SHORT.match(text, at)
        part = short or _PART.match(kinds, at)
        assert part is not None  # every kind is in one of the pattern's branches
        found.append(text[at : part.end()])
        at = part.end()
    return found


def _kind(letter: str) -> str:
    if letter in "\r\n":
        return "R"
    if letter == " ":
        return " "
    if letter in _SPACES:
        return "S"
    major = unicodedata.category(letter)[0]
    return major if major in "LN" else "O"


@cache
def _ranks() -> dict[tuple[str, str], int]:
    return {(a, b): rank for rank, (a, _, b) in enumerate(merge.partition("·") for merge in MERGES)}


@cache
def _numbers() -> dict[str, int]:
    return {piece: number for number, piece in enumerate(vocabulary())}


@lru_cache(maxsize=4096)
def _merged(part: str) -> tuple[int, ...]:
    """The best merge first, until there is none."""
    shown, ranks = letters(), _ranks()
    found = [shown[b] for b in part.encode("utf-8", "surrogatepass")]
    while len(found) > 1:
        pairs = [ranks.get(pair, len(ranks)) for pair in itertools.pairwise(found)]
        best = min(pairs)
        if best == len(ranks):
            break
        at = pairs.index(best)
        found[at : at + 2] = [found[at] + found[at + 1]]
    return tuple(_numbers()[piece] for piece in found)
