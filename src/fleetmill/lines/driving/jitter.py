"""Colours that do not matter, made to vary: no model may learn the paint instead of the road.

Per picture one affine map of colour space, drawn at random: channel permutation, channel mixing (sd 0.6), contrast
0.3 to 1.7, gain 0.5 to 1.5 and offset +-80 per channel, inversion in 30 %; one picture in ten stays as it is. All of it
is one 3 x 3 matrix and one offset, so a batch costs one small matrix product.
"""

from __future__ import annotations

import torch

_MIXING, _CONTRAST, _GAIN, _OFFSET = 0.6, (0.3, 1.7), (0.5, 1.5), 80.0
_INVERTED, _UNTOUCHED = 0.3, 0.1
_GREY = 127.5


def recolour(pictures: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """float32 (B, H, W, 3) in 0..255 from the same: every picture in colours of its own."""
    batch, height, width, channels = pictures.shape
    matrix, offset = _maps(batch, chance)
    flat = torch.baddbmm(offset[:, None, :], pictures.reshape(batch, height * width, channels), matrix)
    return flat.clamp_(0.0, 255.0).reshape(pictures.shape)


def _maps(batch: int, chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix (B, 3, 3) and an offset (B, 3): new colour = old colour @ matrix + offset."""
    order = torch.rand(batch, 3, generator=chance).argsort(dim=1)
    permuted = torch.eye(3)[order]
    mixed = permuted @ (torch.eye(3) + _MIXING * torch.randn(batch, 3, 3, generator=chance))
    contrast = _uniform(chance, _CONTRAST, batch, 1)
    sign = 1.0 - 2.0 * (torch.rand(batch, 1, generator=chance) < _INVERTED).float()
    gain = sign * contrast * _uniform(chance, _GAIN, batch, 3)
    matrix = mixed * gain[:, None, :]
    shift = _uniform(chance, (-_OFFSET, _OFFSET), batch, 3)
    offset = _GREY + shift - _GREY * matrix.sum(dim=1)  # grey stays grey, but for the shift
    same = torch.rand(batch, generator=chance) < _UNTOUCHED
    return torch.where(same[:, None, None], torch.eye(3), matrix), torch.where(same[:, None], 0.0, offset)


def _uniform(chance: torch.Generator, bounds: tuple[float, float], *shape: int) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(*shape, generator=chance)
