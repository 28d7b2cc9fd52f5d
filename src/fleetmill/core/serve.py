"""Words of serving: how confidential a content is, how far away a server is, what is asked and who could answer.

Nothing here has a field for content: what people say to a model passes through, and is in no record, log or error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from fleetmill.core.light import light

Measure = Literal["requests", "tokens", "money", "energy"]
MEASURES: tuple[Measure, ...] = ("requests", "tokens", "money", "energy")  # money in 1e-6 of the unit; energy in joules


class Tier(IntEnum):
    """How far away a server is."""

    DEVICE = 0
    PREMISES = 1  # the owner's own servers
    ATTESTED = 2  # a partner whose software two independent vendors' roots vouch for
    PARTNER = 3


class Label(IntEnum):
    """How confidential a content is: the higher, the fewer tiers may see it."""

    OPEN = 0
    ATTESTED = 1  # at most an attested partner
    PREMISES = 2  # at most own servers
    DEVICE = 3  # this device alone


def reach(label: Label) -> Tier:
    """The farthest tier that content with this label may be sent to.

    >>> [reach(label).name for label in Label]
    ['PARTNER', 'ATTESTED', 'PREMISES', 'DEVICE']
    """
    return _REACH[label]


_REACH = tuple(Tier(Label.DEVICE - label) for label in Label)  # looked up: it is asked for each request


def highest(*labels: Label) -> Label:
    """The label of what carries several: the caller's, the tenant's, the conversation's, the detectors'.

    A detector can only raise what the others say.
    """
    return max(labels, default=Label.DEVICE)  # nobody said anything: it stays here


def may_send(label: Label, tier: Tier, *, consent: bool) -> bool:
    """The rule of egress: no farther than the label reaches, and to a partner only with consent."""
    return tier <= reach(label) and (consent or tier < Tier.ATTESTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What an answer costs: money in millionths of the owner's unit, energy in joules."""

    request: int = 0  # money per request
    tokens_in: int = 0  # money per million tokens read
    tokens_out: int = 0  # money per million tokens written
    joules_in: int = 0  # energy per million tokens read
    joules_out: int = 0

    def of(self, tokens_in: int, tokens_out: int) -> dict[Measure, int]:
        """What one request uses in each measure, rounded up: a price is never nothing by rounding."""
        money = self.tokens_in * tokens_in + self.tokens_out * tokens_out
        energy = self.joules_in * tokens_in + self.joules_out * tokens_out
        return {
            "requests": 1,
            "tokens": tokens_in + tokens_out,
            "money": self.request + -(-money // 1_000_000),
            "energy": -(-energy // 1_000_000),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A model at a server: equal digests mean that a broken answer can be gone on with elsewhere."""

    model: str  # digest of the model, or what the server calls its version
    template: str = ""  # digest of the chat template
    capabilities: frozenset[str] = frozenset({"chat", "completions"})
    context: int = 0  # tokens; 0: not known
    goes_on: bool = True  # takes a begun answer as the beginning of its own (`continue_final_message`)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How busy a server says that it is, whoever asked it."""

    running: int  # answers that it makes
    waiting: int = 0  # requests that wait in it
    cache_ratio: float | None = None  # of its memory for keys and values, 0 to 1; None: it does not say
    tokens: int | None = None  # written since it began; None: it does not say


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server of the pool, as `[[serve.backend]]` names it."""

    name: str
    tier: Tier
    engine: str  # of `engines/serving`: llama_server, vllm, ...
    address: str  # http://host:port, without the API's path
    models: Mapping[str, Served]
    supplier: str = ""
    hardware: str = ""
    capacity: int = 8  # requests at once
    price: Price = field(default_factory=Price)
    may_train: bool = False  # whether its answers may become training data: a partner's only with a contract
    contract: str = ""


@light(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a server stands now."""

    in_flight: int = 0
    limit: int | None = None  # requests at once as learned, at most its capacity; None: its capacity
    first_token_seconds: float = 0.1  # predicted for what is asked
    high_seconds: float = 0.5  # 19 of 20 first tokens come within this
    hit: float = 0.0  # share of the prompt that it has read before, as far as is known here
    token_seconds: float = 0.02  # per token, predicted
    is_ejected: bool = False  # it fails too often, or has become slow
    is_draining: bool = False

    def has_room(self, server: Server) -> bool:
        """Whether one more may be asked of it: nothing is to wait inside an engine."""
        return self.in_flight < (server.capacity if self.limit is None else min(self.limit, server.capacity))


@light(frozen=True, kw_only=True, slots=True)
class Ask:
    """A request without its content."""

    tenant: str
    key: str  # digest of the API key
    model: str
    label: Label
    wants: frozenset[str] = frozenset({"chat"})  # capabilities
    tokens_in: int = 0  # estimated
    tokens_in_most: int = 0  # that there can be: what is reserved
    tokens_most: int = 1024  # that may be written
    seconds: float | None = None  # until the first token at the latest
    at_once: bool = False  # the answer comes in one piece: its first byte is its last
    consent: bool = False  # to a partner
    prefix: tuple[str, ...] = ()  # salted digests of the prompt's first 1, 2, 4 ... KiB, longest last
    priority: int = 0  # the higher, the sooner
