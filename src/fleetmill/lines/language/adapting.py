"""Adapt a network that knows something already: small matrices beside its own, which stay as they are. Loads torch.

Beside a matrix W stand A, drawn by chance, and B, nought at first: what goes through is W x + alpha / rank * B A x. The
rows of our marks, which no base has learned, are moved whole. Afterwards all of it is added to the network's weights,
so that its files are those of any other.

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

WEIGHTS = "weights"  # instead of names: nothing is adapted, all weights are trained
_PLACES = dict.fromkeys("qkvo", "self_attn") | dict.fromkeys(("gate", "up", "down"), "mlp")
_RANK, _ALPHA = 8, 16.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapting:
    """Which projections get small matrices, of which rank, and how much these count."""

    names: tuple[str, ...]
    rank: int
    scale: float


def asked(job: TrainJob) -> Adapting | None:
    """What a training's settings ask for; None: all weights are trained.

    ``adapt``: the projections, as ``"q, v"``, or ``"weights"``. Where nobody says: all of them for what came from a
    base, else ``"weights"``. What begins from nothing has nothing to adapt.

    Raises:
        InvalidInputError: an unknown projection, or a rank or alpha that is none.
    """
    text = str(job.settings.get("adapt", ", ".join(_PLACES) if job.parent and BASE_FILE in job.parent else WEIGHTS))
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    rank, alpha = int(job.settings.get("rank", _RANK)), float(job.settings.get("alpha", _ALPHA))
    if names != (WEIGHTS,) and (not names or not set(names) <= set(_PLACES)):
        raise InvalidInputError(f"language: adapt = {text!r}: must be {WEIGHTS!r}, or some of {', '.join(_PLACES)}")
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


class Marked(torch.nn.Module):
    """A table that stays as it is but for the rows of the marks."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.marks = torch.nn.Parameter(torch.zeros(len(MARKS), weight.shape[1]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 (...) -> (..., width)."""
        place = ids - END
        place = torch.where((place >= 0) & (place < len(MARKS)), place, len(MARKS))
        return functional.embedding(ids, self.weight) + functional.embedding(
            place, torch.cat([self.marks, torch.zeros_like(self.marks[:1])])
        )

    def told(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> logits (..., vocabulary)."""
        logits = functional.linear(x, self.weight)
        logits[..., END : END + len(MARKS)] += functional.linear(x, self.marks)
        return logits

    def moved(self) -> torch.Tensor:
        """What is to be added to the table."""
        return functional.pad(self.marks, (0, 0, END, len(self.weight) - END - len(MARKS)))


class Adapters(torch.nn.ModuleList):
    """All that is learned beside a network, put into it at once; `merge` adds it to the weights and takes it out."""

    def __init__(self, net: Llama, how: Adapting) -> None:
        super().__init__()
        self._weights = sum(p.numel() for p in net.requires_grad_(False).parameters())
        self._places: list[tuple[torch.nn.Module, str, torch.nn.Module]] = []
        for layer in net.model.layers:
            for name in how.names:
                owner = getattr(layer, _PLACES[name])
                self._put(owner, f"{name}_proj", Adapted(getattr(owner, f"{name}_proj").weight, how))
        self._put(net.model, "embed_tokens", Marked(net.model.embed_tokens.weight))
        if net.lm_head is not None:
            self._put(net, "lm_head", Marked(net.lm_head.weight))

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
