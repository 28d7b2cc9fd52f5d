"""Adapt a network that knows something already: small matrices beside its own, which stay as they are. Loads torch.

Beside a matrix W stand A, drawn by chance, and B, nought at first: what goes through is W x + alpha / rank * B A x. The
rows of our marks, which no base has learned, are moved whole; where that is asked, all rows of its tables are.
Afterwards all of it is added to the network's weights, so that its files are those of any other.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import TrainJob
from fleetmill.core.model import BASE_FILE
from fleetmill.lines.language.net import Llama
from fleetmill.lines.vocabulary import END, MARKS

TABLE = "table"  # beside projections: every row of what goes in and comes out
WEIGHTS = "weights"  # instead of names: nothing is adapted, all weights are trained
_PLACES = dict.fromkeys("qkvo", "self_attn") | dict.fromkeys(("gate", "up", "down"), "mlp")
_RANK, _ALPHA = 8, 16.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapting:
    """Which projections get small matrices (and whether tables are moved), of which rank, how much these count."""

    names: tuple[str, ...]
    rank: int
    scale: float


def asked(job: TrainJob) -> Adapting | None:
    """What a training's settings ask for; None: all weights are trained.

    ``adapt``: the projections and perhaps the table, as ``"q, v, table"``; or ``"weights"``. Where nobody says: all
    projections for what came from a base, else ``"weights"``. What begins from nothing has nothing to adapt.

    Raises:
        InvalidInputError: an unknown projection, or a rank or alpha that is none.
    """
    text = str(job.settings.get("adapt", ", ".join(_PLACES) if job.parent and BASE_FILE in job.parent else WEIGHTS))
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    rank, alpha = int(job.settings.get("rank", _RANK)), float(job.settings.get("alpha", _ALPHA))
    if names != (WEIGHTS,) and (not names or not set(names) <= {*_PLACES, TABLE}):
        known = ", ".join((*_PLACES, TABLE))
        raise InvalidInputError(f"language: adapt = {text!r}: must be {WEIGHTS!r}, or some of {known}")
    if rank < 1 or not (math.isfinite(alpha) and alpha > 0):
        raise InvalidInputError(f"language: rank = {rank}, alpha = {alpha:g}: must be at least 1, and above 0")
    if names == (WEIGHTS,) or not job.parent:
        return None
    return Adapting(names=names, rank=rank, scale=alpha / rank)


class Adapted(torch.nn.Module):
    """A projection that stays as it is, and the small matrices beside it. Only these are its state."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, how: Adapting) -> None:
        super().__init__()
        self.scale = how.scale
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.a = torch.nn.Parameter(torch.empty(how.rank, weight.shape[1]))
        self.b = torch.nn.Parameter(torch.zeros(weight.shape[0], how.rank))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        beside = functional.linear(functional.linear(x, self.a), self.b)
        return functional.linear(x, self.weight) + self.scale * beside

    def moved(self) -> torch.Tensor:
        """What is to be added to the projection."""
        return self.scale * self.b @ self.a


class Moved(torch.nn.Module):
    """A table that stays as it is, and what is added to rows of it: those of the marks, or all. Only that is state."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, how: Adapting) -> None:
        super().__init__()
        self.first, number = (0, len(weight)) if TABLE in how.names else (END, len(MARKS))
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.rows = torch.nn.Parameter(torch.zeros(number, weight.shape[1]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 (...) -> (..., width)."""
        place = ids - self.first
        place = torch.where((place >= 0) & (place < len(self.rows)), place, len(self.rows))
        padded = torch.cat([self.rows, torch.zeros_like(self.rows[:1])])
        return functional.embedding(ids, self.weight) + functional.embedding(place, padded)

    def told(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> logits (..., vocabulary)."""
        logits = functional.linear(x, self.weight)
        logits[..., self.first : self.first + len(self.rows)] += functional.linear(x, self.rows)
        return logits

    def moved(self) -> torch.Tensor:
        """What is to be added to the table."""
        return functional.pad(self.rows, (0, 0, self.first, len(self.weight) - self.first - len(self.rows)))


class Adapters(torch.nn.ModuleList):
    """All that is learned beside a network, put into it at once; `merge` adds it to the weights and takes it out."""

    def __init__(self, net: Llama, how: Adapting) -> None:
        super().__init__()
        self._weights = sum(p.numel() for p in net.requires_grad_(False).parameters())
        self._places: list[tuple[torch.nn.Module, str, torch.nn.Module]] = []
        for layer in net.model.layers:
            for name in (name for name in how.names if name in _PLACES):
                owner = getattr(layer, _PLACES[name])
                self._put(owner, f"{name}_proj", Adapted(getattr(owner, f"{name}_proj").weight, how))
        self._put(net.model, "embed_tokens", Moved(net.model.embed_tokens.weight, how))
        if net.lm_head is not None:
            self._put(net, "lm_head", Moved(net.lm_head.weight, how))

    def share(self) -> float:
        """How many weights are learned for each that the network has."""
        return sum(p.numel() for p in self.parameters()) / self._weights

    def merge(self) -> None:
        """Add what was learned; the network is as it was, but for its weights."""
        for beside, (owner, name, own) in zip(self, self._places, strict=True):
            own.weight.add_(beside.moved().detach())  # type: ignore[operator]
            setattr(owner, name, own)

    def _put(self, owner: torch.nn.Module, name: str, beside: torch.nn.Module) -> None:
        self._places.append((owner, name, getattr(owner, name)))
        setattr(owner, name, beside)
        self.append(beside)
