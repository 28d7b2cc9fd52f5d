"""A model as one GGUF file, as llama.cpp and what is built on it read it. Bytes from bytes; no library.

Source: ggml's docs/gguf.md, version 3; the order of rows in `attn_q` and `attn_k` as its convert_hf_to_gguf.py has it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core.line import Array
from fleetmill.lines.language.net import Size, plain_speed, slowness
from fleetmill.lines.vocabulary import END, MARKS, TEMPLATE, Vocabulary

Value = int | float | bool | str | Sequence[str] | Sequence[int]
_ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _CONTROL = 1, 3
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A float32 tensor under its name in GGUF."""

    name: str
    values: Array


def gguf(weights: Mapping[str, Array], size: Size, words: Vocabulary, *, context: int) -> bytes:
    """The file: `weights` by their names in safetensors, float32; `context`: how far back they were taught to look."""
    tensors = [_tensor(name, values, size) for name, values in sorted(weights.items())]
    if size.slowed is not None:
        tensors.append(Tensor(name="rope_freqs.weight", values=slowness(size.slowed, plain_speed(size)).numpy()))
    return written({**_facts(size, context), **_words(words)}, tensors)


def written(facts: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    """Key and value pairs, then each tensor's place, then their bytes, each on a multiple of 32."""
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(facts))]
    head += [_string(key) + _value(value) for key, value in facts.items()]
    at, bodies = 0, []
    for tensor in tensors:
        shape = tensor.values.shape[::-1]
        head.append(_string(tensor.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, at))
        body = np.ascontiguousarray(tensor.values, "<f4").tobytes()
        bodies.append(body + b"\0" * (-len(body) % _ALIGNMENT))
        at += len(bodies[-1])
    whole = b"".join(head)
    return b"".join([whole, b"\0" * (-len(whole) % _ALIGNMENT), *bodies])


def _facts(size: Size, context: int) -> dict[str, Value]:
    own_head = {"llama.attention.key_length": size.head, "llama.attention.value_length": size.head}
    return {
        "general.architecture": "llama",
        "general.name": "language",
        "general.file_type": 0,  # float32
        "llama.context_length": context,
        "llama.embedding_length": size.width,
        "llama.block_count": size.layers,
        "llama.feed_forward_length": size.inner,
        "llama.attention.head_count": size.heads,
        "llama.attention.head_count_kv": size.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": size.epsilon,
        "llama.rope.freq_base": size.rope_base,
        "llama.rope.dimension_count": size.head,
        **(own_head if size.head_width else {}),
        "llama.vocab_size": size.vocabulary,
    }


def _words(words: Vocabulary) -> dict[str, Value]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": words.split.name,
        "tokenizer.ggml.tokens": words.pieces,
        "tokenizer.ggml.token_type": [_CONTROL if piece in MARKS else _NORMAL for piece in words.pieces],
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in words.merges],
        "tokenizer.ggml.bos_token_id": END,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def _tensor(name: str, values: Array, size: Size) -> Tensor:
    parts = name.removeprefix("model.").removesuffix(".weight")
    if parts == "embed_tokens":
        return Tensor(name="token_embd.weight", values=values)
    if parts == "lm_head":
        return Tensor(name="output.weight", values=values)
    if parts == "norm":
        return Tensor(name="output_norm.weight", values=values)
    _, number, part = parts.split(".", 2)
    if part in ("self_attn.q_proj", "self_attn.k_proj"):
        values = _interleaved(values, size.heads if "q_proj" in part else size.kv_heads)
    return Tensor(name=f"blk.{number}.{_PARTS[part]}.weight", values=values)


def _interleaved(values: Array, heads: int) -> Array:
    """The two coordinates that turn together beside each other instead of half a head apart."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    texts = [_string(item) if isinstance(item, str) else struct.pack("<i", item) for item in value]
    kind = _STRING if isinstance(value[0], str) else _I32
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(texts)
