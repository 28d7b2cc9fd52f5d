"""Importers: ``chats`` (lines of JSON) and ``texts`` (plain text).

``chats`` takes GSM8K's ``{"question": ..., "answer": ...}`` and ``{"messages": [{"role": ..., "content": ...}]}``, one
conversation a line; 32 of them are a session. ``texts`` takes .txt and .md; 16 KiB are a session. Licences and notes on
a source that lie beside them are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Files, Foreign, Importer
from fleetmill.lines.language.conversations import (
    ASSISTANT_SAYS,
    PERIOD_NS,
    PIECE,
    PLAIN,
    SYSTEM_SAYS,
    USER_SAYS,
    Conversation,
    Turn,
    messages,
)

EPOCH_NS = 946_684_800_000_000_000  # 2000-01-01: a text has no date
CHATS, ROWS = 32, 64  # conversations and pieces of text that are a session
_SPACE_NS = 10_000 * PERIOD_NS  # from one session to the next: no session lasts as long
_ROLES = {"system": SYSTEM_SAYS, "user": USER_SAYS, "assistant": ASSISTANT_SAYS}
_BESIDE = ("license", "licence", "source", "readme", "notice")
_TEXTS, _CHATS = (".txt", ".md"), (".jsonl", ".ndjson")
_LONGEST = 1_000_000  # bytes of a conversation


def read_chats(files: Files) -> Iterator[Foreign]:
    """Every conversation of every file.

    Raises:
        InvalidInputError: a line that is no conversation.
    """
    for name in _named(files, _CHATS):
        found = [chat for number, line in _lines(files, name) for chat in [_chat(line, f"{name} line {number}")]]
        yield from _sessions(name, [found[at : at + CHATS] for at in range(0, len(found), CHATS)])


def read_texts(files: Files) -> Iterator[Foreign]:
    """Every text, in sessions of 16 KiB.

    Raises:
        InvalidInputError: a file that is no UTF-8.
    """
    for name in _named(files, _TEXTS):
        said = [part for part in _parts(_text(files, name).encode(), PIECE * ROWS) if part.strip()]
        yield from _sessions(name, [[(Turn(role=PLAIN, text=part),)] for part in said])


def _parts(data: bytes, size: int) -> Iterator[str]:
    """UTF-8 in parts of at most `size` bytes, no letter in two."""
    at = 0
    while at < len(data):
        end = min(at + size, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # a byte that goes on with a letter
            end -= 1
        yield data[at:end].decode()
        at = end


def _sessions(name: str, found: Sequence[Sequence[Conversation]]) -> Iterator[Foreign]:
    for number, part in enumerate(found):
        yield Foreign(
            device=_device(name),
            session=f"part-{number:05d}",
            time_base="none",
            tags={},
            messages=messages(part, start_ns=EPOCH_NS + number * _SPACE_NS),
        )


def _lines(files: Files, name: str) -> Iterator[tuple[int, str]]:
    text = _text(files, name)
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _chat(line: str, where: str) -> Conversation:
    if len(line) > _LONGEST:
        raise InvalidInputError(f"{where}: a conversation of {len(line)} characters. Split it")
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where}: must be JSON ({error}). Repair the line") from None
    if isinstance(found, dict) and "question" in found:
        said: Any = [("user", found["question"]), ("assistant", found.get("answer"))]
    elif isinstance(found, dict) and isinstance(found.get("messages"), list):
        said = [(m.get("role"), m.get("content")) if isinstance(m, dict) else (None, None) for m in found["messages"]]
    else:
        said = []
    if not said or not all(isinstance(role, str) and role in _ROLES and isinstance(text, str) for role, text in said):
        raise InvalidInputError(
            f'{where}: must hold "question" and "answer", or "messages" with "role" ({", ".join(_ROLES)}) and '
            '"content". Repair the line'
        )
    return tuple(Turn(role=_ROLES[role], text=text.encode("utf-8", "replace").decode()) for role, text in said)


def _text(files: Files, name: str) -> str:
    try:
        return files.read(name).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name}: must be UTF-8 ({error}). Convert it") from None


def _named(files: Files, endings: tuple[str, ...]) -> list[str]:
    found = [name for name in files.names() if name.lower().endswith(endings)]
    return [name for name in found if not name.rpartition("/")[2].lower().startswith(_BESIDE)]


def _device(name: str) -> str:
    """The file's name as a device may be called."""
    stem = name.rpartition("/")[2].rpartition(".")[0].lower()
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in stem).strip("-")[:40] or "text"


chats = Importer(name="chats", detects=lambda files: bool(_named(files, _CHATS)), read=read_chats)
texts = Importer(
    name="texts",
    detects=lambda files: bool(_named(files, _TEXTS)) and not _named(files, _CHATS),
    read=read_texts,
)
