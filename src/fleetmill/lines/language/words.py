"""Text as token ids and back: byte-level BPE whose first 256 ids are the bytes themselves, so bytes are ids too.

A conversation is ``<|user|>question<|end|><|assistant|>answer<|end|>``; plain text begins after an ``<|end|>``. Marks
are never read out of somebody's text: who types ``<|end|>`` has typed seven characters. Digits stand alone.

Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (byte-level BPE); how text is split
beforehand is what llama.cpp calls ``qwen2``.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from fleetmill.core.errors import EngineMissingError
from fleetmill.lines.language.pieces import MERGES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD = 0  # the byte that no text has
END, SYSTEM, USER, ASSISTANT = 256, 257, 258, 259
MARKS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", *(f"<|spare-{n}|>" for n in range(4)))
VOCABULARY = 256 + len(MARKS) + len(MERGES)
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def letters() -> list[str]:
    """For each byte the letter by which byte-level BPE writes it."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


def vocabulary() -> list[str]:
    """Each id's piece, as byte-level BPE writes it."""
    return [*letters(), *MARKS, *(merge.replace("·", "") for merge in MERGES)]


@cache
def pieces() -> tuple[bytes, ...]:
    """The bytes of each id; none for a mark."""
    byte = {letter: b for b, letter in enumerate(letters())}
    return tuple(b"" if piece in MARKS else bytes(byte[c] for c in piece) for piece in vocabulary())


def tokenizer_json() -> bytes:
    """The tokenizer as `tokenizers` and everybody else reads it."""
    marks = [
        {"id": 256 + n, "content": mark, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for n, mark in enumerate(MARKS)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": marks,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
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
            "vocab": {piece: number for number, piece in enumerate(vocabulary())},
            "merges": [merge.split("·") for merge in MERGES],
        },
    }
    return json.dumps(whole, ensure_ascii=False).encode()


@cache
def _tokenizer() -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise EngineMissingError("tokenizers", extra="llm") from error
    made = Tokenizer.from_str(tokenizer_json().decode())
    made.encode_special_tokens = True  # what somebody typed is text
    return made


def encode(texts: list[str]) -> list[list[int]]:
    """The ids of each text.

    Raises:
        EngineMissingError: `tokenizers` is not installed.
    """
    return [found.ids for found in _tokenizer().encode_batch_fast(texts, add_special_tokens=False)]


def decode(ids: list[int]) -> str:
    """The text of some ids; marks are left out, halves of letters are replaced."""
    known = pieces()
    return b"".join(known[i] for i in ids if 0 <= i < VOCABULARY and i != PAD).decode("utf-8", "replace")
