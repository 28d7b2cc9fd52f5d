"""A question put to a device: its own model answers, or a gateway does. The rule beside this hand is `asking_rule`.

Nothing of what is said goes into a log or an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from fleetmill.core.errors import EngineError, FleetmillError, InvalidInputError, TrustError, UnavailableError
from fleetmill.core.line import Policy
from fleetmill.core.serve import Tier, reach
from fleetmill.core.talk import Limits, Said, Source, Talk
from fleetmill.device.asking_rule import Permit, way
from fleetmill.device.speaking import Spoken, speak

_CHAT, _MODELS = "/v1/chat/completions", "/v1/models"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came of a question. `source` None: nobody answered, and `why` says so."""

    text: str
    source: Source | None
    why: str  # it was handed on, or was not
    model: str  # digest of the device's own model; "": it has none


@dataclass(kw_only=True, slots=True)
class Gateway:
    """An endpoint with an OpenAI API that knows labels and tiers, as `fleetmill serve` is."""

    client: httpx.Client  # based at its address
    key: str
    model: str  # as it is called there
    _farthest: Tier | None = field(default=None)

    def ask(self, said: Sequence[Said], limits: Limits, permit: Permit) -> tuple[str, Tier, bool]:
        """(answer, tier that gave it, whether its terms let us learn from it).

        Who does not say which tier answered is taken for the farthest one that could have been; who does not say that
        an answer may teach has not allowed it.

        Raises:
            UnavailableError: it did not answer, or refused for now.
            InvalidInputError: it refused.
            TrustError: it sent the question farther than its label reaches.
        """
        body = {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.text} for turn in said],
            "max_tokens": limits.tokens,
            "temperature": 0,
        }
        headers = {"x-fleetmill-label": permit.label.name.lower()}
        if permit.consent:
            headers["x-fleetmill-consent"] = "partner"
        answer = self._send("POST", _CHAT, headers=headers, json=body)
        tier = self._tier(answer.headers)
        if tier > reach(permit.label):
            raise TrustError(
                f"gateway: a {tier.name.lower()} answered what carries the label {permit.label.name.lower()}. "
                "Do not use this gateway"
            )
        try:
            text = str(answer.json()["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError):
            raise UnavailableError("gateway: its answer is none of the OpenAI API's") from None
        return text, tier, answer.headers.get("x-fleetmill-may-train") == "true"

    def _tier(self, headers: Mapping[str, str]) -> Tier:
        name = headers.get("x-fleetmill-tier", "").upper()
        if name in Tier.__members__:
            return Tier[name]
        if self._farthest is None:
            listed: list[Any] = self._send("GET", _MODELS).json().get("data", [])
            tiers = [str(t).upper() for m in listed if m.get("id") == self.model for t in m.get("tiers", [])]
            self._farthest = max((Tier[t] for t in tiers if t in Tier.__members__), default=Tier.PARTNER)
        return self._farthest

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        try:
            answer = self.client.request(method, path, headers=headers, **more)
        except httpx.HTTPError as error:
            raise UnavailableError(f"gateway: did not answer ({type(error).__name__})") from None
        if answer.status_code == httpx.codes.OK:
            return answer
        said = f"gateway: status {answer.status_code}{_code(answer)}"
        raise (
            UnavailableError(said)
            if answer.status_code >= 500 or answer.status_code == 429
            else InvalidInputError(f"{said}. Look at key, model and label")
        )


@dataclass(kw_only=True, slots=True)
class Desk:
    """Where questions are put. What runs is told to it: `runs`."""

    talk: Talk
    permit: Permit = field(default_factory=Permit)
    gateway: Gateway | None = None
    limits: Limits | None = None  # None: nothing runs, and the line's own hold
    policy: Policy | None = None
    model: str = ""

    def runs(self, policy: Policy, model: str, limits: Limits | None) -> None:
        """The device's own model is this one from now on, with the limits that were signed with it."""
        self.policy, self.model, self.limits = policy, model, limits

    def answer(self, said: Sequence[Said]) -> Reply:
        """Answer the last turn of a conversation, here or elsewhere; see `asking_rule.way`.

        Raises:
            TrustError: the gateway did what the label forbids.
        """
        limits, own, fault = self.limits or self.talk.limits, None, ""
        if self.policy is not None:
            try:
                own = speak(self.talk, self.policy, said, limits)
            except (InvalidInputError, EngineError) as error:  # too long for it, say: a larger one may do
                fault = str(error)
        found = way(own.sure if own else None, limits, self.permit, has_gateway=self.gateway is not None, fault=fault)
        if not found.hand_on or self.gateway is None:
            return self._own(own, found.why)
        try:
            text, tier, may_train = self.gateway.ask(said, limits, self.permit)
        except TrustError:
            raise
        except FleetmillError as error:
            return self._own(own, f"{found.why}; {error}")
        source = Source(tier=tier, may_train=may_train, sure=own.sure if own else float("nan"))
        return Reply(text=text, source=source, why=found.why, model=self.model)

    def _own(self, own: Spoken | None, why: str) -> Reply:
        if own is None:
            return Reply(text="", source=None, why=why, model="")
        source = Source(tier=Tier.DEVICE, may_train=False, sure=own.sure)
        return Reply(text=own.text, source=source, why=why, model=self.model)


def _code(answer: httpx.Response) -> str:
    """The error's code as the OpenAI API gives it: a word, no content."""
    try:
        return f" ({answer.json()['error']['code']})"
    except (ValueError, LookupError, TypeError):
        return ""
