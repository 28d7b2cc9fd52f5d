"""Any server with an OpenAI API, a partner's mostly: nothing is known of it but what it lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import read
from fleetmill.seams.engine import Start


@dataclass(frozen=True, slots=True)
class OpenaiUrl:
    """Whether it goes on with a begun answer is not known, so none is; `"continue"` among capabilities says it does."""

    name: str = "openai_url"
    health: str = ""
    told: tuple[str, ...] = (read.MODELS,)
    metrics: str = ""
    goes_on: bool = False
    capabilities: frozenset[str] = frozenset({"chat", "completions"})

    def start(self, asked: Start) -> tuple[str, ...]:
        """It is somebody else's."""
        raise InvalidInputError(f"engine {self.name}: is an address, not a program. Nothing is started ({asked.model})")

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """All that it lists."""
        return read.served(answers, engine=self.name, capabilities=self.capabilities, goes_on=self.goes_on)

    def load(self, body: bytes) -> Load:  # noqa: ARG002 - the seam's
        """It says nothing of its load."""
        raise InvalidInputError(f"{self.name}: has no metrics")
