"""`[[serve.backend]]` as servers of the pool: what is written there, in the words of the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Price, Served, Server, Tier
from fleetmill.engines.serving import known
from fleetmill.seams.engine import ServingEngine
from fleetmill.settings import BackendSettings, ModelSettings

_MILLION = 1_000_000


def checked(backends: Sequence[BackendSettings]) -> None:
    """Refuse what cannot be a pool.

    Raises:
        InvalidInputError: two of one name, or an engine that is not known.
    """
    names = [b.name for b in backends]
    for backend in backends:
        if names.count(backend.name) > 1:
            raise InvalidInputError(f"[[serve.backend]] {backend.name}: stands twice. Rename one")
        try:
            known.find(backend.engine)
        except InvalidInputError as error:
            raise InvalidInputError(f"[[serve.backend]] {backend.name}: {error}") from None


def servers(backends: Sequence[BackendSettings]) -> list[Server]:
    """The pool at the beginning: those whose models are named. What the others have they must say themselves.

    Raises:
        InvalidInputError: two of one name, or an engine that is not known.
    """
    checked(backends)
    return [server(b) for b in backends if b.models]


def secrets(backends: Sequence[BackendSettings], environment: Mapping[str, str]) -> dict[str, str]:
    """What each server wants as key, from the environment variables that the settings name.

    Raises:
        InvalidInputError: such a variable is not set.
    """
    found = {}
    for backend in backends:
        if backend.key_env:
            if not environment.get(backend.key_env):
                raise InvalidInputError(
                    f"[[serve.backend]] {backend.name}: {backend.key_env} is not set. Export its key"
                )
            found[backend.name] = environment[backend.key_env]
    return found


def server(backend: BackendSettings, told: Mapping[str, Served] | None = None) -> Server:
    """A server as the policy sees it; `told`: what it says that it serves, where the settings name no models."""
    engine = known.find(backend.engine)
    return Server(
        name=backend.name,
        tier=Tier[backend.tier.upper()],
        engine=backend.engine,
        address=backend.address.rstrip("/"),
        models={m.name: _served(m, engine) for m in backend.models} if told is None else told,
        supplier=backend.supplier,
        hardware=backend.hardware,
        capacity=backend.capacity,
        price=price(backend),
        may_train=backend.may_train,
        contract=backend.contract,
    )


def _served(model: ModelSettings, engine: ServingEngine) -> Served:
    capabilities = frozenset(model.capabilities)
    return Served(
        model=model.digest or model.name,
        template=model.template,
        context=model.context,
        capabilities=capabilities - {"continue"} or engine.capabilities,
        goes_on=engine.goes_on or "continue" in capabilities,
    )


def price(backend: BackendSettings) -> Price:
    """Per million tokens: what is asked for, and what power and amortisation come to while it writes that many.

    Reading costs a tenth of writing in time where only power and amortisation are known: a prompt is read in one go.
    """
    seconds = _MILLION / backend.tokens_per_second if backend.tokens_per_second else 0.0
    joules = backend.watts * seconds
    own = joules / 3.6e6 * backend.money_per_kwh + seconds / 3600.0 * backend.money_per_hour
    return Price(
        tokens_in=round((backend.money_per_million_in + 0.1 * own) * _MILLION),
        tokens_out=round((backend.money_per_million_out + own) * _MILLION),
        joules_in=round(0.1 * joules),
        joules_out=round(joules),
    )
