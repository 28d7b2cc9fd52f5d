"""How well a model tells text it never saw, in bits per byte, and how many sums it gets right, by rule.

Of each session at most 12 parts of 256 ids are told and at most 32 sums asked. Bits are counted over bytes of text: the
marks between turns are given, and cost nothing. The baseline tells each byte by the two before it, and answers every
sum with the answer that is most frequent in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fleetmill.core.line import Array, Data, Episode, Metrics, Policy, Tally
from fleetmill.lines.language.conversations import Conversation, conversations, ids, is_own, padded, windows
from fleetmill.lines.language.orders import Counted
from fleetmill.lines.language.practice import pairs, told
from fleetmill.lines.language.sums import is_right, sums, worth
from fleetmill.lines.vocabulary import END, PAD, Vocabulary

ORDER = 2  # bytes that the baseline looks back
MOST_WINDOWS, MOST_SUMS, MOST_ANSWER = 12, 32, 12
_BATCH = 8
_SUMS = ("bits", "bytes", "sums", "right")


def score(policy: Policy, episode: Episode, *, words: Vocabulary) -> Tally:
    """The sums of one session; each part and each sum begins anew."""
    policy.reset()
    columns = episode.columns
    said = conversations(columns["text"], columns["role"], columns["first"])
    bits, size = told_bits(policy, said, words)
    known = list(dict.fromkeys(e for c in said for e, _ in [*(s for turn in c for s in sums(turn.text)), *pairs(c)]))
    known = known[:MOST_SUMS]
    said_to = answers(policy, known, words)[0]
    right = [is_right(text, truth) for text, truth in zip(said_to, map(worth, known)) if truth is not None]
    values = (bits, size, float(len(known)), float(sum(right)))
    return {name: np.array(value) for name, value in zip(_SUMS, values, strict=True)}


def metrics(tallies: Sequence[Tally]) -> Metrics:
    """Pooled ``bits_per_byte``, ``sums_right`` and ``sums_wrong``.

    ``sums_wrong`` is (wrong + 1) / (sums + 2), so that it can be compared where nobody asked a sum: 0.5. NaN from no
    bytes, and for ``sums_right`` from no sums.

    >>> one = {"bits": np.array(8.0), "bytes": np.array(4.0), "sums": np.array(2.0), "right": np.array(1.0)}
    >>> metrics([one])
    {'bits_per_byte': 2.0, 'sums_right': 0.5, 'sums_wrong': 0.5}
    """
    # sorted: a sum of floats must not depend on the order of the trials
    bits, size, asked, right = (float(sum(sorted(float(t[name]) for t in tallies))) for name in _SUMS)
    return {
        "bits_per_byte": bits / size if size else float("nan"),
        "sums_right": right / asked if asked else float("nan"),
        "sums_wrong": (asked - right + 1.0) / (asked + 2.0),
    }


def told_bits(
    policy: Policy, said: Sequence[Conversation], words: Vocabulary, *, most: int = MOST_WINDOWS
) -> tuple[float, float]:
    """(bits, bytes) of the first parts of some conversations."""
    rows, bits, size = windows(ids(said, words))[:most], 0.0, 0.0
    for at in range(0, len(rows), _BATCH):
        table = padded(rows[at : at + _BATCH])
        counted = words.widths[table] * (table != PAD)
        counted[:, 0] = 0.0
        told = np.asarray(policy.ask({"ids": table})["logprobs"], np.float64)
        bits -= float(told[counted > 0].sum() / np.log(2.0))
        size += float(counted.sum())
    return bits, size


def answers(policy: Policy, expressions: Sequence[str], words: Vocabulary) -> tuple[list[str], Array]:
    """(what is answered to each sum, likeliest id after likeliest id, and how likely (N,) the whole answer was)."""
    rows = [row[:-1] for row in ids([told(e, "") for e in expressions], words)]  # up to the mark of who answers
    starts, sure = [len(row) for row in rows], np.ones(len(rows))
    open_rows = list(range(len(rows)))
    for _ in range(MOST_ANSWER):
        if not open_rows:
            break
        answer = policy.ask({"ids": padded([rows[n] for n in open_rows])})
        likely = _likely(np.asarray(answer["logits"], np.float64))
        for n, token, p in zip(open_rows, np.asarray(answer["token"]), likely):
            rows[n].append(int(token))
            sure[n] *= p
        open_rows = [n for n in open_rows if rows[n][-1] not in (END, PAD)]
    return [words.decode(row[start:]) for row, start in zip(rows, starts)], sure


def _likely(logits: Array) -> Array:
    return np.asarray(1.0 / np.exp(logits - logits.max(1, keepdims=True)).sum(1))


def baseline(data: Data, *, words: Vocabulary) -> Policy:
    """What must be beaten: see `orders`."""
    said = everything(data.split("train"))
    text = "\n".join(turn.text for c in said for turn in c).encode()
    known = [result for c in said for _, result in [*(s for turn in c for s in sums(turn.text)), *pairs(c)]]
    return Counted(np.frombuffer(text, np.uint8), words.encode(known), ORDER, words)


class Episodes(Protocol):
    """Some episodes: a dataset's, or a part of them."""

    def __len__(self) -> int: ...
    def episode(self, index: int) -> Episode: ...


def everything(data: Episodes, *, teaches: bool = False) -> list[Conversation]:
    """Every conversation of some episodes; an episode's first row begins one.

    `teaches`: without those in which a device's own model answered. It does not teach itself.
    """
    found: list[Conversation] = []
    for number in range(len(data)):
        columns = data.episode(number).columns
        said = conversations(columns["text"], columns["role"], columns["first"])
        own = is_own(columns["role"], columns["first"], columns["tier"])
        found += [c for c, skip in zip(said, own, strict=True) if not (teaches and skip)]
    return [c for c in found if any(turn.text.strip() for turn in c)]
