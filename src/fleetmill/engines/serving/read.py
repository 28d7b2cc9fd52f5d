"""What several engines say in the same words: the OpenAI list of models, and counts in Prometheus' text format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Served

MODELS = "/v1/models"


def table(body: bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{what}: the answer is no JSON object. Is the address an engine's?")
    return found


def cards(body: bytes, what: str) -> list[dict[str, Any]]:
    """The entries of an answer to `GET /v1/models`.

    Raises:
        InvalidInputError: it lists no models.
    """
    data = table(body, what).get("data")
    found = [c for c in data if isinstance(c, dict) and isinstance(c.get("id"), str)] if isinstance(data, list) else []
    if not found:
        raise InvalidInputError(f"{what}: {MODELS} lists no model. Start the engine with one")
    return found


def served(
    answers: Mapping[str, bytes], *, engine: str, capabilities: frozenset[str], goes_on: bool
) -> dict[str, Served]:
    """Models by name as the list at `MODELS` has them; the context is `max_model_len` where an entry says it.

    Raises:
        InvalidInputError: there is no such list.
    """
    found = cards(answers.get(MODELS, b""), engine)
    return {
        card["id"]: Served(
            model=card["id"], capabilities=capabilities, context=whole(card.get("max_model_len")), goes_on=goes_on
        )
        for card in found
    }


def whole(value: object) -> int:
    """A number of tokens; 0 where none is said."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def samples(body: bytes, what: str) -> dict[str, list[float]]:
    """Every value by the name of its series, labels left out.

    Raises:
        InvalidInputError: this is no Prometheus text.
    """
    found: dict[str, list[float]] = {}
    try:
        for line in body.decode().splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                found.setdefault(series.partition("{")[0].strip(), []).append(float(value))
    except ValueError:
        raise InvalidInputError(f"{what}: its metrics are no Prometheus text") from None
    return found


def count(found: Mapping[str, list[float]], name: str, what: str) -> int:
    """The sum of a series.

    Raises:
        InvalidInputError: there is no such series.
    """
    if name not in found:
        raise InvalidInputError(f"{what}: its metrics have no {name}. Is it another version, or another engine?")
    return round(sum(found[name]))


def most(found: Mapping[str, list[float]], *names: str) -> float | None:
    """The highest value of the first of these series that there is."""
    return next((max(found[name]) for name in names if found.get(name)), None)
