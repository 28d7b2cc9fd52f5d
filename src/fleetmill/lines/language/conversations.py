"""Conversations as rows of a recording and back: pieces of 256 bytes, and who says them.

A row is one piece of one turn; a turn that is longer goes on in the next row. Plain text is a conversation of one turn
that nobody says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core.line import Array, Episode, Message, Stretch
from fleetmill.core.talk import Role
from fleetmill.lines.ready import episode_of
from fleetmill.lines.vocabulary import ASSISTANT, END, PAD, SYSTEM, USER, Vocabulary

PIECE = 256  # bytes of a row
CONTEXT = 256  # ids that the model looks back over while it learns and is scored
PERIOD_NS = 1_000_000_000
PLAIN, SYSTEM_SAYS, USER_SAYS, ASSISTANT_SAYS = range(4)
MARK_OF = {SYSTEM_SAYS: SYSTEM, USER_SAYS: USER, ASSISTANT_SAYS: ASSISTANT}
ROLES: Mapping[Role, int] = {"system": SYSTEM_SAYS, "user": USER_SAYS, "assistant": ASSISTANT_SAYS}
OWN, OWNERS, PARTNERS = 0, 1, (2, 3)  # tiers: the device, own servers, and those of whom a contract decides
PARTNER_TERMS = "partner_terms"  # why a partner's answer is left out
ROW = ("text", "role", "first")
COLUMNS = (*ROW, "tier")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side said."""

    role: int
    text: str


Conversation = tuple[Turn, ...]


def messages(found: Sequence[Conversation], *, start_ns: int) -> Iterator[Message]:
    """Conversations one after another, a row a second from `start_ns` on."""
    row = 0
    for conversation in found:
        first = 1
        for turn in conversation:
            for values in rows_of(turn.role, turn.text):
                time_ns = start_ns + row * PERIOD_NS
                for topic, value in {**values, "first": np.asarray(first, np.uint8)}.items():
                    yield Message(topic=topic, log_time_ns=time_ns, publish_time_ns=time_ns, value={"data": value})
                row, first = row + 1, 0


def rows_of(role: int, text: str) -> list[dict[str, Array]]:
    """What one side says in pieces of 256 bytes, at least one: ``text`` and ``role`` of each."""
    data = np.frombuffer(text.encode("utf-8", "replace").replace(b"\0", b""), np.uint8)
    found = []
    for at in range(0, max(len(data), 1), PIECE):
        piece, part = np.zeros(PIECE, np.uint8), data[at : at + PIECE]
        piece[: len(part)] = part
        found.append({"text": piece, "role": np.asarray(role, np.uint8)})
    return found


def cut(stretch: Stretch) -> Iterator[Episode]:
    """The whole rows of a stretch, an episode for each run between parts that may not be learned from.

    A partner's answer (``tier`` 2 or 3) whose ``may_train`` is not 1 is left out with all the rest of its conversation:
    what is answered to it would tell of it. What nobody says who answered is the owner's.
    """
    rows = _rows(stretch)
    run: dict[int, dict[str, Array]] = {}
    for at, forbidden in _forbidden(rows):
        row = rows[at]
        if forbidden:
            yield from episode_of(stretch, run, COLUMNS, period_ns=PERIOD_NS)
            run = {}
        elif all(name in row for name in ROW):
            run[at] = {"tier": np.asarray(OWNERS, np.uint8), **row}
    yield from episode_of(stretch, run, COLUMNS, period_ns=PERIOD_NS)


def left_out(stretch: Stretch) -> Iterator[tuple[int, int, str]]:
    """[start, end) of each run of rows that a partner's terms forbid to learn from."""
    start: int | None = None
    last = 0
    for at, forbidden in _forbidden(_rows(stretch)):
        if start is not None and not forbidden:
            yield start, at, PARTNER_TERMS
        start = (at if start is None else start) if forbidden else None
        last = at
    if start is not None:
        yield start, last + PERIOD_NS, PARTNER_TERMS


def _rows(stretch: Stretch) -> dict[int, dict[str, Array]]:
    rows: dict[int, dict[str, Array]] = {}
    for message in stretch.messages:
        rows.setdefault(message.log_time_ns, {})[message.topic] = np.asarray(message.value.get("data", 0))
    return rows


def _forbidden(rows: Mapping[int, dict[str, Array]]) -> Iterator[tuple[int, bool]]:
    """Each instant, rising, and whether it may not be learned from. A row that is not whole ends nothing."""
    forbidden = False
    for at in sorted(rows):
        begins = bool(rows[at].get("first", np.zeros(())) == 1)
        forbidden = is_forbidden(rows[at]) or (forbidden and not begins)
        yield at, forbidden


def is_forbidden(row: Mapping[str, Array]) -> bool:
    """Whether a row is a partner's and its terms do not let us learn from it."""
    return int(row.get("tier", np.zeros(()))) in PARTNERS and not bool(row.get("may_train", np.zeros(())) == 1)


def is_own(role: Array, first: Array, tier: Array) -> list[bool]:
    """For each conversation of some rows, uint8 (T,) each, whether the device's own model answered in it."""
    if not len(role):
        return []
    number = np.maximum(np.cumsum(np.asarray(first, bool)) - int(bool(first[0])), 0)
    own = (np.asarray(role) == ASSISTANT_SAYS) & (np.asarray(tier) == OWN)
    return [bool(own[number == n].any()) for n in range(int(number[-1]) + 1)]


def conversations(text: Array, role: Array, first: Array) -> list[Conversation]:
    """The conversations of some rows: text uint8 (T, 256), role and first uint8 (T,)."""
    found: list[list[tuple[int, list[bytes]]]] = []
    for number in range(len(text)):
        who = int(role[number]) if int(role[number]) in MARK_OF else PLAIN
        if not found or first[number]:
            found.append([])
        if not found[-1] or found[-1][-1][0] != who:
            found[-1].append((who, []))
        found[-1][-1][1].append(np.asarray(text[number], np.uint8).tobytes().replace(b"\0", b""))
    return [
        tuple(Turn(role=who, text=b"".join(parts).decode("utf-8", "replace")) for who, parts in turns)
        for turns in found
    ]


def ids(found: Sequence[Conversation], words: Vocabulary) -> list[list[int]]:
    """Each conversation as the model reads it."""
    texts = iter(words.encode([turn.text for conversation in found for turn in conversation]))
    return [[i for turn in conversation for i in _said(turn, next(texts))] for conversation in found]


def question(text: str) -> Conversation:
    """What one asks, still without an answer."""
    return (Turn(role=USER_SAYS, text=text), Turn(role=ASSISTANT_SAYS, text=""))


def windows(found: Sequence[Sequence[int]]) -> list[list[int]]:
    """Parts of `CONTEXT` ids; each begins with the id that the one before ended with, so that each is told once."""
    step = CONTEXT - 1
    return [list(row[at : at + CONTEXT]) for row in found for at in range(0, max(len(row) - 1, 1), step)]


def padded(rows: Sequence[Sequence[int]]) -> Array:
    """int64 (B, longest): rows filled up at their ends."""
    table = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _said(turn: Turn, text: list[int]) -> list[int]:
    mark = MARK_OF.get(turn.role)
    return [END, *text] if mark is None else [mark, *text, END]
