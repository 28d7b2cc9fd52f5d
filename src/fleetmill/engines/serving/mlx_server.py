"""MLX on Apple silicon: `mlx_lm.server`. As of its wheel 0.32.2; never run by us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import read
from fleetmill.seams.engine import Start


@dataclass(frozen=True, slots=True)
class MlxServer:
    """It opens a new answer whatever stands last in a chat, so a broken one is never gone on with there.

    It lists every model of the hub's cache beside the one that it was started with, and loads whichever is asked for:
    name the models in the settings, so that a stray name does not load another one. It has no metrics, and does not
    say its context.
    """

    name: str = "mlx_server"
    health: str = "/health"
    told: tuple[str, ...] = (read.MODELS,)
    metrics: str = ""
    goes_on: bool = False
    capabilities: frozenset[str] = frozenset({"chat", "completions", "tools"})

    def start(self, asked: Start) -> tuple[str, ...]:
        """It names a model by its path and by nothing else."""
        if asked.name:
            raise InvalidInputError(f"--name {asked.name}: {self.name} names a model by its path alone. Leave it out")
        if asked.context:
            raise InvalidInputError(f"--context {asked.context}: {self.name} has no such limit. Leave it out")
        return (
            *("mlx_lm.server", "--model", asked.model, "--host", asked.host, "--port", str(asked.port)),
            *(("--decode-concurrency", str(asked.at_once)) if asked.at_once else ()),
            *asked.more,
        )

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """The model that it was started with: the last entry, where that was a path; else all that it lists."""
        found = read.served(answers, engine=self.name, capabilities=self.capabilities, goes_on=self.goes_on)
        paths = {name: s for name, s in found.items() if name.startswith("/")}
        return paths or found

    def load(self, body: bytes) -> Load:  # noqa: ARG002 - the seam's
        """It has no metrics."""
        raise InvalidInputError(f"{self.name}: has no metrics")
