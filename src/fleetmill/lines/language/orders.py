"""What must be beaten: each byte told by the few before it, and every sum answered with the most frequent answer.

Source: Witten and Bell, The zero-frequency problem, 1991 (method C, interpolated).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fleetmill.core.line import Array, Frame
from fleetmill.lines.vocabulary import ASSISTANT, END, PAD, Vocabulary

MOST_ORDER = 6  # of which a number of 8 bytes still holds the codes


class Orders:
    """How likely each byte is after those before it; orders 0 to `order` mixed, learned from text uint8 (N,)."""

    def __init__(self, text: Array, order: int) -> None:
        self._tables = []
        for k in range(order + 1):
            grams, counts = np.unique(_packed(text, k, 0)[k:], return_counts=True)
            befores, kinds = np.unique(grams >> 8, return_counts=True)
            totals = np.add.reduceat(counts, np.searchsorted(grams >> 8, befores)) if len(grams) else counts
            self._tables.append((grams, counts, befores, kinds, totals))

    def logs(self, text: Array) -> Array:
        """Natural logarithms (N,) of how likely each of uint8 (N,) was; before the first there is nothing."""
        told = np.full(len(text), 1.0 / 256.0)
        for k, (grams, counts, befores, kinds, totals) in enumerate(self._tables):
            count, before = _found(grams, counts, _packed(text, k, 0)), _packed(text, k, 1)
            total, kind = _found(befores, totals, before), _found(befores, kinds, before)
            known = (np.arange(len(text)) >= k) & (total > 0)
            told = np.where(known, (count + kind * told) / np.maximum(total + kind, 1), told)
        return np.asarray(np.log(told))


class Counted:
    """`Orders` and the most frequent answer behind the ports of the model; implements `core.line.Policy`."""

    def __init__(self, text: Array, answers: Sequence[Sequence[int]], order: int, words: Vocabulary) -> None:
        self._orders, self._words = Orders(text, order), words
        usual = Counter(tuple(a) for a in answers).most_common(1)
        self._answer = [*(usual[0][0] if usual else ()), END]

    def reset(self) -> None:
        """Nothing to forget."""

    def step(self, observation: Frame) -> Frame:
        """What comes after a piece of text."""
        return {"token": self.ask({"ids": np.asarray(observation["text"], np.int64)[np.newaxis]})["token"][0]}

    def ask(self, inputs: Frame) -> Frame:
        """The ports of the model for int64 (B, T)."""
        rows = np.asarray(inputs["ids"], np.int64)
        token = np.array([self._next(row) for row in rows], np.int64)
        logits = np.zeros((len(rows), self._words.size), np.float32)
        logits[np.arange(len(rows)), token] = 1.0
        return {"logits": logits, "token": token, "logprobs": np.stack([self._told(row) for row in rows])}

    def _next(self, row: Array) -> int:
        marks = np.flatnonzero(row == ASSISTANT)
        said = int((row[marks[-1] + 1 :] != PAD).sum()) if len(marks) else 0
        return self._answer[min(said, len(self._answer) - 1)]

    def _told(self, row: Array) -> Array:
        parts = [np.frombuffer(self._words.bytes_of[i], np.uint8) for i in row]
        logs = self._orders.logs(np.concatenate(parts))
        edges = np.cumsum([0, *map(len, parts)])
        sums = np.concatenate([[0.0], np.cumsum(logs)])
        return np.asarray(sums[edges[1:]] - sums[edges[:-1]], np.float32)


def _packed(text: Array, first: int, last: int) -> Array:
    """int64 (N,): at each byte the bytes from `first` to `last` before it as one number."""
    code = np.zeros(len(text), np.int64)
    for back in range(first, last - 1, -1):
        there = np.zeros(len(text), np.int64)
        there[back:] = text[: max(len(text) - back, 0)]
        code = code * 256 + there
    return code


def _found(keys: Array, values: Array, wanted: Array) -> Array:
    if not len(keys):
        return np.zeros(len(wanted))
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
