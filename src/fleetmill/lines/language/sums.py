"""Sums as GSM8K's calculator writes them, ``<<48/2=24>>``, and what they truly come to: a parser, no `eval`."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 40  # characters of an expression
_NOTE = re.compile(r"<<([^<>=]{1,40})=([^<>=]{1,24})>>")
_PART = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|[-+*/()])")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
_CLOSE = Fraction(1, 100)  # half a cent up or down: people round
_LARGEST = Fraction(10**12)


def sums(text: str) -> list[tuple[str, str]]:
    """Each (expression, result as it is written) in `text` that is a true sum.

    >>> sums("so 48/2 = <<48/2=24>>24, and <<7=7>>7, <<1+1=3>>3")
    [('48/2', '24')]
    """
    found = []
    for expression, result in _NOTE.findall(text):
        value = worth(expression)
        if value is not None and any(sign in expression[1:] for sign in "+-*/") and is_right(result, value):
            found.append((expression.replace(" ", ""), result.strip()))
    return found


def worth(expression: str) -> Fraction | None:
    """What an expression comes to, exactly; None: it is none, is too large, or divides by nought.

    >>> worth("(2/3)*105")
    Fraction(70, 1)
    """
    parts, at = [], 0
    while at < len(expression.rstrip()):
        part = _PART.match(expression, at)
        if part is None:
            return None
        parts.append(part[1])
        at = part.end()
    if not parts or len(expression) > LONGEST:
        return None
    try:
        value = _sum(parts)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return value if not parts and abs(value) < _LARGEST else None


def is_right(said: str, truth: Fraction) -> bool:
    """Whether what somebody wrote is `truth`, but for rounding to a cent.

    >>> is_right("33.33", Fraction(100, 3)), is_right("34", Fraction(100, 3))
    (True, False)
    """
    number = said.strip()
    return bool(_NUMBER.fullmatch(number)) and abs(Fraction(number) - truth) < _CLOSE


def _sum(parts: list[str]) -> Fraction:
    value = _product(parts)
    while parts and parts[0] in "+-":
        value = value + _product(parts) if parts.pop(0) == "+" else value - _product(parts)
    return value


def _product(parts: list[str]) -> Fraction:
    value = _single(parts)
    while parts and parts[0] in "*/":
        value = value * _single(parts) if parts.pop(0) == "*" else value / _single(parts)
    return value


def _single(parts: list[str]) -> Fraction:
    part = parts.pop(0)
    if part in "+-":
        return _single(parts) if part == "+" else -_single(parts)
    if part == "(":
        value = _sum(parts)
        if parts.pop(0) != ")":
            raise ValueError(part)
        return value
    return Fraction(part.rstrip("."))
