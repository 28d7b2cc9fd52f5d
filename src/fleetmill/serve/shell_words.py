"""What the shell around an engine reads and says: the OpenAI API's requests, answers and pieces. Pure.

What an engine here cannot do is refused by its name, never passed over: tools, log probabilities, several answers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from fleetmill.core.errors import InvalidInputError
from fleetmill.engines.genai import MOST_TOKENS, Answer, Chance, Genai
from fleetmill.serve.stream import CHAT

_CANNOT = ("tools", "functions", "logprobs", "top_logprobs", "response_format", "grammar", "logit_bias", "echo")
_MOST_STOPS = 4
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request, understood."""

    path: str
    ids: list[int] = field(repr=False)
    most: int
    chance: Chance
    stops: tuple[str, ...] = field(repr=False)
    streams: bool
    tells_usage: bool
    tells_ids: bool
    id: str
    created: int  # seconds since 1970
    model: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain by now, with the ids that made it."""

    text: str = field(repr=False)
    ids: tuple[int, ...] = field(repr=False)


class Held:
    """Text on its way out: what may be the beginning of a stop word waits, and its ids with it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._text, self._ids = "", list[int]()
        self.stopped = False

    def take(self, token: int, text: str) -> Piece:
        """What is certain with this token."""
        self._text += text
        self._ids.append(token)
        places = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        if places:
            self.stopped = True
            self._text = self._text[: min(places)]
            return self.rest()
        waits = [n for stop in self._stops for n in range(1, len(stop)) if self._text.endswith(stop[:n])]
        if not waits:
            return self.rest()
        size = len(self._text) - max(waits)
        piece, self._text = Piece(self._text[:size], ()), self._text[size:]
        return piece

    def rest(self) -> Piece:
        """All that waits."""
        piece = Piece(self._text, tuple(self._ids))
        self._text, self._ids = "", []
        return piece


def understood(path: str, body: bytes, model: Genai, name: str) -> Asked:
    """A request's body.

    Raises:
        InvalidInputError: it cannot be read or done; the text says what, and nothing of what was asked.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise InvalidInputError("the body must be a JSON object")
    cannot = [what for what in _CANNOT if found.get(what)]
    if cannot or found.get("n", 1) not in (None, 1) or found.get("best_of", 1) not in (None, 1):
        raise InvalidInputError(f"this engine cannot do: {', '.join(cannot) or 'several answers'}")
    ids = _chat(found, model) if path == CHAT else _prompt(found.get("prompt", ""), model)
    if len(ids) >= model.context:
        raise InvalidInputError(f"{len(ids)} tokens were given, the model's context is {model.context}")
    named = "max_completion_tokens" if found.get("max_completion_tokens") is not None else "max_tokens"
    seed, options = found.get("seed"), found.get("stream_options")
    return Asked(
        path=path,
        ids=ids,
        most=int(_number(found, named, MOST_TOKENS, 1, 10**9)),
        chance=Chance(
            temperature=_number(found, "temperature", 0.0, 0.0, 100.0),
            top_p=_number(found, "top_p", 1.0, 0.0, 1.0),
            top_k=int(_number(found, "top_k", 0, 0, 10**6)),
            seed=seed if isinstance(seed, int) else None,
        ),
        stops=_stops(found.get("stop")),
        streams=bool(found.get("stream")),
        tells_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        tells_ids=bool(found.get("return_token_ids")),
        id=f"{'chatcmpl' if path == CHAT else 'cmpl'}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=name,
    )


def whole(asked: Asked, text: str, done: Answer) -> bytes:
    """An answer that was not asked for in pieces."""
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if asked.path == CHAT else {"text": text}
    said |= {"token_ids": done.ids} if asked.tells_ids else {}
    more = {"prompt_token_ids": asked.ids} if asked.tells_ids else {}
    choice = {"index": 0, **said, "finish_reason": _ended(done)}
    return orjson.dumps(_head(asked, "") | {"choices": [choice], "usage": _usage(asked, done)} | more)


def begun(asked: Asked) -> bytes:
    """The first event of a chat."""
    return _event(asked, {"delta": {"role": "assistant", "content": ""}, "finish_reason": None})


def piece(asked: Asked, part: Piece) -> bytes:
    """An event with text."""
    said: dict[str, Any] = {"delta": {"content": part.text}} if asked.path == CHAT else {"text": part.text}
    said |= {"token_ids": part.ids} if asked.tells_ids else {}
    return _event(asked, {**said, "finish_reason": None})


def ended(asked: Asked, done: Answer) -> bytes:
    """The last events but ``[DONE]``."""
    said: dict[str, Any] = {"delta": {}} if asked.path == CHAT else {"text": ""}
    last = _event(asked, {**said, "finish_reason": _ended(done)})
    if not asked.tells_usage:
        return last
    return (
        last
        + b"data: "
        + orjson.dumps(_head(asked, ".chunk") | {"choices": [], "usage": _usage(asked, done)})
        + b"\n\n"
    )


def _event(asked: Asked, choice: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(_head(asked, ".chunk") | {"choices": [{"index": 0, **choice}]}) + b"\n\n"


def _head(asked: Asked, chunk: str) -> dict[str, Any]:
    kind = f"chat.completion{chunk}" if asked.path == CHAT else "text_completion"
    return {"id": asked.id, "object": kind, "created": asked.created, "model": asked.model}


def _usage(asked: Asked, done: Answer) -> dict[str, int]:
    read, written = len(asked.ids), len(done.ids)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _ended(done: Answer) -> str:
    return "length" if done.ended == "length" else "stop"


def _chat(found: Mapping[str, Any], model: Genai) -> list[int]:
    messages: Any = found.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidInputError("messages must be a list of objects with role and content")
    said = [_message(message) for message in messages]
    goes_on = bool(found.get("continue_final_message"))
    if goes_on and (found.get("add_generation_prompt") or said[-1]["role"] != "assistant"):
        raise InvalidInputError("continue_final_message goes on with an assistant's message, no add_generation_prompt")
    return model.ids_of_chat(said, goes_on=goes_on)


def _message(message: object) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(p["text"] for p in content)
    if role not in _ROLES or not isinstance(content, str):
        raise InvalidInputError(f"a message must have a role ({', '.join(_ROLES)}) and content that is text")
    return {"role": role, "content": content}


def _prompt(prompt: object, model: Genai) -> list[int]:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return model.ids_of(prompt)
    if isinstance(prompt, list) and prompt and all(type(i) is int and 0 <= i < model.vocabulary for i in prompt):
        return prompt
    raise InvalidInputError("prompt must be text or a list of token ids, and only one")


def _number(found: Mapping[str, Any], name: str, usual: float, least: float, most: float) -> float:
    value = found.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InvalidInputError(f"{name} must be a number from {least:g} to {most:g}")
    return value


def _stops(stop: object) -> tuple[str, ...]:
    found = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(found, list) or len(found) > _MOST_STOPS or not all(isinstance(s, str) and s for s in found):
        raise InvalidInputError(f"stop must be text, or up to {_MOST_STOPS} of them")
    return tuple(found)
