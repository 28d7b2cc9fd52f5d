"""A trained model as the files that engines want: one set of weights, in each its way. Loads torch.

| file | for |
|---|---|
| ``model.onnx`` | the line's contract: gate, golden answers, devices, Open Inference Protocol |
| ``genai.onnx``, ``genai_config.json`` | ONNX Runtime GenAI: the same graph with what was read before as input |
| ``model.gguf`` | llama.cpp |
| ``config.json``, ``weights.safetensors`` | what reads Llama from safetensors (as ``model.safetensors``) |
| ``tokenizer.json``, ``tokenizer_config.json`` | all of them |
| ``sureness.json`` | the temperature in ``model.onnx``, for a training that goes on; absent where it is 1 |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from fleetmill.core.line import ModelSpec
from fleetmill.engines.export_onnx import traced
from fleetmill.lines.language.conversations import CONTEXT
from fleetmill.lines.language.gguf import gguf
from fleetmill.lines.language.net import Llama, Pair
from fleetmill.lines.language.sizes import genai_config, llama_config
from fleetmill.lines.vocabulary import PAD, TEMPLATE, Vocabulary

_LONG = 8  # ids of the example that a graph is traced with


class Step(torch.nn.Module):
    """ids int64 (B, T), filled up at the end -> logits (B, V) and id (B,) of what comes next, logprobs (B, T).

    `temperature` divides the logits of what comes next: how sure an answer is follows from them (`calibrating`).
    """

    def __init__(self, net: Llama, temperature: float = 1.0) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A log probability is that of an id after those before it; of the first it is 0."""
        logits, _ = self.net(ids)
        last = ((ids != PAD).sum(1, keepdim=True) - 1).clamp_min(0)
        following = logits.gather(1, last[:, :, None].expand(-1, -1, logits.shape[2]))[:, 0]
        told = torch.log_softmax(logits, -1)[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]
        first = torch.zeros_like(ids[:, :1], dtype=told.dtype)
        likely = following if self.temperature == 1.0 else following / self.temperature
        return likely, following.argmax(-1), torch.cat([first, told], 1)


class Going(torch.nn.Module):
    """ids and a pair of keys and values per layer -> logits of each id, and the pairs with those of `ids` behind."""

    def __init__(self, net: Llama) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What went in as key, value, key, value comes out so."""
        pairs: list[Pair] = list(zip(past[::2], past[1::2], strict=True))
        logits, kept = self.net(ids, pairs)
        return (logits, *(tensor for pair in kept for tensor in pair))


def made(net: Llama, spec: ModelSpec, words: Vocabulary, temperature: float = 1.0) -> Mapping[str, bytes]:
    """Every file but the weights themselves."""
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    return {
        "model.onnx": _model(Step(net, temperature), spec),
        "genai.onnx": _genai(net),
        "model.gguf": gguf(weights, net.size, words, context=CONTEXT),
        "config.json": _json(llama_config(net.size)),
        "genai_config.json": _json(genai_config(net.size)),
        "tokenizer.json": words.tokenizer_json,
        "tokenizer_config.json": _json(_tokenizer_config(words)),
    }


def _model(step: Step, spec: ModelSpec) -> bytes:
    names = [port.name for port in spec.outputs]
    axes = {"ids": {0: "batch", 1: "length"}, **{name: {0: "batch"} for name in names}}
    axes["logprobs"] = {0: "batch", 1: "length"}
    return traced(step, (torch.ones(1, _LONG, dtype=torch.int64),), ["ids"], names, axes)


def _genai(net: Llama) -> bytes:
    size = net.size
    pairs = [(f"{n}.{what}") for n in range(size.layers) for what in ("key", "value")]
    past, present = [f"past_key_values.{p}" for p in pairs], [f"present.{p}" for p in pairs]
    empty = torch.zeros(1, size.kv_heads, _LONG, size.head)
    axes = {
        "input_ids": {0: "batch", 1: "length"},
        "logits": {0: "batch", 1: "length"},
        **{name: {0: "batch", 2: "past"} for name in past},
        **{name: {0: "batch", 2: "whole"} for name in present},
    }
    examples = (torch.ones(1, _LONG, dtype=torch.int64), *[empty] * len(past))
    return traced(Going(net), examples, ["input_ids", *past], ["logits", *present], axes)


def _tokenizer_config(words: Vocabulary) -> dict[str, Any]:
    """A class that takes the split from `tokenizer.json`; Qwen2's has that very split itself."""
    return {
        "tokenizer_class": "Qwen2Tokenizer" if words.split.name == "qwen2" else "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": None,
        "eos_token": "<|end|>",
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
