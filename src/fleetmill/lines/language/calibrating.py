"""How sure a model may be: a temperature for what it answers, found on sessions that it did not learn from.

A model that has learned its rows by heart finds all its answers likely, one that has seen many rows finds few so. A
threshold that is fixed once means the same for both only if likelihoods are chances: so what comes next is divided by
the temperature at which answers of the sessions kept apart are told best. Which answer is likeliest stays as it is.

Source: Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fleetmill.core.line import Data, Episode

NAME = "sureness.json"
_TEMPERATURES = np.geomspace(0.25, 4.0, 65)
_PARTS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """Some episodes, as data."""

    chosen: tuple[Episode, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    def episode(self, index: int) -> Episode:
        """The nth."""
        return self.chosen[index]


def parted(data: Data, share: float) -> tuple[Apart, Apart]:
    """(what is learned, what is kept apart): whole sessions, by their names, so that later data change none of it.

    At least one session is kept apart where `share` is above 0 and there are two.
    """
    episodes = [data.episode(n) for n in range(len(data))]
    places = {(e.device, e.session): _place(e) for e in episodes}
    limit = share * _PARTS
    if share > 0.0 and len(places) > 1:
        limit = min(max(limit, min(places.values()) + 1), max(places.values()))
    taught = tuple(e for e in episodes if places[e.device, e.session] >= limit)
    return Apart(chosen=taught), Apart(chosen=tuple(e for e in episodes if places[e.device, e.session] < limit))


def temperature(surprise: Callable[[float], torch.Tensor]) -> float:
    """The temperature at which `surprise` (of answers that were kept apart) is least."""
    with torch.no_grad():
        told = [float(surprise(float(t))) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(told))])


def written(found: float) -> bytes:
    """As a file of the model."""
    return json.dumps({"temperature": found}).encode()


def read(files: Mapping[str, bytes] | None) -> float:
    """The temperature of a model; 1 where nothing is said."""
    return float(json.loads(files[NAME])["temperature"]) if files and NAME in files else 1.0


def _place(episode: Episode) -> int:
    """From 0 to a million, by the session's name."""
    name = f"{episode.device}/{episode.session}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % _PARTS
