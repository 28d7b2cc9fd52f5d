"""The engines that are known, by the name that `engine = ...` in `[[serve.backend]]` gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fleetmill.core.errors import InvalidInputError
from fleetmill.engines.serving import oip
from fleetmill.engines.serving.genai_shell import GenaiShell
from fleetmill.engines.serving.llama_server import LlamaServer
from fleetmill.engines.serving.mlx_server import MlxServer
from fleetmill.engines.serving.openai_url import OpenaiUrl
from fleetmill.engines.serving.sglang import Sglang
from fleetmill.engines.serving.vllm import Vllm
from fleetmill.seams.engine import ServingEngine

_ALL: tuple[ServingEngine, ...] = (
    LlamaServer(),
    Vllm(),
    Sglang(),
    MlxServer(),
    GenaiShell(),
    OpenaiUrl(),
    oip.onnx,
    oip.coreml,
)
ENGINES: Mapping[str, ServingEngine] = MappingProxyType({e.name: e for e in _ALL})


def find(name: str) -> ServingEngine:
    """The adapter of that name.

    Raises:
        InvalidInputError: nobody knows such an engine; the error lists those that are known.
    """
    if name not in ENGINES:
        raise InvalidInputError(f"engine {name!r}: is not known. Choose of {', '.join(sorted(ENGINES))}")
    return ENGINES[name]
