"""How large a model is, by name or as `config.json` says it; and the configurations that engines read. Loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.lines.language.conversations import CONTEXT
from fleetmill.lines.language.net import Size, Slowed
from fleetmill.lines.vocabulary import END, PAD

NAMED: Mapping[str, Size] = {  # with as many ids as the line has
    "tiny": Size(vocabulary=0, width=32, layers=2, heads=2, kv_heads=1, inner=64),  # for tests
    "pocket": Size(vocabulary=0, width=64, layers=3, heads=2, kv_heads=1, inner=160),
    "small": Size(vocabulary=0, width=96, layers=3, heads=3, kv_heads=1, inner=256),
    "large": Size(vocabulary=0, width=192, layers=6, heads=6, kv_heads=2, inner=512),
}
MOST_BYTES = 2**31 - 2**24  # of weights in one graph: ONNX holds 2 GiB in a file, and the graph itself needs a little
_NUMBERS = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "inner",
}


def named(name: str, vocabulary: int) -> Size:
    """One of our own sizes.

    Raises:
        InvalidInputError: there is none of that name.
    """
    if name not in NAMED:
        raise InvalidInputError(f"language: size {name!r} is unknown; use one of {', '.join(NAMED)}")
    return replace(NAMED[name], vocabulary=vocabulary)


def size_of(config: Mapping[str, Any], vocabulary: int) -> Size:
    """The size that a Llama's `config.json` says, with so many ids.

    Raises:
        InvalidInputError: a number that is none, or positions that turn as none of ours do: the key and its value.
    """
    numbers = {ours: _number(config, theirs) for theirs, ours in _NUMBERS.items()}
    heads, rope = numbers["heads"], _rope(config)
    size = Size(
        vocabulary=vocabulary,
        kv_heads=_number(config, "num_key_value_heads", heads),
        head_width=_head_width(config, numbers["width"], heads),
        epsilon=_float(config, "rms_norm_eps"),
        rope_base=_float(rope, "rope_theta", 10_000.0),
        slowed=_slowed(rope),
        is_tied=config.get("tie_word_embeddings", False) is True,
        **numbers,
    )
    if size.head % 2 or heads % size.kv_heads:
        raise InvalidInputError(
            f"config.json: {heads} heads of {size.head} on {size.kv_heads} of keys: the width of a head must be even, "
            "and num_attention_heads a multiple of num_key_value_heads"
        )
    return size


def graph_bytes(size: Size) -> int:
    """Bytes of the weights in one ONNX file: of a table that is tied there are two there, one of them on its side."""
    shared, own = size.kv_heads * size.head, size.heads * size.head
    layer = 2 * size.width * (own + shared) + 3 * size.width * size.inner + 2 * size.width
    return 4 * (2 * size.vocabulary * size.width + size.layers * layer + size.width)


def llama_config(size: Size) -> dict[str, Any]:
    """As `size_of` and whoever reads Llama's weights finds it."""
    slowed = size.slowed
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
        "rms_norm_eps": size.epsilon,
        "rope_theta": size.rope_base,
        **({} if slowed is None else {"rope_scaling": _told(slowed)}),
        "tie_word_embeddings": size.is_tied,
        "attention_bias": False,
        "bos_token_id": END,
        "eos_token_id": END,
        "torch_dtype": "float32",
    }


def genai_config(size: Size) -> dict[str, Any]:
    """As ONNX Runtime GenAI reads it."""
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


def _number(config: Mapping[str, Any], key: str, usual: int | None = None) -> int:
    value = usual if config.get(key) is None else config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"config.json: {key} = {_shown(value)}: must be a whole number above 0. Repair it")
    return value


def _float(config: Mapping[str, Any], key: str, usual: float | None = None) -> float:
    value = usual if config.get(key) is None else config[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise InvalidInputError(f"config.json: {key} = {_shown(value)}: must be a number above 0. Repair it")
    return float(value)


def _head_width(config: Mapping[str, Any], width: int, heads: int) -> int:
    """0 where it follows from the width."""
    head = _number(config, "head_dim", max(width // heads, 1))
    if config.get("head_dim") is None and width % heads:
        raise InvalidInputError(f"config.json: hidden_size = {width} is no multiple of num_attention_heads = {heads}")
    return 0 if head * heads == width else head


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """How positions turn: newer files have it in a table of its own."""
    scaling = config.get("rope_scaling") or {}
    newer = config.get("rope_parameters") or {}
    if not isinstance(scaling, Mapping) or not isinstance(newer, Mapping):
        raise InvalidInputError("config.json: rope_scaling and rope_parameters must be tables. Repair it")
    theta = {} if config.get("rope_theta") is None else {"rope_theta": config["rope_theta"]}
    return {**theta, **scaling, **newer}


def _slowed(rope: Mapping[str, Any]) -> Slowed | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise InvalidInputError(
            f"config.json: rope_scaling of type {_shown(kind)}: must be none or 'llama3'. Bring another base"
        )
    low, high = _float(rope, "low_freq_factor"), _float(rope, "high_freq_factor")
    if low >= high:
        raise InvalidInputError(f"config.json: low_freq_factor = {low:g}: must be below high_freq_factor = {high:g}")
    before = _number(rope, "original_max_position_embeddings")
    return Slowed(factor=_float(rope, "factor"), low=low, high=high, before=before)


def _told(slowed: Slowed) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": slowed.factor,
        "low_freq_factor": slowed.low,
        "high_freq_factor": slowed.high,
        "original_max_position_embeddings": slowed.before,
    }


def _shown(value: Any) -> str:
    return repr(value)[:60]
