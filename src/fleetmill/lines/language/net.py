"""A decoder-only language model, Llama-shaped: RMSNorm, rotary positions, grouped attention, SwiGLU. Loads torch.

Names and layout of the weights are those of Llama in safetensors, so that other programs read them as they are.

Source: Touvron et al., LLaMA, 2023; Su et al., RoFormer, 2021; Ainslie et al., GQA, 2023; Grattafiori et al., The
Llama 3 Herd of Models, 2024 (positions slowed down).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values (B, kv heads, T, head) of one layer


@dataclass(frozen=True, kw_only=True, slots=True)
class Slowed:
    """How Llama 3 reads further than it first learned to: coordinates that turn slowly turn slower still."""

    factor: float
    low: float  # turns within `before` below which a coordinate is slowed by all of `factor`
    high: float  # and above which it is not
    before: int  # places that were looked back over at first


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large a model is, and the numbers that are in its rules."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int  # of the feed-forward part
    head_width: int = 0  # 0: the width, shared among the heads
    epsilon: float = 1e-5  # of the norms
    rope_base: float = 10_000.0
    slowed: Slowed | None = None
    is_tied: bool = True  # what goes in and what comes out share one table

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.head_width or self.width // self.heads


class Attention(torch.nn.Module):
    """Causal attention over what came before; keys and values are shared by groups of heads."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        shared, own = size.kv_heads * size.head, size.heads * size.head
        self.q_proj = torch.nn.Linear(size.width, own, bias=False)
        self.k_proj = torch.nn.Linear(size.width, shared, bias=False)
        self.v_proj = torch.nn.Linear(size.width, shared, bias=False)
        self.o_proj = torch.nn.Linear(own, size.width, bias=False)

    def forward(self, x: torch.Tensor, turn: Pair, past: Pair | None) -> tuple[torch.Tensor, Pair]:
        """x (B, T, width), the turns of its places (cos, sin) (T, head), what is kept of before -> (B, T, width)."""
        size, (rows, length, _) = self.size, x.shape
        query = rotate(self.q_proj(x).view(rows, length, size.heads, size.head).transpose(1, 2), turn)
        key = rotate(self.k_proj(x).view(rows, length, size.kv_heads, size.head).transpose(1, 2), turn)
        value = self.v_proj(x).view(rows, length, size.kv_heads, size.head).transpose(1, 2)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        group = size.heads // size.kv_heads
        keys, values = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        if self.training:
            seen = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        else:  # spelled out: what is exported must mean the same in every runtime
            weight = query @ keys.transpose(2, 3) / size.head**0.5 + _ahead(query.shape[2], keys.shape[2])
            seen = torch.softmax(weight, -1) @ values
        return self.o_proj(seen.transpose(1, 2).reshape(rows, length, size.heads * size.head)), (key, value)


def rotate(x: torch.Tensor, turn: Pair) -> torch.Tensor:
    """x (B, heads, T, head) turned by its place: the halves of a head are the two coordinates."""
    low, high = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-high, low], -1) * turn[1]


def _ahead(new: int, whole: int) -> torch.Tensor:
    """(new, whole): minus infinity where a place lies ahead of the one that looks."""
    looks = torch.arange(whole - new, whole)[:, None]
    return torch.where(torch.arange(whole)[None, :] > looks, float("-inf"), 0.0)


class Norm(torch.nn.Module):
    """Scaled to a mean square of one, then by what was learned."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.epsilon = size.epsilon
        self.weight = torch.nn.Parameter(torch.ones(size.width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> the same."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.weight


class Inner(torch.nn.Module):
    """SwiGLU."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = torch.nn.Linear(size.width, size.inner, bias=False)
        self.up_proj = torch.nn.Linear(size.width, size.inner, bias=False)
        self.down_proj = torch.nn.Linear(size.inner, size.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> the same."""
        y: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Layer(torch.nn.Module):
    """Attention, then the inner part, each beside what went in."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attn = Attention(size)
        self.mlp = Inner(size)
        self.input_layernorm = Norm(size)
        self.post_attention_layernorm = Norm(size)

    def forward(self, x: torch.Tensor, turn: Pair, past: Pair | None) -> tuple[torch.Tensor, Pair]:
        """See `Attention`."""
        seen, kept = self.self_attn(self.input_layernorm(x), turn, past)
        x = x + seen
        return x + self.mlp(self.post_attention_layernorm(x)), kept


class Table(torch.nn.Embedding):
    """A row for each id: what goes in; and, where it is asked, how well each fits what comes out."""

    def told(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> logits (..., vocabulary)."""
        return functional.linear(x, self.weight)


class Body(torch.nn.Module):
    """Everything but the last step."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed_tokens = Table(size.vocabulary, size.width)
        self.layers = torch.nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = Norm(size)


class Llama(torch.nn.Module):
    """ids int64 (B, T) -> logits (B, T, vocabulary)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.model = Body(size)
        self.lm_head = None if size.is_tied else Table(size.vocabulary, size.width)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                small = (2 * size.layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                torch.nn.init.normal_(weight, std=small * (0.02 if "embed" in name else size.width**-0.5 * 0.5))

    def forward(self, ids: torch.Tensor, past: list[Pair] | None = None) -> tuple[torch.Tensor, list[Pair]]:
        """(logits, what is kept of all so far: a pair per layer)."""
        x = self.model.embed_tokens(ids)
        before = 0 if past is None else past[0][0].shape[2]
        turn, kept = _turn(before, ids.shape[1], self.size), []
        for number, layer in enumerate(self.model.layers):
            x, pair = layer(x, turn, None if past is None else past[number])
            kept.append(pair)
        table = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return table.told(self.model.norm(x)), kept


def _turn(before: int, new: int, size: Size) -> Pair:
    """cos and sin (new, head) of the places from `before` on."""
    speed = plain_speed(size)
    if size.slowed is not None:
        speed = speed / slowness(size.slowed, speed)
    angle = torch.arange(before, before + new, dtype=torch.float32)[:, None] * speed
    whole = torch.cat([angle, angle], -1)
    return whole.cos(), whole.sin()


def plain_speed(size: Size) -> torch.Tensor:
    """(head / 2,): radians by which each pair of coordinates turns from one place to the next."""
    return size.rope_base ** (-torch.arange(0, size.head, 2, dtype=torch.float32) / size.head)


def slowness(slowed: Slowed, speed: torch.Tensor) -> torch.Tensor:
    """By what each speed (radians a place) is divided."""
    turns = slowed.before * speed / (2 * math.pi)
    share = ((turns - slowed.low) / (slowed.high - slowed.low)).clamp(0.0, 1.0)
    return 1.0 / ((1.0 - share) / slowed.factor + share)
