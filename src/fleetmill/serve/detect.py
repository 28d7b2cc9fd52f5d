"""Detectors: patterns that raise a label where content looks personal. They find much and miss much.

A detector never lowers a label, and its silence proves nothing: labels come from people and tenants, detectors come on
top. Their matches are counted by name only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Label

_EMAIL = re.compile(rb"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_IBAN = re.compile(rb"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b")
_CARD = re.compile(rb"(?<!\d)(?:\d[ -]?){13,19}(?!\d)")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----|\b(?:sk|fm|ghp|xox[abp])[-_][A-Za-z0-9_-]{16,}")


def _card(content: bytes) -> bool:
    """A number of 13 to 19 digits whose check digit is right (Luhn, ISO/IEC 7812-1)."""
    return any(_luhn(re.sub(rb"\D", b"", found)) for found in _CARD.findall(content))


def _luhn(digits: bytes) -> bool:
    doubled = [int(d) * (1 + at % 2) for at, d in enumerate(digits.decode()[::-1])]
    return len(digits) >= 13 and sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


DETECTORS: dict[str, tuple[Callable[[bytes], bool], Label]] = {
    "email": (lambda content: _EMAIL.search(content) is not None, Label.PREMISES),
    "iban": (lambda content: _IBAN.search(content) is not None, Label.PREMISES),
    "card": (_card, Label.PREMISES),
    "secret": (lambda content: _KEY.search(content) is not None, Label.PREMISES),
}


def check(names: Sequence[str]) -> None:
    """Refuse what is no detector.

    Raises:
        InvalidInputError: there is none of that name.
    """
    for name in names:
        if name not in DETECTORS:
            raise InvalidInputError(f"detector {name!r}: there is none; choose of {', '.join(sorted(DETECTORS))}")


def found(names: Sequence[str], content: bytes) -> list[Label]:
    """The labels that the named detectors ask for."""
    return [label for name in names for sees, label in (DETECTORS[name],) if sees(content)]
