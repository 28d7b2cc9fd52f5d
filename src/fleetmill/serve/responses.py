"""`/v1/responses` said as a chat, for engines that have no such path, and the answer said back. Pure.

What keeps state at the server (`previous_response_id`, `store`, `background`) is refused: nothing that is said is kept
here. What a chat cannot say is refused by its name, never passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PATH = "/v1/responses"
_SAME = ("model", "temperature", "top_p", "stream", "user", "parallel_tool_calls", "seed", "stop", "top_logprobs")
_MINE = ("input", "instructions", "max_output_tokens", "text", "tools", "tool_choice", "metadata", "store")
_NOTHING: Mapping[str, tuple[Any, ...]] = {  # what says nothing beyond what we do anyway
    "previous_response_id": (None,),
    "conversation": (None,),
    "background": (None, False),
    "include": (None, []),
    "truncation": (None, "disabled"),
    "reasoning": (None,),
    "service_tier": (None, "auto", "default"),
    "prompt": (None,),
    "stream_options": (None, {}, {"include_obfuscation": False}),
}


def to_chat(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the chat that asks the same.

    Raises:
        ValueError: a chat cannot ask that; one sentence, which names what and never what was said.
    """
    for name, value in asked.items():
        if name not in (*_SAME, *_MINE) and value not in _NOTHING.get(name, ()):
            raise ValueError(f"{name[:40]}: no server of this model has /v1/responses, and a chat cannot say that")
    if asked.get("store") is True:
        raise ValueError("store: nothing that is said is kept here. Leave it out, or set it to false")
    body = {name: asked[name] for name in _SAME if asked.get(name) is not None}
    told = [{"role": "system", "content": asked["instructions"]}] if asked.get("instructions") else []
    body["messages"] = [*told, *_messages(asked.get("input"))]
    if asked.get("max_output_tokens") is not None:
        body["max_tokens"] = asked["max_output_tokens"]
    if asked.get("tools"):
        body["tools"] = [_tool(t) for t in _things(asked["tools"], "tools")]
    if asked.get("tool_choice") is not None and asked.get("tools"):
        body["tool_choice"] = _choice(asked["tool_choice"])
    body |= _format(asked.get("text"))
    if body.get("stream"):
        body["stream_options"] = {"include_usage": True}
    return body


@dataclass(slots=True)
class Said:
    """What the answer came to."""

    id: str
    created: int
    asked: Mapping[str, Any] = field(repr=False)
    model: str = ""
    text: str = field(default="", repr=False)
    calls: list[dict[str, str]] = field(default_factory=list, repr=False)  # id, name, arguments
    usage: Mapping[str, Any] | None = None
    ended: str = ""  # the chat's finish_reason
    error: str = ""

    def response(self, status: str = "") -> dict[str, Any]:
        """The `response` object as it stands; `status`: as given, else as the answer ended."""
        cut = self.ended in ("length", "content_filter")
        asked = self.asked
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status or ("failed" if self.error else "incomplete" if cut else "completed"),
            "error": {"code": "server_error", "message": self.error} if self.error else None,
            "incomplete_details": {"reason": "max_output_tokens" if self.ended == "length" else self.ended}
            if cut
            else None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "model": self.model or asked.get("model"),
            "output": self.output(),
            "parallel_tool_calls": asked.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "store": False,
            "temperature": asked.get("temperature"),
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "top_p": asked.get("top_p"),
            "truncation": "disabled",
            "usage": _usage(self.usage),
            "metadata": asked.get("metadata") or {},
        }

    def output(self) -> list[dict[str, Any]]:
        """The items: the message, if anything was said, then calls of tools."""
        status = "incomplete" if self.ended == "length" or self.error else "completed"
        said = [self.message(status)] if self.text or not self.calls else []
        return [*said, *(self.call(n, status) for n in range(len(self.calls)))]

    def message(self, status: str) -> dict[str, Any]:
        """The item of what was said."""
        content = [] if status == "in_progress" else [part(self.text)]
        return {
            "id": f"msg_{self.id}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def call(self, number: int, status: str) -> dict[str, Any]:
        """The item of a tool's call."""
        call = self.calls[number]
        return {
            "id": f"fc_{self.id}_{number}",
            "type": "function_call",
            "status": status,
            "call_id": call["id"],
            "name": call["name"],
            "arguments": call["arguments"],
        }


def part(text: str) -> dict[str, Any]:
    """A message's part of text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def take_whole(said: Said, answer: Mapping[str, Any]) -> None:
    """Take in the chat's answer that came at once."""
    choice = (answer.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    said.model, said.usage = str(answer.get("model") or ""), answer.get("usage")
    said.text, said.ended = message.get("content") or "", choice.get("finish_reason") or ""
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        said.calls.append({"id": call.get("id", ""), **{n: function.get(n) or "" for n in ("name", "arguments")}})


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found: list[dict[str, Any]] = []
    for item in _things(given, "input"):
        kind = item.get("type", "message")
        if kind == "message" and item.get("role") in ("user", "assistant", "system", "developer"):
            role = "system" if item["role"] == "developer" else item["role"]
            found.append({"role": role, "content": _text(item.get("content"))})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if found and found[-1].get("tool_calls"):
                found[-1]["tool_calls"].append(call)
            else:
                found.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": _text(item.get("output"))})
        else:
            raise ValueError("input: only messages of text, calls of functions and their outputs can be said in a chat")
    return found


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = _things(content, "content")
    if any(p.get("type") not in ("input_text", "output_text", "text") for p in parts):
        raise ValueError("content: only text can be said in a chat here")
    return "".join(str(p.get("text", "")) for p in parts)


def _things(given: Any, what: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise ValueError(f"{what}: must be text, or a list of objects")
    return given


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise ValueError("tools: only functions can be said in a chat")
    function = {n: tool[n] for n in ("name", "description", "parameters", "strict") if tool.get(n) is not None}
    return {"type": "function", "function": function}


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if choice not in ("auto", "none", "required"):
        raise ValueError("tool_choice: must be auto, none, required or a function's name")
    return choice


def _format(text: Any) -> dict[str, Any]:
    found = text.get("format") if isinstance(text, dict) else None
    if text is not None and not isinstance(text, dict):
        raise ValueError("text: must be an object")
    if not isinstance(found, dict) or found.get("type") == "text":
        return {}
    if found.get("type") == "json_schema":
        schema = {n: found[n] for n in ("name", "schema", "strict", "description") if found.get(n) is not None}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"response_format": {"type": found.get("type")}}


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
