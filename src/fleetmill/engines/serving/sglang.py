"""SGLang. As of its wheel 0.5.23; never run by us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import read
from fleetmill.seams.engine import Start

_INFO = "/model_info"


@dataclass(frozen=True, slots=True)
class Sglang:
    """It goes on with `continue_final_message: true`, and gives ids with `return_token_ids`.

    `/health` makes a token when nothing else runs, and takes a second; `/ready` does not. Metrics want a flag.
    """

    name: str = "sglang"
    health: str = "/ready"  # 404 in older versions: an answer too
    told: tuple[str, ...] = (read.MODELS, _INFO)
    metrics: str = "/metrics"
    goes_on: bool = True
    capabilities: frozenset[str] = frozenset({"chat", "completions", "responses", "token_ids"})

    def start(self, asked: Start) -> tuple[str, ...]:
        """Requests are not logged unless `--log-requests` is given: it is not."""
        return (
            *("python", "-m", "sglang.launch_server", "--model-path", asked.model),
            *("--host", asked.host, "--port", str(asked.port), "--enable-metrics"),
            *(("--served-model-name", asked.name) if asked.name else ()),
            *(("--context-length", str(asked.context)) if asked.context else ()),
            *(("--max-running-requests", str(asked.at_once)) if asked.at_once else ()),
            *asked.more,
        )

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """`/model_info` says whether it writes or embeds, and whether tools are read out of what it writes."""
        info = read.table(answers[_INFO], self.name) if _INFO in answers else {}
        capabilities = self.capabilities | ({"tools"} if info.get("tool_call_parser") else set())
        if info.get("is_generation") is False:
            capabilities = frozenset({"embeddings"})
        found = read.served(answers, engine=self.name, capabilities=capabilities, goes_on=self.goes_on)
        longest = max(s.context for s in found.values())
        return {name: replace(s, context=s.context or longest) for name, s in found.items()}  # adapters say none

    def load(self, body: bytes) -> Load:
        """Over all schedulers: requests and tokens are added, the fullest cache counts."""
        found = read.samples(body, self.name)
        return Load(
            running=read.count(found, "sglang:num_running_reqs", self.name),
            waiting=read.count(found, "sglang:num_queue_reqs", self.name),
            cache_ratio=read.most(found, "sglang:token_usage"),
            tokens=round(sum(found.get("sglang:generation_tokens_total", [0.0]))),  # absent before the first answer
        )
