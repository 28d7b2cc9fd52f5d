"""Answers in pieces (server-sent events) and how one that broke off goes on at another server. Pure: bytes in and out.

Only whole events go to a client, as the bytes that they are (`said`). They are read as JSON in one case alone: the
server died, and another must know what was said so far. What the second server says is then written anew under the
first one's id, and the last event states it. Nothing is ever ended that did not end: without ``[DONE]`` there is no
``[DONE]``.

Source of the way on: `continue_final_message`, as vLLM, SGLang and llama.cpp take it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
MOST_KEPT = 8 * 1024 * 1024  # bytes of an answer that are kept for going on; a longer one cannot
_END = re.compile(rb"\r?\n\r?\n")
_USAGE = re.compile(rb'"(prompt|completion)_tokens"\s*:\s*(\d+)')
_HEAD = ("id", "created", "model", "object")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """What was said until it broke off."""

    text: str
    events: int  # events with text: about as many tokens
    head: Mapping[str, Any]  # id, created and model of the first event
    is_finished: bool  # it was whole but for its end
    can_go_on: bool  # False: something beside text was said (a tool call, log probabilities, more than one answer)


def spoken(events: bytes) -> Spoken:
    """Read what one answer said so far, of `/v1/chat/completions` or `/v1/completions`."""
    text: list[str] = []
    head: dict[str, Any] = {}
    number, finished, plain = 0, False, True
    for event in read(events):
        if not head:
            head = {name: value for name, value in event.items() if name in _HEAD}
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            said = delta.get("content") if delta else choice.get("text")
            beside = [n for n, v in delta.items() if v and n not in ("content", "role")]
            plain = plain and not beside and choice.get("index", 0) == 0 and not choice.get("logprobs")
            finished = finished or bool(choice.get("finish_reason"))
            if said:
                text.append(said)
                number += 1
    return Spoken(text="".join(text), events=number, head=head, is_finished=finished, can_go_on=plain)


def read(events: bytes) -> Iterator[dict[str, Any]]:
    """The JSON of each event; what is none (a comment, ``[DONE]``) is passed over."""
    for event in _END.split(events):
        for line in event.splitlines():
            if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                found = orjson.loads(data)
                if isinstance(found, dict):
                    yield found


def can_resume(asked: Mapping[str, Any]) -> bool:
    """Whether an answer to this request could be gone on with elsewhere at all."""
    several = asked.get("n", 1) not in (None, 1) or asked.get("best_of", 1) not in (None, 1)
    bound = asked.get("logprobs") or asked.get("response_format") or asked.get("grammar") or asked.get("tools")
    return not several and not bound and not asked.get("echo")


def going_on(asked: Mapping[str, Any], so_far: Spoken) -> bytes:
    """The request to the next server: what was said so far is the beginning of the answer."""
    body = dict(asked)
    for name in ("max_tokens", "max_completion_tokens", "n_predict"):
        if isinstance(body.get(name), int):
            body[name] = max(1, body[name] - so_far.events)
    if "messages" in body:
        if so_far.text:
            body["messages"] = [*body["messages"], {"role": "assistant", "content": so_far.text}]
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    else:
        body["prompt"] = f"{body.get('prompt', '')}{so_far.text}"
    return orjson.dumps(body)


class Rewriter:
    """Events of a later server as if the first one had gone on; the last of them says how often it broke off."""

    def __init__(self, head: Mapping[str, Any], *, resumed: int, events: int) -> None:
        self._head, self._resumed, self._before = head, resumed, events
        self.ended = False

    def rewrite(self, events: bytes) -> bytes:
        """Whole events in, whole events out; ``[DONE]`` stays."""
        made = [self._event(event) for event in read(events)]
        return b"".join(made) + (DONE if b"data: [DONE]" in events else b"")

    def _event(self, event: dict[str, Any]) -> bytes:
        event |= self._head
        tells = bool(event.get("usage"))
        for choice in event.get("choices") or ():
            if isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
            if choice.get("finish_reason"):
                self.ended = tells = True
            tells = tells or bool((choice.get("delta") or {}).get("content")) or bool(choice.get("text"))
        if usage := event.get("usage"):
            usage["completion_tokens"] = int(usage.get("completion_tokens") or 0) + self._before
        if not tells:
            return b""
        if self.ended:
            event["fleetmill"] = {"resumed": self._resumed}
        return b"data: " + orjson.dumps(event) + b"\n\n"


def broken_off(message: str) -> bytes:
    """The event that says that the answer is not whole; no ``[DONE]`` follows it."""
    error = {"message": message, "type": "server_error", "code": "broken_off"}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def usage(tail: bytes, *, events: int = 0, tokens_in: int = 0) -> tuple[int, int]:
    """(tokens read, tokens written) as the server says in the last of an answer's bytes, else as was counted."""
    at = tail.find(b'"usage"', max(len(tail) - 4096, 0))
    if at < 0:
        return tokens_in, events
    found = {name: int(number) for name, number in _USAGE.findall(tail, at)}
    return found.get(b"prompt", tokens_in), found.get(b"completion", events)
