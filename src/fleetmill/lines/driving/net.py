"""The network: a picture and a speed become a steering command. 48,000 parameters."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

_SPEED_MPS = 20.0  # so that the speed arrives near 1
_PLAIN = 25.0  # variance added to a channel's own: five grey levels of noise are not blown up to a picture


class SteeringNet(nn.Module):
    """Three convolutions and two dense layers. Takes what the recording holds: uint8 pictures, metres per second."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2), nn.ReLU(),
        )  # fmt: skip
        self.decide = nn.Sequential(nn.Linear(32 * 4 * 4 + 1, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, camera: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
        """camera (B, 42, 48, 3) uint8 or float32 in 0..255, speed (B,) -> steer (B,)."""
        seen = self.look(_standardised(camera.permute(0, 3, 1, 2).float())).flatten(1)
        return cast("torch.Tensor", self.decide(torch.cat([seen, speed[:, None] / _SPEED_MPS], dim=1))[:, 0])


def _standardised(picture: torch.Tensor) -> torch.Tensor:
    """Each channel of each picture around its own mean, in its own spread: paint and light matter less."""
    apart = picture - picture.mean(dim=(2, 3), keepdim=True)
    return apart / torch.sqrt((apart * apart).mean(dim=(2, 3), keepdim=True) + _PLAIN)
