"""The network: a picture and a speed become a steering command. 48,000 parameters."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

_SPEED_MPS = 20.0  # so that the speed arrives near 1


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
        picture = camera.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        seen = self.look(picture).flatten(1)
        return cast("torch.Tensor", self.decide(torch.cat([seen, speed[:, None] / _SPEED_MPS], dim=1))[:, 0])
