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
from fleetmill.lines.language.net import EPSILON, ROPE_BASE, Llama, Pair, Size
from fleetmill.lines.language.words import END, PAD, TEMPLATE, tokenizer_json

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


def made(net: Llama, spec: ModelSpec, temperature: float = 1.0) -> Mapping[str, bytes]:
    """Every file but the weights themselves."""
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    return {
        "model.onnx": _model(Step(net, temperature), spec),
        "genai.onnx": _genai(net),
        "model.gguf": gguf(weights, net.size, context=CONTEXT),
        "config.json": _json(_config(net.size)),
        "genai_config.json": _json(_genai_config(net.size)),
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": _json(_TOKENIZER),
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


def _config(size: Size) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_BASE,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "bos_token_id": END,
        "eos_token_id": END,
        "torch_dtype": "float32",
    }


def _genai_config(size: Size) -> dict[str, Any]:
    decoder = {
        "session_options": {"intra_op_num_threads": 1, "provider_options": []},
        "filename": "genai.onnx",
        "head_size": size.head,
        "hidden_size": size.width,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "context_length": CONTEXT,
        "vocab_size": size.vocabulary,
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": CONTEXT, "past_present_share_buffer": False, "num_beams": 1}
    return {"model": model, "search": search}


_TOKENIZER = {
    "tokenizer_class": "Qwen2Tokenizer",
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
