"""What the gateway needs of its neighbours, and what it says in HTTP: tenants, purses, witnesses, errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from fleetmill.core.light import light
from fleetmill.core.serve import Label, Measure, Server, Tier
from fleetmill.serve.policy import Reason, Refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """Who pays, and what its content is worth."""

    name: str
    label: Label = Label.PREMISES  # of everything that it asks; a request can only raise it
    consent: bool = False  # to partners, for all its requests
    detectors: tuple[str, ...] = ()


class Keys(Protocol):
    """Who may ask."""

    def tenant(self, key: str) -> Tenant | None: ...  # by the digest of an API key


class Purse(Protocol):
    """Budgets: reserve the worst, then settle what it was. Never more than there is."""

    def left(self, tenant: str, key: str) -> Mapping[Measure, int] | None: ...  # None: nothing limits it
    async def reserve(self, tenant: str, key: str, worst: Mapping[Measure, int]) -> str | None: ...  # None: too little
    def settle(self, reservation: str, used: Mapping[Measure, int]) -> None: ...


@light(frozen=True, kw_only=True, slots=True)
class Sent:
    """That something was sent to a server, without what it was."""

    time_ns: int
    request: str
    tenant: str
    key: str
    label: Label
    tier: Tier
    server: str
    model: str  # its digest
    consent: bool
    tokens_in: int
    tokens_out: int
    used: Mapping[Measure, int]
    resumed: int  # how many servers broke off before this one
    outcome: str  # begun (before a byte is sent), then whole, broken, client_left, refused_by_server, busy


class Witness(Protocol):
    """Keeps what was sent where. Nothing is sent while it has a fault: what cannot be kept cannot be proven."""

    @property
    def fault(self) -> str: ...
    def saw(self, sent: Sent) -> None: ...


class Unlimited:
    """A purse without bottom, for a gateway without budgets."""

    def left(self, tenant: str, key: str) -> None:
        """Nothing limits it."""

    async def reserve(self, tenant: str, key: str, worst: Mapping[Measure, int]) -> str:  # noqa: ARG002
        """There is always enough."""
        return ""

    def settle(self, reservation: str, used: Mapping[Measure, int]) -> None:
        """Nobody counts."""


STATUS: Mapping[Reason, tuple[int, str]] = {
    Reason.NO_MODEL: (404, "model_not_found"),
    Reason.NOT_ALLOWED: (403, "not_allowed"),
    Reason.NO_CONSENT: (403, "no_consent"),
    Reason.CANNOT: (400, "cannot"),
    Reason.DOWN: (503, "down"),
    Reason.BUSY: (429, "busy"),
    Reason.LATE: (503, "late"),
    Reason.BUDGET: (429, "insufficient_quota"),
}


def error(message: str, *, kind: str, code: str) -> bytes:
    """An error as the OpenAI API words it."""
    return orjson.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}})


def refusal(found: Refusal) -> tuple[int, bytes, bytes]:
    """(status, body, further header lines) of a refusal."""
    status, code = STATUS[found.reason]
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    after = b"" if found.retry_seconds is None else b"retry-after: %d\r\n" % max(1, round(found.retry_seconds))
    return status, error(found.sentence, kind=kind, code=code), after


def models(servers: list[Server]) -> bytes:
    """The list of models for `GET /v1/models`."""
    found: dict[str, dict[str, Any]] = {}
    for server in servers:
        for name in server.models:
            entry = found.setdefault(name, {"id": name, "object": "model", "created": 0, "owned_by": "", "tiers": []})
            entry["owned_by"] = entry["owned_by"] or server.supplier or "owner"
            entry["tiers"] = sorted({*entry["tiers"], server.tier.name.lower()})
    return orjson.dumps({"object": "list", "data": [found[name] for name in sorted(found)]})
