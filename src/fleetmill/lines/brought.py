"""The vocabulary of a base that its owner brings, from `tokenizer.json` and `config.json`, in our order of ids.

It is a relabelling: bytes, marks, merges. What no merge makes (the base's own marks, reserved places) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Files
from fleetmill.lines.splits import SPLITS, Split, split_of
from fleetmill.lines.vocabulary import END, MARKS, Vocabulary

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
_NONE = -1
_LLAMA: Mapping[str, tuple[Any, ...]] = {  # what decides what a network computes, beside its numbers
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1),
    "rope_interleaved": (None, False),
    "sliding_window": (None,),
}
_PLAIN: Mapping[str, tuple[Any, ...]] = {  # of the tokenizer's model: what byte-level BPE has no use for
    "type": ("BPE",),
    "byte_fallback": (False, None),
    "dropout": (None, 0),
    "continuing_subword_prefix": ("", None),
    "end_of_word_suffix": ("", None),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """A base's vocabulary, and where in the base each of its ids stands."""

    words: Vocabulary
    config: Mapping[str, Any]  # of a network of Llama's shape
    rows: Array  # int64 (words.size,): the base's id; -1: it has none

    def reordered(self, table: Array) -> Array:
        """float32 (base's ids, width) in our order; what the base has no row for begins as the mean of all others."""
        found = np.asarray(table[self.rows], np.float32)
        there = self.rows != _NONE
        found[~there] = found[there].mean(axis=0)
        return found


def brought(files: Files) -> Brought:
    """The vocabulary of a base.

    Raises:
        InvalidInputError: no Llama's network, no byte-level BPE, a way to cut text that is none of ours, or no end of a
            text: the file, the key and its value.
    """
    config = _llama(files)
    found = table_of(files, TOKENIZER)
    model = found.get("model")
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(ids, dict) or not all(map(_is_id, ids.values())):
        raise InvalidInputError(f"{TOKENIZER}: model.vocab must be a table of pieces and their ids: {_ONLY}")
    for key, allowed in _PLAIN.items():
        if model.get(key) not in allowed:
            raise InvalidInputError(f"{TOKENIZER}: model.{key} = {_shown(model.get(key))}: {_ONLY}")
    normal = found.get("normalizer")
    if normal not in (None, {"type": "NFC"}):
        raise InvalidInputError(f"{TOKENIZER}: normalizer = {_shown(normal)}: must be none, or NFC. Bring another base")
    words = Vocabulary(merges=_merges(model.get("merges")), split=_split(found, model))
    known = {*words.pieces}
    for piece in (piece for merge in words.merges for piece in (*merge, "".join(merge))):
        if piece not in ids or piece not in known or piece in MARKS:
            raise InvalidInputError(f"{TOKENIZER}: a merge has the piece {_shown(piece)}, which is none. Repair it")
    rows = np.array([ids.get(piece, _NONE) for piece in words.pieces], np.int64)
    added = _added(found)
    rows[END : END + len(MARKS)] = [added.get(mark, _NONE) for mark in MARKS]
    rows[END] = added.get(MARKS[0], _end(files, config, added | ids))
    return Brought(words=words, config=config, rows=rows)


_ONLY = "only byte-level BPE is taken, not SentencePiece, Unigram or WordPiece. Bring another base"


def table_of(files: Files, name: str) -> Mapping[str, Any]:
    """A base's file of JSON.

    Raises:
        InvalidInputError: it is missing, no JSON, or no table.
    """
    if name not in files.names():
        raise InvalidInputError(f"{name}: is missing in the base's folder. Bring a base in Hugging Face's layout")
    try:
        found = canonical.loads(files.read(name))
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}. Copy it again") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{name}: must hold a table, holds {_shown(found)}. Repair it")
    return found


def _llama(files: Files) -> Mapping[str, Any]:
    config = table_of(files, CONFIG)
    for key, allowed in _LLAMA.items():
        if config.get(key) not in allowed:
            raise InvalidInputError(
                f"{CONFIG}: {key} = {_shown(config.get(key))}: must be {_shown(allowed[0])}. Bring a base of "
                "Llama's shape"
            )
    return config


def _split(found: Mapping[str, Any], model: Mapping[str, Any]) -> Split:
    split = split_of(found.get("pre_tokenizer"))
    if split is None:
        raise InvalidInputError(
            f"{TOKENIZER}: pre_tokenizer = {_shown(found.get('pre_tokenizer'))}: cuts text as none of "
            f"{', '.join(SPLITS)} does. Bring another base"
        )
    if bool(model.get("ignore_merges", False)) != split.whole_first:
        raise InvalidInputError(
            f"{TOKENIZER}: model.ignore_merges = {_shown(model.get('ignore_merges', False))}: must be "
            f"{split.whole_first} for text that is cut as {split.name} does. Bring another base"
        )
    return split


def _merges(found: Any) -> tuple[tuple[str, str], ...]:
    """Older files have each merge as one text."""
    pairs = [m.split(" ") if isinstance(m, str) else m for m in found] if isinstance(found, list) else []
    whole = [(p[0], p[1]) for p in pairs if isinstance(p, list) and len(p) == 2 and all(isinstance(x, str) for x in p)]
    if not whole or len(whole) != len(pairs):
        raise InvalidInputError(f"{TOKENIZER}: model.merges must be a list of two pieces each. Repair it")
    return tuple(whole)


def _added(found: Mapping[str, Any]) -> dict[str, int]:
    added = [t for t in found.get("added_tokens") or [] if isinstance(t, dict) and _is_id(t.get("id"))]
    return {str(t.get("content")): t["id"] for t in added}


def _end(files: Files, config: Mapping[str, Any], ids: Mapping[str, int]) -> int:
    """The base's id for the end of a text."""
    said = config.get("eos_token_id")
    said = said[0] if isinstance(said, list) and said else said
    if said is None and "tokenizer_config.json" in files.names():
        mark = table_of(files, "tokenizer_config.json").get("eos_token")
        said = ids.get(str(mark.get("content") if isinstance(mark, dict) else mark))
    if not isinstance(said, int) or not _is_id(said):
        raise InvalidInputError(f"{CONFIG}: eos_token_id = {_shown(said)}: must be the id that ends a text. Repair it")
    return said


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    return repr(value)[:80]
