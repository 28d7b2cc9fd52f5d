"""A vocabulary belongs to a line: four ways to cut text, and a base's ids in our order."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra `llm`")
pytest.importorskip("torch", reason="needs the extra `train`")

from tokenizers import Tokenizer

from bases_made import OWN_MARKS, SAID, base, network, size, tokenizer
from fleetmill.core.errors import InvalidInputError
from fleetmill.lines.brought import brought
from fleetmill.lines.language.pieces import OURS
from fleetmill.lines.splits import SPLITS
from fleetmill.lines.vocabulary import END, MARKS, Vocabulary, read
from fleetmill.testing.kit import InMemory

AWKWARD = "ab1234 \n\r\t'sSTrevmld.,=<>é²Ⅷ☂\u2003\x1c\x85"
TOKENIZERS = {name: tokenizer(name) for name in SPLITS}
BASES = {name: brought(InMemory(base(network(size()), found))) for name, found in TOKENIZERS.items()}


def theirs(name: str, text: str) -> list[int]:
    """What the base's own tokenizer finds, as our ids."""
    ours = {int(row): number for number, row in enumerate(BASES[name].rows)}
    read_by_it = Tokenizer.from_str(json.dumps(TOKENIZERS[name]))
    read_by_it.encode_special_tokens = True
    return [ours[i] for i in read_by_it.encode(text, add_special_tokens=False).ids]


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.text(AWKWARD, max_size=60), st.sampled_from(SAID.splitlines())))
def test_text_is_read_as_the_base_reads_it_with_the_library_and_without(name: str, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    words = BASES[name].words
    found = words.encode([text])[0]
    assert found == words.spell(text) == theirs(name, text)
    assert words.decode(found) == text.replace("\0", "")


@pytest.mark.parametrize("name", SPLITS)
def test_bytes_are_ids_then_marks_then_merges_in_order(name: str) -> None:
    found = BASES[name]
    words, vocab = found.words, TOKENIZERS[name]["model"]["vocab"]
    assert [*words.bytes_of[:256]] == [bytes([b]) for b in range(256)]
    assert words.pieces[END : END + len(MARKS)] == MARKS
    assert words.pieces[END + len(MARKS) :] == tuple(a + b for a, b in TOKENIZERS[name]["model"]["merges"])
    assert [vocab[p] for p in words.pieces if p not in MARKS] == [
        int(r) for r, p in zip(found.rows, words.pieces, strict=True) if p not in MARKS
    ]
    assert int(found.rows[END]) == vocab[OWN_MARKS[0]]
    assert all(found.rows[END + 1 : END + len(MARKS)] == -1)


def test_a_vocabulary_comes_back_from_its_text_and_is_known_by_its_digest() -> None:
    for words in (OURS, *(found.words for found in BASES.values())):
        assert read(words.written(), "x") == words
        assert read(words.written(), "x").digest == words.digest
    digests = {found.words.digest for found in BASES.values()} | {OURS.digest}
    assert len(digests) == 5
    assert replace(OURS, split=SPLITS["gpt-2"]).digest != OURS.digest


def test_what_several_merges_make_has_one_id() -> None:
    words = Vocabulary(merges=(("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")), split=SPLITS["gpt-2"])
    assert words.pieces[264:] == ("ab", "bc", "abc")
    assert words.spell("abc") == words.encode(["abc"])[0] == [266]


def test_a_part_that_is_a_piece_is_taken_whole_where_the_split_says_so() -> None:
    merges = (("a", "b"), ("c", "d"), ("b", "c"), ("bc", "d"), ("a", "bcd"))  # merged in order, "abcd" is "ab", "cd"
    for name, wanted in (("gpt-2", ["ab", "cd"]), ("llama-bpe", ["abcd"])):
        words = Vocabulary(merges=merges, split=SPLITS[name])
        assert [words.pieces[i] for i in words.spell("abcd")] == wanted
        assert words.encode(["abcd"])[0] == words.spell("abcd")


@pytest.mark.parametrize("text", ["", "qwen3\na b", "gpt-2\na", "gpt-2\na b c"])
def test_what_is_no_vocabulary_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"words\.txt: must hold one of"):
        read(text, "words.txt")


def test_what_the_base_has_no_row_for_is_the_mean_of_the_others() -> None:
    found = BASES["smollm"]
    table = np.random.default_rng(0).normal(size=(size().vocabulary, 3)).astype(np.float32)
    made = found.reordered(table)
    np.testing.assert_array_equal(made[END], table[0])
    np.testing.assert_array_equal(made[ord("a")], table[TOKENIZERS["smollm"]["model"]["vocab"]["a"]])
    others = [n for n, row in enumerate(found.rows) if row != -1]
    np.testing.assert_allclose(made[END + 1], made[others].mean(axis=0), rtol=1e-5)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "sentencepiece": ({"model": {"byte_fallback": True}}, "model.byte_fallback = True: only byte-level BPE"),
    "unigram": ({"model": {"type": "Unigram"}}, "model.type = 'Unigram'"),
    "an ending of words": ({"model": {"end_of_word_suffix": "</w>"}}, "model.end_of_word_suffix = '</w>'"),
    "metaspace": ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer = {'type': 'Metaspace'}: cuts text as none"),
    "no way to cut": ({"pre_tokenizer": None}, "pre_tokenizer = None"),
    "a space before": ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "cuts text as none of"),
    "a normalizer": ({"normalizer": {"type": "Lowercase"}}, "normalizer = {'type': 'Lowercase'}"),
    "whole pieces first": ({"model": {"ignore_merges": True}}, "model.ignore_merges = True: must be False"),
    "a merge of nothing": ({"model": {"merges": [["a", "zq"]]}}, "a merge has the piece 'zq'"),
    "merges that are none": ({"model": {"merges": ["abc"]}}, "model.merges must be a list of two pieces"),
    "no ids": ({"model": {"vocab": {"a": -1}}}, "model.vocab must be a table"),
}


@pytest.mark.parametrize("what", WRONG)
def test_another_kind_of_tokenizer_is_refused_in_one_line_that_says_where(what: str) -> None:
    change, said = WRONG[what]
    found = {**TOKENIZERS["smollm"], **change}
    found["model"] = {**TOKENIZERS["smollm"]["model"], **change.get("model", {})}
    with pytest.raises(InvalidInputError, match=r"^tokenizer\.json: .*" + re.escape(said)) as refused:
        brought(InMemory(base(network(size()), found)))
    assert "\n" not in str(refused.value)


def test_a_base_without_an_end_of_texts_or_without_a_tokenizer_is_refused() -> None:
    files = base(network(size()), TOKENIZERS["smollm"])
    config = {k: v for k, v in json.loads(files["config.json"]).items() if k != "eos_token_id"}
    files["config.json"] = json.dumps(config).encode()
    with pytest.raises(InvalidInputError, match=r"config\.json: eos_token_id = None"):
        brought(InMemory(files))
    files["tokenizer_config.json"] = json.dumps({"eos_token": {"content": OWN_MARKS[0]}}).encode()
    assert brought(InMemory(files)).rows[END] == 0
    files["tokenizer.json"] = b"{half"
    with pytest.raises(InvalidInputError, match=r"tokenizer\.json: not JSON"):
        brought(InMemory(files))
    del files["tokenizer.json"]
    with pytest.raises(InvalidInputError, match=r"tokenizer\.json: is missing in the base's folder"):
        brought(InMemory(files))
