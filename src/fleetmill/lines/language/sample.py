"""Made-up conversations for a first look: what somebody has, gets and gives away, with the sum in the answer.

Nobody ever said this. What the line learns from it says that its parts work, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from fleetmill.lines.language.importing import CHATS

_SHOPS, _SESSIONS = 3, 24
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
