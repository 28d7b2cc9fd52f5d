"""Which blobs does a home need? Every one that a fact names, or that something names which a fact names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
LOOK_BYTES = 4096  # by which it is told whether a blob is a document


def named(text: str) -> set[str]:
    """Every SHA-256 that stands in `text`, whatever it stands for.

    >>> sorted(d[:4] for d in named('{"a":"' + "ab" * 32 + '","signature":"' + "cd" * 64 + '"}'))
    ['abab']
    """
    return set(_DIGEST.findall(text))


def needed(roots: Iterable[str], document: Callable[[str], str]) -> set[str]:
    """`roots` and every digest that can be reached from them through documents: manifests, findings, pages.

    `document` gives a blob's text; "" where it is none, or is not here.
    """
    found: set[str] = set()
    todo = set(roots)
    while todo:
        digest = todo.pop()
        found.add(digest)
        todo |= named(document(digest)) - found
    return found


def is_text(start: bytes) -> bool:
    """Whether a blob that starts so could be a document that names others: UTF-8 without a zero byte."""
    if b"\0" in start:
        return False
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4  # a character that was cut at the end
    return True
