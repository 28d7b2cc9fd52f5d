"""Text as token ids and back: byte-level BPE whose first 256 ids are the bytes themselves, so bytes are ids too.

A vocabulary belongs to a line, as a camera's size does: ports, tokenizer and what devices read follow from it. After
the bytes stand eight marks, then what the merges make, in their order. A conversation is
``<|user|>question<|end|><|assistant|>answer<|end|>``; plain text begins after an ``<|end|>``. Marks are never read out
of somebody's text: who types ``<|end|>`` has typed seven characters.

Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (byte-level BPE).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fleetmill.core import canonical
from fleetmill.core.errors import EngineMissingError, InvalidInputError
from fleetmill.core.line import Array
from fleetmill.lines.splits import SPLITS, Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD = 0  # the byte that no text has
END, SYSTEM, USER, ASSISTANT = 256, 257, 258, 259
MARKS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", *(f"<|spare-{n}|>" for n in range(4)))
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def letters() -> list[str]:
    """For each byte the letter by which byte-level BPE writes it."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Which bytes are read together: merges of byte-level BPE in order, and how text is cut before them."""

    merges: tuple[tuple[str, str], ...] = field(repr=False)
    split: Split

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """Each id's piece, as byte-level BPE writes it. What several merges make has one id."""
        return (*letters(), *MARKS, *dict.fromkeys(a + b for a, b in self.merges))

    @property
    def size(self) -> int:
        """How many ids there are."""
        return len(self.pieces)

    @cached_property
    def digest(self) -> str:
        """Names it: equal digests read text alike."""
        return canonical.digest({"split": self.split.name, "merges": [f"{a} {b}" for a, b in self.merges]})

    @cached_property
    def bytes_of(self) -> tuple[bytes, ...]:
        """The bytes of each id; none for a mark."""
        byte = {letter: b for b, letter in enumerate(letters())}
        return tuple(b"" if piece in MARKS else bytes(byte[c] for c in piece) for piece in self.pieces)

    @cached_property
    def widths(self) -> Array:
        """float64 (size,): bytes of each id; a mark has none."""
        return np.array([len(piece) for piece in self.bytes_of], np.float64)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; no part of it is read as a mark.

        Raises:
            EngineMissingError: `tokenizers` is not installed.
        """
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def spell(self, text: str) -> list[int]:
        """The same ids in plain Python, for a device that has no tokenizer installed.

        Slower by two powers of ten, which a question of somebody does not feel.
        """
        return [i for part in self.split.parts(text) for i in self._merged(part)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; marks are left out, halves of letters are replaced."""
        known = self.bytes_of
        return b"".join(known[i] for i in ids if 0 <= i < len(known) and i != PAD).decode("utf-8", "replace")

    @cached_property
    def tokenizer_json(self) -> bytes:
        """The tokenizer as `tokenizers` and everybody else reads it."""
        marks = [
            {"id": 256 + n, "content": mark, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for n, mark in enumerate(MARKS)
        ]
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        whole: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": marks,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*self.split.steps(), level]},
            "post_processor": None,
            "decoder": level | {"add_prefix_space": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                **({"ignore_merges": True} if self.split.whole_first else {}),
                "vocab": {piece: number for number, piece in enumerate(self.pieces)},
                "merges": [list(merge) for merge in self.merges],
            },
        }
        return json.dumps(whole, ensure_ascii=False).encode()

    def written(self) -> str:
        """As `read` reads it: the split's name, then a merge a line."""
        return "\n".join([self.split.name, *(f"{a} {b}" for a, b in self.merges), ""])

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise EngineMissingError("tokenizers", extra="llm") from error
        made = Tokenizer.from_str(self.tokenizer_json.decode())
        made.encode_special_tokens = True  # what somebody typed is text
        return made

    @cached_property
    def _merged(self) -> Callable[[str], tuple[int, ...]]:
        """A part's ids: the best merge first, until there is none."""
        shown, ranks = letters(), {merge: rank for rank, merge in enumerate(self.merges)}
        numbers = {piece: number for number, piece in enumerate(self.pieces)}

        @lru_cache(maxsize=4096)
        def merged(part: str) -> tuple[int, ...]:
            found = [shown[b] for b in part.encode("utf-8", "surrogatepass")]
            if self.split.whole_first and "".join(found) in numbers:
                return (numbers["".join(found)],)
            while len(found) > 1:
                pairs = [ranks.get(pair, len(ranks)) for pair in itertools.pairwise(found)]
                best = min(pairs)
                if best == len(ranks):
                    break
                at = pairs.index(best)
                found[at : at + 2] = [found[at] + found[at + 1]]
            return tuple(numbers[piece] for piece in found)

        return merged


def read(text: str, where: str) -> Vocabulary:
    """What `Vocabulary.written` wrote.

    Raises:
        InvalidInputError: an unknown split, or a line that is no merge.
    """
    name, *rows = text.split("\n")
    merges = tuple((a, b) for a, _, b in (row.partition(" ") for row in rows if row))
    if name not in SPLITS or not all(a and b and " " not in b for a, b in merges):
        raise InvalidInputError(f"{where}: must hold one of {', '.join(SPLITS)}, then two pieces a line. Make it anew")
    return Vocabulary(merges=merges, split=SPLITS[name])
