"""vLLM. As of its wheel 0.33.0; never run by us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import read
from fleetmill.seams.engine import Start


@dataclass(frozen=True, slots=True)
class Vllm:
    """It goes on with `continue_final_message: true` and `add_generation_prompt: false`, gives ids with
    `return_token_ids`, and takes ids as a prompt. Tools want `--enable-auto-tool-choice --tool-call-parser NAME`.
    """

    name: str = "vllm"
    health: str = "/health"
    told: tuple[str, ...] = (read.MODELS,)
    metrics: str = "/metrics"
    goes_on: bool = True
    capabilities: frozenset[str] = frozenset({"chat", "completions", "responses", "token_ids"})

    def start(self, asked: Start) -> tuple[str, ...]:
        """Requests are not logged unless `--enable-log-requests` is given: it is not."""
        return (
            *("vllm", "serve", asked.model, "--host", asked.host, "--port", str(asked.port)),
            *(("--served-model-name", asked.name) if asked.name else ()),
            *(("--max-model-len", str(asked.context)) if asked.context else ()),
            *(("--max-num-seqs", str(asked.at_once)) if asked.at_once else ()),
            *asked.more,
        )

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """Each entry says its `max_model_len`; adapters (LoRA) are entries of their own, without one."""
        return read.served(answers, engine=self.name, capabilities=self.capabilities, goes_on=self.goes_on)

    def load(self, body: bytes) -> Load:
        """Over all engines of a data-parallel server: requests and tokens are added, the fullest cache counts."""
        found = read.samples(body, self.name)
        return Load(
            running=read.count(found, "vllm:num_requests_running", self.name),
            waiting=read.count(found, "vllm:num_requests_waiting", self.name),
            cache_ratio=read.most(found, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            tokens=read.count(found, "vllm:generation_tokens_total", self.name),
        )
