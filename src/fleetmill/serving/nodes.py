"""Servers come and go while gateways run: asked what they serve before they come in, drained before they are gone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.serve import Served
from fleetmill.engines.serving import known
from fleetmill.home import check_format
from fleetmill.serve.egress import Egress
from fleetmill.serve.servers import backends, probe, running
from fleetmill.serve.servers.nodes import FOLDER as NODES
from fleetmill.serve.servers.nodes import Nodes
from fleetmill.serving.gateway import FOLDER
from fleetmill.settings import BackendSettings, Settings, check_backend

_LOOK_SECONDS = 0.2


def join(settings: Settings, backend: BackendSettings) -> Mapping[str, Served]:
    """A server comes into the pool of a home, for good; what it serves. Gateways take it in within a second.

    Raises:
        UnavailableError: it does not answer. InvalidInputError: it makes no sense, is no engine of its kind, or its key
            is not set.
        ConflictError: another one has that name.
    """
    nodes = _nodes(settings)  # a home that cannot take it is said before anybody is asked
    check_backend(backend)
    found = asked(backend)
    for model in backend.models:
        if model.name not in found and known.find(backend.engine).told:
            told = ", ".join(sorted(found)) or "none"
            raise InvalidInputError(f"server {backend.name}: does not serve {model.name!r}; it serves {told}")
    nodes.join(backend, settings.serve.backend)
    return found


def come_back(settings: Settings, name: str) -> None:
    """A server of the settings that left takes part again.

    Raises:
        NotFoundError: the settings do not name it.
    """
    _nodes(settings).come_back(name, settings.serve.backend)


def leave(settings: Settings, name: str, *, seconds: float) -> int:
    """A server gets nothing new; how many gateway processes still finish its answers after so many seconds.

    Raises:
        NotFoundError: there is none of that name.
    """
    _nodes(settings).leave(name, settings.serve.backend)
    return _until(lambda: running.holders(stand(settings), name), seconds)


def stand(settings: Settings) -> list[running.Running]:
    """Each gateway process of the home, and how its servers stand."""
    return running.read(_folder(settings) / running.FOLDER, now_ns=time.time_ns())


def asked(backend: BackendSettings) -> Mapping[str, Served]:
    """What a server says that it serves.

    Raises:
        UnavailableError: it does not answer, or is not ready. InvalidInputError: it is no engine of its kind.
    """
    backends.checked([backend])
    engine, server = known.find(backend.engine), backends.server(backend, {})
    key = backends.secrets([backend], os.environ).get(backend.name)

    async def ask() -> Mapping[str, Served]:
        egress = Egress()
        try:
            if not await probe.is_up(egress, server, engine, key=key):
                raise UnavailableError(f"server {backend.name}: {engine.health} says that it is not ready. Wait for it")
            return await probe.models(egress, server, engine, key=key)
        finally:
            egress.close()

    return asyncio.run(ask())


def _until(holders: Callable[[], int], seconds: float) -> int:
    limit = time.monotonic() + seconds
    while (left := holders()) and time.monotonic() < limit:
        time.sleep(_LOOK_SECONDS)
    return left


def _nodes(settings: Settings) -> Nodes:
    return Nodes(_folder(settings) / NODES)


def _folder(settings: Settings) -> Path:
    check_format(settings.home)
    return settings.home / FOLDER
