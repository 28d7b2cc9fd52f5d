"""llama.cpp's `llama-server`. As of the source in llama-cpp-python 0.3.36; run here by tests where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import read
from fleetmill.seams.engine import Start

_PROPS = "/props"


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """It goes on with a final assistant message; its whole answer then holds the begun text too, its pieces do not.

    `/metrics` is there only with `--metrics`, embeddings only with `--embeddings`.
    """

    name: str = "llama_server"
    health: str = "/health"  # 503 while it loads
    told: tuple[str, ...] = (read.MODELS, _PROPS)
    metrics: str = "/metrics"
    goes_on: bool = True
    capabilities: frozenset[str] = frozenset({"chat", "completions", "tools", "responses"})

    def start(self, asked: Start) -> tuple[str, ...]:
        """`-c` is shared by the places of `-np`; metrics are told, prompts are not logged."""
        places = asked.at_once or 1
        return (
            *("llama-server", "-m", asked.model, "--host", asked.host, "--port", str(asked.port), "--metrics"),
            *(("--alias", asked.name) if asked.name else ()),
            *(("-np", str(asked.at_once)) if asked.at_once else ()),
            *(("-c", str(asked.context * places)) if asked.context else ()),
            *asked.more,
        )

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """The context is that of one place, which `/props` says; without it, what the model was trained for."""
        found = read.served(answers, engine=self.name, capabilities=self.capabilities, goes_on=self.goes_on)
        props = read.table(answers[_PROPS], self.name) if _PROPS in answers else {}
        place = read.whole((props.get("default_generation_settings") or {}).get("n_ctx"))
        trained = {c["id"]: (c.get("meta") or {}).get("n_ctx_train") for c in read.cards(answers[read.MODELS], "")}
        return {name: replace(s, context=place or read.whole(trained[name])) for name, s in found.items()}

    def load(self, body: bytes) -> Load:
        """Places in use, requests that wait for one, tokens written. It no longer says how full its cache is."""
        found = read.samples(body, self.name)
        return Load(
            running=read.count(found, "llamacpp:requests_processing", self.name),
            waiting=read.count(found, "llamacpp:requests_deferred", self.name),
            cache_ratio=read.most(found, "llamacpp:kv_cache_usage_ratio"),
            tokens=read.count(found, "llamacpp:tokens_predicted_total", self.name),
        )
