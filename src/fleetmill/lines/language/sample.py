"""Made-up conversations for a first look: what somebody has, gets and gives away; bills; with the sums in the answer.

Nobody ever said this. What the line learns from it says that its parts work, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from fleetmill.lines.language.importing import CHATS
from fleetmill.lines.language.sums import worth

_SHOPS, _SESSIONS = 3, 24
_BILLS = 200  # sessions
_MOST, _TIMES = 60, 13  # numbers on a bill are below
_NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gwen", "Hal")
_THINGS = ("apples", "books", "cards", "eggs", "keys", "pens", "shells", "stamps")


def shops(seed: int) -> Mapping[str, bytes]:
    """Files as the importer ``chats`` reads them."""
    chance = np.random.default_rng(seed)
    return {f"shop-{n}.jsonl": b"".join(_chat(chance) for _ in range(CHATS * _SESSIONS)) for n in range(_SHOPS)}


def _chat(chance: np.random.Generator) -> bytes:
    name, thing = str(chance.choice(_NAMES)), str(chance.choice(_THINGS))
    many, more = sorted(int(n) for n in chance.integers(2, 60, size=2))
    if chance.random() < 0.5:
        asked, sum_of = f"{name} has {more} {thing} and buys {many} more.", f"{more}+{many}={more + many}"
    else:
        asked, sum_of = f"{name} has {more} {thing} and gives {many} away.", f"{more}-{many}={more - many}"
    said = f"{name} has <<{sum_of}>>{sum_of.partition('=')[2]} {thing}."
    return json.dumps({"question": f"{asked} How many {thing} does {name} have?", "answer": said}).encode() + b"\n"


def bills(seed: int) -> Mapping[str, bytes]:
    """Bills with three sums each, in sessions of `CHATS`: what the demo's people ask about."""
    chance = np.random.default_rng(seed)
    return {"bills.jsonl": b"".join(_bill(chance) for _ in range(CHATS * _BILLS))}


def _bill(chance: np.random.Generator) -> bytes:
    name, thing = str(chance.choice(_NAMES)), str(chance.choice(_THINGS))
    notes = " ".join(f"<<{expression}={worth(expression)}>>" for expression in (_sum(chance) for _ in range(3)))
    return json.dumps({"question": f"What does {name} pay for the {thing}?", "answer": notes}).encode() + b"\n"


def _sum(chance: np.random.Generator) -> str:
    """A sum as it stands on a small bill: to add, to take away, so many of, shared among."""
    kind = chance.random()
    less, more = sorted(int(n) for n in chance.integers(2, _MOST, size=2))
    one, other = (int(n) for n in chance.integers(2, _TIMES, size=2))
    if kind < 0.35:
        return f"{more}+{less}" if chance.random() < 0.5 else f"{less}+{more}"
    if kind < 0.65:
        return f"{more}-{less}"
    return f"{one}*{other}" if kind < 0.9 else f"{one * other}/{one}"
