"""What a request asks for, read once: model, bounds, label. Errors say what is wrong and never what was sent."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from fleetmill.core.serve import Ask, Label, highest
from fleetmill.serve import detect
from fleetmill.serve.http import Request
from fleetmill.serve.policy import Refusal, is_stored, raised
from fleetmill.serve.words import Tenant

WANTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}
_WANTS = {path: frozenset({kind}) for path, kind in WANTS.items()}
_WANTS_TOOLS = {path: frozenset({kind, "tools"}) for path, kind in WANTS.items()}
_CONVERSATIONS = 100_000
_DEFAULT_TOKENS = 1024
_MOST = ("max_completion_tokens", "max_tokens", "max_output_tokens")  # the last is that of `/v1/responses`
_MOST_PREFIX = 256 * 1024  # bytes of a prompt that are looked at for what a server may have read before


@dataclass(slots=True)
class Job:
    """One request on its way."""

    id: str
    path: str
    ask: Ask
    body: bytes = field(repr=False)
    asked: Mapping[str, Any] = field(repr=False)
    is_stream: bool
    is_stored: bool  # the server keeps the answer: it is asked once
    tried: set[str] = field(default_factory=set)  # servers
    outrun: set[str] = field(default_factory=set)  # of these those that did not fail: another was faster
    busy: Refusal | None = None  # what servers said that take no more for now
    resumed: int = 0
    until: float = 0.0  # its first token must be there by then, on the relay's clock


class Conversations:
    """The highest label that each conversation has had: it never comes down again."""

    def __init__(self) -> None:
        self._labels: OrderedDict[tuple[str, str], Label] = OrderedDict()

    def label(self, tenant: Tenant, talk: str, given: Label) -> Label:
        """What a request of this conversation carries; "" is none."""
        if not talk:
            return given
        place = (tenant.name, talk)
        label = max(given, self._labels.get(place, given))
        self._labels[place] = label
        self._labels.move_to_end(place)
        if len(self._labels) > _CONVERSATIONS:
            self._labels.popitem(last=False)
        return label


def read_job(request: Request, tenant: Tenant, key: str, talks: Conversations) -> Job:
    """The request as a job; `key`: the digest of its API key.

    Raises:
        ValueError: it cannot be asked so; one sentence.
    """
    try:
        asked = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        raise ValueError("the body is no JSON") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("model"), str):
        raise ValueError('the body must be a JSON object with "model"')
    most = next((asked[n] for n in _MOST if asked.get(n) is not None), None)
    if most is not None and (not isinstance(most, int) or most < 1):
        raise ValueError("max_tokens must be a whole number above 0")
    is_stream = asked.get("stream") is True
    ask = Ask(
        tenant=tenant.name,
        key=key,
        model=asked["model"],
        label=_label(request, tenant, talks),
        wants=_wants(request.path, asked),
        tokens_in=len(request.body) // 3,
        tokens_in_most=len(request.body),  # a token is at least a byte
        tokens_most=(most or _DEFAULT_TOKENS) * _answers(asked),
        seconds=_seconds(request.headers.get(b"x-fleetmill-deadline-ms")),
        consent=tenant.consent or request.headers.get(b"x-fleetmill-consent", b"") == b"partner",
        prefix=_prefix(tenant.name, request.body),
        at_once=not is_stream,
        priority=_priority(request.headers.get(b"x-fleetmill-priority")),
    )
    return Job(
        id=os.urandom(8).hex(),
        path=request.path,
        ask=ask,
        body=request.body,
        asked=asked,
        is_stream=is_stream,
        is_stored=is_stored(asked, request.path),
    )


def key_digest(request: Request) -> str:
    """SHA-256 of the API key; "": there is none."""
    scheme, _, key = request.headers.get(b"authorization", b"").partition(b" ")
    return hashlib.sha256(key.strip()).hexdigest() if scheme.lower() == b"bearer" else ""


def _label(request: Request, tenant: Tenant, talks: Conversations) -> Label:
    """The highest of the tenant's, the caller's and the conversation's, raised by the detectors."""
    said, talk = request.headers.get(b"x-fleetmill-label"), request.headers.get(b"x-fleetmill-conversation", b"")
    if not (said or talk or tenant.detectors):
        return tenant.label
    given = [tenant.label]
    if said:
        name = said.decode("ascii", "replace").upper()
        if name not in Label.__members__:
            choices = ", ".join(label.name.lower() for label in Label)
            raise ValueError(f"x-fleetmill-label must be one of {choices}")
        given.append(Label[name])
    label = raised(highest(*given), detect.found(tenant.detectors, request.body))
    return talks.label(tenant, talk.decode("ascii", "replace"), label)


def _prefix(tenant: str, body: bytes) -> tuple[str, ...]:
    """Salted digests of the prompt's first 1, 2, 4 ... KiB: equal beginnings of one tenant meet the same cache."""
    if len(body) < 1024:
        return ()
    found, made, at, size = [], hashlib.sha256(tenant.encode()), 0, 1024
    while size <= len(body) and size <= _MOST_PREFIX:
        made.update(body[at:size])
        found.append(made.hexdigest()[:16])
        at, size = size, size * 2
    return tuple(found)


def _priority(header: bytes | None) -> int:
    """A caller may let others go before; nobody may push in."""
    if header is None or header == b"normal":
        return 0
    if header != b"low":
        raise ValueError("x-fleetmill-priority must be low or normal")
    return -1


def _answers(asked: Mapping[str, Any]) -> int:
    """How many answers to one prompt."""
    if "n" not in asked and "best_of" not in asked:
        return 1
    found = [asked.get(name) for name in ("n", "best_of")]
    if any(n is not None and (type(n) is not int or not 1 <= n <= 128) for n in found):
        raise ValueError("n must be a whole number from 1 to 128")
    return max(n or 1 for n in found)


def _wants(path: str, asked: Mapping[str, Any]) -> frozenset[str]:
    return (_WANTS_TOOLS if asked.get("tools") or asked.get("functions") else _WANTS)[path]


def _seconds(header: bytes | None) -> float | None:
    if header is None:
        return None
    if not header.isdigit() or int(header) < 1:
        raise ValueError("x-fleetmill-deadline-ms must be a whole number of milliseconds")
    return int(header) / 1000.0
