"""ONNX Runtime GenAI, which has no server of its own: `serve/shell_genai.py` is its start command. Run by our tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import read
from fleetmill.seams.engine import Start


@dataclass(frozen=True, slots=True)
class GenaiShell:
    """It goes on from text and from ids, and gives ids with `return_token_ids`."""

    name: str = "genai"
    health: str = "/health"
    told: tuple[str, ...] = (read.MODELS,)
    metrics: str = "/metrics"
    goes_on: bool = True
    capabilities: frozenset[str] = frozenset({"chat", "completions", "token_ids"})

    def start(self, asked: Start) -> tuple[str, ...]:
        """The context is the model's own."""
        if asked.context:
            raise InvalidInputError(f"--context {asked.context}: {self.name} takes what the model's config says")
        return (
            *("python", "-m", "fleetmill.serve.shell_genai", "--model", asked.model),
            *("--host", asked.host, "--port", str(asked.port)),
            *(("--name", asked.name) if asked.name else ()),
            *(("--at-once", str(asked.at_once)) if asked.at_once else ()),
            *asked.more,
        )

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """One model."""
        return read.served(answers, engine=self.name, capabilities=self.capabilities, goes_on=self.goes_on)

    def load(self, body: bytes) -> Load:
        """Answers that are made, those that wait, tokens written."""
        found = read.samples(body, self.name)
        return Load(
            running=read.count(found, "genai_requests_running", self.name),
            waiting=read.count(found, "genai_requests_waiting", self.name),
            tokens=read.count(found, "genai_tokens_total", self.name),
        )
