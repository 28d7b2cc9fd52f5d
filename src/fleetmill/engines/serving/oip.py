"""A line's ONNX models for the Open Inference Protocol, in the gateway itself: ONNX Runtime, on CPU or through Core ML.

Core ML has no server and no OpenAI API. What there is: ONNX Runtime's `CoreMLExecutionProvider`, in the wheel for macOS
on Apple silicon, which runs those parts of a graph that Core ML can. So a Mac serves lines by running a gateway of the
home with that provider; language models run there through MLX or `llama-server`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import read
from fleetmill.seams.engine import Start

_MODELS = "/v2/models"


@dataclass(frozen=True, slots=True)
class OnnxOip:
    """A gateway asked at `/v2`. Language requests never go there: it has the capability `infer` alone."""

    name: str = "onnx"
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    health: str = "/v2/health/ready"
    told: tuple[str, ...] = (_MODELS,)
    metrics: str = "/metrics"
    goes_on: bool = False
    capabilities: frozenset[str] = frozenset({"infer"})

    def start(self, asked: Start) -> tuple[str, ...]:
        """A gateway of a home: `model` is the home, and its champions are what is served."""
        if asked.name or asked.context:
            raise InvalidInputError(f"engine {self.name}: serves a home's champions under their lines' names")
        cores = self.providers if self.name != "onnx" else ()
        return (
            *("fleetmill", "serve", "--home", asked.model, "--host", asked.host, "--port", str(asked.port)),
            *(word for provider in cores for word in ("--provider", provider)),
            *asked.more,
        )

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """Names of lines with a champion."""
        names = read.table(answers.get(_MODELS, b""), self.name).get("models")
        if not isinstance(names, list):
            raise InvalidInputError(f"{self.name}: {_MODELS} lists no models")
        return {str(n): Served(model=str(n), capabilities=self.capabilities, goes_on=False) for n in names}

    def load(self, body: bytes) -> Load:
        """Inferences that run now; each is short, so none waits."""
        return Load(running=read.count(read.samples(body, self.name), "fleetmill_serve_inferring", self.name))


onnx = OnnxOip()
coreml = OnnxOip(name="coreml", providers=("CoreMLExecutionProvider", "CPUExecutionProvider"))
