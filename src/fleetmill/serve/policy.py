"""Who may answer, in which order, or why nobody: pure, total, without clock or socket.

Order of the questions: may it be sent there at all, can it do what is wanted, is it there, is it in time, is it paid
for. The first question is asked again at the socket (`egress`): what is decided here is advice, what is sent is a rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fleetmill.core.ids import sha256
from fleetmill.core.light import light
from fleetmill.core.serve import MEASURES, Ask, Label, Measure, Server, Standing, may_send, reach

_MORE_LOAD = 1.25  # times the mean of its tier: a favourite may carry that much


class Reason(str, Enum):
    """Why nobody is asked, in the order of the questions; what a client is told and what to do follow from it."""

    NO_MODEL = "no_model"
    NOT_ALLOWED = "not_allowed"  # the label reaches no server that has the model
    NO_CONSENT = "no_consent"  # a partner could, and nobody allowed it
    CANNOT = "cannot"  # no server that may be asked can do what is wanted
    DOWN = "down"
    BUSY = "busy"
    LATE = "late"  # nobody would be in time
    BUDGET = "budget"


RETRY = {Reason.DOWN: 2.0, Reason.BUSY: 1.0, Reason.LATE: 1.0}  # seconds after which it is worth to ask again


@light(frozen=True, kw_only=True, slots=True)
class Choice:
    """A server that may be asked, and what it would take."""

    server: Server
    first_token_seconds: float  # predicted, waiting included
    worst: Mapping[Measure, int]  # what is reserved before it is asked


@light(frozen=True, kw_only=True, slots=True)
class Plan:
    """Servers to ask, one after another; never empty."""

    choices: tuple[Choice, ...]
    hedge: str = ""  # a server no farther than the first that may be asked too when the first is slow; "": none
    hedge_seconds: float = 0.0  # after which the first is slow: 19 of 20 would have begun


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Nobody is asked."""

    reason: Reason
    sentence: str
    retry_seconds: float | None = None


def decide(
    ask: Ask, pool: Sequence[Server], standings: Mapping[str, Standing], left: Mapping[Measure, int] | None
) -> Plan | Refusal:
    """The servers of `pool` to ask in order, or a refusal with its reason.

    `left`: what the tenant's budget still allows in each measure; None: no budget is set. A server of which nothing is
    known (no standing) counts as down. The nearest tier comes first; within it see `_order`.
    """
    choices: list[Choice] = []
    stopped: list[Reason] = []
    for server in pool:
        found = _choice(ask, server, standings.get(server.name), left)
        if isinstance(found, Choice):
            choices.append(found)
        else:
            stopped.append(found)
    if not choices:
        return _refusal(ask, pool, stopped)
    if len(choices) == 1:
        return Plan(choices=tuple(choices))
    favourite = _favourite(ask, choices, standings)
    ordered = tuple(sorted(choices, key=lambda c: _order(c, standings[c.server.name], favourite)))
    first, *others = ordered
    hedge = next((c.server.name for c in others if c.server.tier <= first.server.tier), "")
    return Plan(choices=ordered, hedge=hedge, hedge_seconds=standings[first.server.name].high_seconds)


def answering(ask: Ask, pool: Sequence[Server], standings: Mapping[str, Standing]) -> list[Server]:
    """Those of `pool` that may and can answer and are up, full or not: for whom a request may wait."""
    return [
        s
        for s in pool
        if may_send(ask.label, s.tier, consent=ask.consent) and is_able(ask, s) and _is_up(standings.get(s.name))
    ]


def _is_up(standing: Standing | None) -> bool:
    return standing is not None and not standing.is_ejected and not standing.is_draining


def is_stored(asked: Mapping[str, object], path: str) -> bool:
    """Whether a server keeps what it answers, so that asking twice would keep it twice: no retry, no hedge."""
    said = asked.get("store")
    return bool(path == "/v1/responses" if said is None else said)


def is_able(ask: Ask, server: Server) -> bool:
    """Whether the server has the model, with what is wanted of it, and room for the text."""
    served = server.models.get(ask.model)
    if served is None or not ask.wants <= served.capabilities:
        return False
    return served.context == 0 or ask.tokens_in + ask.tokens_most <= served.context


def same_answer(one: Server, other: Server, model: str) -> bool:
    """Whether `other` can go on with what `one` began: the same model under the same template, and it takes that."""
    mine, its = one.models.get(model), other.models.get(model)
    if mine is None or its is None or not its.goes_on:
        return False
    return (mine.model, mine.template) == (its.model, its.template)


def _choice(ask: Ask, server: Server, standing: Standing | None, left: Mapping[Measure, int] | None) -> Choice | Reason:
    """What asking this server would take, or at which of the questions it falls out."""
    if ask.model not in server.models:
        return Reason.NO_MODEL
    if not may_send(ask.label, server.tier, consent=ask.consent):
        return Reason.NOT_ALLOWED
    if not is_able(ask, server):
        return Reason.CANNOT
    if standing is None or not _is_up(standing):
        return Reason.DOWN
    if not standing.has_room(server):
        return Reason.BUSY
    if ask.seconds is not None and standing.first_token_seconds > ask.seconds:
        return Reason.LATE
    worst = server.price.of(max(ask.tokens_in, ask.tokens_in_most), ask.tokens_most)
    if left is not None and any(worst[m] > left.get(m, 0) for m in MEASURES):
        return Reason.BUDGET
    return Choice(server=server, first_token_seconds=standing.first_token_seconds, worst=worst)


def _refusal(ask: Ask, pool: Sequence[Server], stopped: Sequence[Reason]) -> Refusal:
    """Why nobody is asked: the question at which those fell out that came farthest."""
    reason = max(stopped, key=list(Reason).index, default=Reason.NO_MODEL)
    if reason is Reason.NOT_ALLOWED:
        return _not_allowed(ask, [s for s in pool if ask.model in s.models])
    number, wanted = stopped.count(reason), ", ".join(sorted(ask.wants))
    sentences = {
        Reason.NO_MODEL: f"no server has model {ask.model!r}. See GET /v1/models",
        Reason.CANNOT: f"no server that may be asked can do {wanted} in so long a text",
        Reason.DOWN: f"all {number} servers that may answer are down",
        Reason.BUSY: f"all {number} servers that may answer are full",
        Reason.LATE: f"no server would begin to answer within {ask.seconds or 0.0:g} s",
        Reason.BUDGET: "the budget does not reach for the longest answer that is asked",
    }
    return Refusal(reason=reason, sentence=sentences[reason], retry_seconds=RETRY.get(reason))


def _not_allowed(ask: Ask, having: Sequence[Server]) -> Refusal:
    if any(may_send(ask.label, s.tier, consent=True) for s in having):
        return Refusal(
            reason=Reason.NO_CONSENT,
            sentence=f"model {ask.model!r} is at a partner only, and neither request nor tenant consents to one",
        )
    label, farthest = ask.label.name.lower(), reach(ask.label).name.lower()
    return Refusal(
        reason=Reason.NOT_ALLOWED,
        sentence=f"label {label} reaches the tier {farthest} at most; model {ask.model!r} is not there",
    )


def _favourite(ask: Ask, choices: Sequence[Choice], standings: Mapping[str, Standing]) -> str:
    """The server of the nearest tier that most likely holds the prompt's beginning in its cache; "": none.

    The one that has read most of it, as far as is known here; else the same beginning goes to the same server
    (rendezvous hashing). So long as that is not loaded a quarter above the mean of its tier: a cache saves less than a
    queue costs.
    """
    if not ask.prefix:
        return ""
    nearest = min(c.server.tier for c in choices)
    near = [c.server for c in choices if c.server.tier == nearest]
    best = max(near, key=lambda s: (standings[s.name].hit, sha256(f"{ask.prefix[0]} {s.name}".encode())))
    mean = sum(standings[s.name].in_flight / s.capacity for s in near) / len(near)
    is_light = standings[best.name].in_flight / best.capacity <= _MORE_LOAD * mean + 1.0 / best.capacity
    return best.name if is_light else ""


def _order(choice: Choice, standing: Standing, favourite: str) -> tuple[float, ...]:
    """Nearest tier, then the favourite, then those less than half full before those fuller, then the soonest.

    Of several that are equally near, the less loaded half is asked first whatever it promises, since a promise made
    under little load says little (Prequal: requests in flight first, latency among the cold).
    """
    is_hot = standing.in_flight * 2 >= choice.server.capacity
    return (
        float(choice.server.tier),
        float(choice.server.name != favourite),
        float(is_hot),
        choice.first_token_seconds if not is_hot else float(standing.in_flight) / choice.server.capacity,
    )


def raised(label: Label, found: Sequence[Label]) -> Label:
    """A label after the detectors: raised by what they found, never lowered."""
    return max([label, *found])
