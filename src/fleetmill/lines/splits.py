"""How text is cut before byte-level BPE merges within the parts: the four ways that bases of Llama's shape have.

Each is a pattern for `tokenizers` and the engines, and the same for plain Python, whose own patterns know no Unicode
categories: there a letter stands for its kind. The names are those that llama.cpp has for them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PLAIN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ANY_CASE = re.compile(r"'(?:s|t|re|ve|m|ll|d|ſ)", re.IGNORECASE)
_LOWER = re.compile(r"'(?:[sdmt]|ll|ve|re)")
_SPACES = frozenset("\t\v\f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One way to cut text."""

    name: str
    patterns: tuple[str, ...]  # for `tokenizers`: each match is a part, then each within these
    short: re.Pattern[str]  # English endings, in the text itself
    # L letter, N number, R end of a line, S and blank other space, O anything else
    kinds: re.Pattern[str]
    whole_first: bool = False  # a part that is a piece as it stands is not put together by merges

    def steps(self) -> list[dict[str, Any]]:
        """As a `tokenizer.json` has it."""
        return [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.patterns
        ]

    def parts(self, text: str) -> list[str]:
        """The text in parts; nothing is merged across a cut.

        >>> SPLITS["qwen2"].parts("it's 12")
        ['it', "'s", ' ', '1', '2']
        """
        kinds = "".join(map(_kind, text))
        found, at = [], 0
        while at < len(text):
            part = self.short.match(text, at) or self.kinds.match(kinds, at)
            assert part is not None  # every kind is in one of the pattern's branches
            found.append(text[at : part.end()])
            at = part.end()
        return found


SPLITS: Mapping[str, Split] = {
    split.name: split
    for split in (
        Split(
            name="gpt-2",
            patterns=(_PLAIN,),
            short=_LOWER,
            kinds=re.compile(r" ?L+| ?N+| ?O+|[ SR]+(?![LNO])|[ SR]+"),
        ),
        Split(  # digits alone, then as gpt-2 what stands between them
            name="smollm",
            patterns=(r"\p{N}", _PLAIN),
            short=_LOWER,
            kinds=re.compile(r" ?L+|N| ?O+|[ SR]+(?![LO])|[ SR]+"),
        ),
        Split(
            name="qwen2",
            patterns=(_SHORT + r"\p{N}" + _REST,),
            short=_ANY_CASE,
            kinds=re.compile(r"[OS ]?L+|N| ?O+R*|[ SR]*R|[ SR]+(?![LNO])|[ SR]+"),
        ),
        Split(
            name="llama-bpe",
            patterns=(_SHORT + r"\p{N}{1,3}" + _REST,),
            short=_ANY_CASE,
            kinds=re.compile(r"[OS ]?L+|N{1,3}| ?O+R*|[ SR]*R|[ SR]+(?![LNO])|[ SR]+"),
            whole_first=True,
        ),
    )
}


def split_of(pre_tokenizer: Any) -> Split | None:
    """The split that a `tokenizer.json` asks for; None: none of ours.

    >>> split_of({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}).name
    'gpt-2'
    """
    steps = pre_tokenizer.get("pretokenizers") if _is(pre_tokenizer, "Sequence") else [pre_tokenizer]
    if not isinstance(steps, list) or not steps or not _is(steps[-1], "ByteLevel"):
        return None
    *before, level = steps
    if level.get("add_prefix_space", True):
        return None
    if level.get("use_regex", True):
        names = {"[]": "gpt-2", '[{"individual_digits": true, "type": "Digits"}]': "smollm"}
        return SPLITS.get(names.get(json.dumps(before, sort_keys=True), ""))
    for split in SPLITS.values():
        if before == split.steps():
            return split
    return None


def _is(step: Any, kind: str) -> bool:
    return isinstance(step, dict) and step.get("type") == kind


def _kind(letter: str) -> str:
    if letter in "\r\n":
        return "R"
    if letter == " ":
        return " "
    if letter in _SPACES:
        return "S"
    major = unicodedata.category(letter)[0]
    return major if major in "LN" else "O"
