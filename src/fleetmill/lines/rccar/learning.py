"""Imitate the driver: the mean of a small conv net and of a vote of similar pictures. Loads torch: imported by `train`.

On 24 drives a kernel model that compares whole pictures is as good as a conv net, and wrong elsewhere, so their mean
beats both (docs/lines/rccar.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, ModelSpec, Tracker, TrainJob
from fleetmill.engines.export_onnx import export
from fleetmill.lines.fit import Plan, fit, steady, take_over, weights

_STEPS = 1200
_RATE = 2e-3
_DECAY = 1e-2
_DROP = 0.5
_KNOWN = 400  # pictures that are compared with: 800 were no better
_SMOOTH = 0.7  # ridge of their pull
_BATCH = 64
_SKY = 48  # rows of the camera above the floor: walls and people teach what does not come again
_SHRINK = 4  # 72 x 160 -> 18 x 40
_SHIFT = 1  # pixels of the shrunk picture, each way
_LIGHT = 0.15  # spread of the random brightness; a third of it for each colour


class CarNet(torch.nn.Module):
    """Camera uint8 (B, 120, 160, 3) -> steer (B,) as a share of full lock."""

    mean: torch.Tensor
    known: torch.Tensor
    known_square: torch.Tensor
    pull: torch.Tensor
    width: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))  # of the first training's labels: the rest is learned
        # pictures that new ones are compared with, one a column: the exporter would write a turned copy beside rows
        self.register_buffer("known", torch.zeros(3 * 9 * 20, _KNOWN))
        self.register_buffer("known_square", torch.zeros(_KNOWN))  # their squared lengths
        self.register_buffer("pull", torch.zeros(_KNOWN))  # how far each steers from the mean
        self.register_buffer("width", torch.ones(()))
        relu, conv = torch.nn.ReLU, torch.nn.Conv2d
        self.layers = torch.nn.Sequential(
            conv(3, 16, 5, 2), relu(), conv(16, 32, 3, 2), relu(), conv(32, 32, 3, 1, 1), relu(), torch.nn.Flatten(),
            torch.nn.Dropout(_DROP), torch.nn.Linear(32 * 3 * 8, 64), relu(), torch.nn.Dropout(_DROP),
            torch.nn.Linear(64, 1),
        )  # fmt: skip

    def forward(self, camera: torch.Tensor) -> torch.Tensor:
        """Steer for each picture."""
        small = shrink(camera)
        return 0.5 * (self.seen(small) + self.recalled(small))

    def seen(self, small: torch.Tensor) -> torch.Tensor:
        """The conv net's answer to pictures that are shrunk already (B, 3, 18, 40)."""
        answer: torch.Tensor = self.layers(small)
        return answer[:, 0] + self.mean

    def recalled(self, small: torch.Tensor) -> torch.Tensor:
        """The vote of the known pictures, the more alike the more it counts."""
        distance = apart(coarse(small), self.known, self.known_square)
        return torch.exp(-self.width * distance) @ self.pull + self.mean

    def recall(self, tiny: torch.Tensor, label: torch.Tensor, chance: np.random.Generator) -> None:
        """Choose known pictures among `tiny` (N, 540) and solve for their pull: kernel ridge on a subset of rows.

        Source: Smola and Bartlett, Sparse Greedy Gaussian Process Regression, 2001 (subset of regressors).
        """
        rows = torch.from_numpy(np.sort(chance.permutation(len(tiny))[:_KNOWN]))
        known, count = tiny[rows].T.contiguous(), len(rows)
        length = known.square().sum(0)
        distance = apart(tiny, known, length).double()
        width = 1.0 / distance.median().clamp_min(1e-6)
        near, among = torch.exp(-width * distance), torch.exp(-width * apart(known.T, known, length).double())
        square = near.T @ near + _SMOOTH * among + 1e-6 * torch.eye(count, dtype=torch.float64)
        self.known.zero_()[:, :count] = known
        self.known_square.zero_()[:count] = length
        self.pull.zero_()[:count] = torch.linalg.solve(square, near.T @ (label - self.mean).double()).float()
        self.width.copy_(width)


def coarse(small: torch.Tensor) -> torch.Tensor:
    """(B, 3, 18, 40) -> (B, 540): what pictures are compared by."""
    return torch.nn.functional.avg_pool2d(small, 2).flatten(1)


def apart(rows: torch.Tensor, columns: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Squared distances (R, C) of rows (R, N) from columns (N, C) with squared lengths (C,)."""
    squares = rows.square().sum(1, keepdim=True) + length - 2.0 * rows @ columns
    return squares.clamp_min(0.0)


def shrink(camera: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 120, 160, 3) -> float32 (B, 3, 18, 40): the floor, means of 4 x 4 pixels, within -0.5..0.5."""
    small = torch.nn.functional.avg_pool2d(camera[:, _SKY:].permute(0, 3, 1, 2).to(torch.float32), _SHRINK)
    return small / 255.0 - 0.5


def train(job: TrainJob, tracker: Tracker, spec: ModelSpec) -> Mapping[str, bytes]:
    """Mean squared distance to the driver over all training frames, each as likely as the other.

    From a parent the conv net goes on; what is recalled is solved anew from all rows, in closed form.

    Raises:
        InvalidInputError: there is no frame to learn from.
        LineError: the parent's weights are another network's.
        Stopped: the run was cancelled through the tracker.
    """
    steps, rate = int(job.settings.get("steps", _STEPS)), float(job.settings.get("rate", _RATE))
    with steady(job.seed):
        net = CarNet()
        take_over(net, job.parent)
        if steps:
            _teach(net, job, Plan(steps=steps, rate=rate, decay=_DECAY), tracker)
        return {"model.onnx": export(net, spec), "weights.safetensors": weights(net)}


def _teach(net: CarNet, job: TrainJob, plan: Plan, tracker: Tracker) -> None:
    data = job.data.split("train")
    if not len(data):
        raise InvalidInputError("rccar: no frame to learn from; import a tub with at least one drive that trains")
    labels = torch.from_numpy(np.array(data.column("label.steer"), dtype=np.float32))
    small = _small(data.column("camera"))
    if job.parent is None:
        net.mean.fill_(float(labels.mean()))
    net.recall(coarse(small.float()), labels, np.random.default_rng((job.seed, 0, 1)))

    def loss(chance: np.random.Generator) -> torch.Tensor:
        drawn = torch.from_numpy(chance.integers(len(labels), size=_BATCH))
        seen = _lit(_shifted(small[drawn].to(torch.float32), chance), chance)
        return torch.nn.functional.mse_loss(net.seen(seen.to(job.accelerator)), labels[drawn].to(job.accelerator))

    fit(net, loss, plan, job, tracker, {"rows.driver": float(len(labels))})


def _small(camera: Array) -> torch.Tensor:
    """Every frame shrunk once, float16 to hold 100,000 in 700 MB; the rounding is far below the camera's noise."""
    parts = (np.array(camera[i : i + 256]) for i in range(0, len(camera), 256))
    return torch.cat([shrink(torch.from_numpy(part)).to(torch.float16) for part in parts])


def _shifted(small: torch.Tensor, chance: np.random.Generator) -> torch.Tensor:
    """Each picture moved by up to `_SHIFT` pixels, its edge repeated: a mount is never exactly the same."""
    count, _, high, wide = small.shape
    room = torch.nn.functional.pad(small, (_SHIFT,) * 4, mode="replicate")
    down, right = chance.integers(0, 2 * _SHIFT + 1, size=(2, count))
    return torch.stack([room[i, :, y : y + high, x : x + wide] for i, (y, x) in enumerate(zip(down, right))])


def _lit(small: torch.Tensor, chance: np.random.Generator) -> torch.Tensor:
    """Each picture in another light: one gain for all, one gain and offset per colour."""
    count = len(small)
    gain = np.exp(chance.normal(0, _LIGHT, (count, 1, 1, 1)) + chance.normal(0, _LIGHT / 3, (count, 3, 1, 1)))
    offset = chance.normal(0, _LIGHT / 3, (count, 3, 1, 1))
    return (small + 0.5) * torch.from_numpy(gain).float() - 0.5 + torch.from_numpy(offset).float()
