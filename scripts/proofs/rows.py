"""A row of docs/proof.md, and how its figures are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetmill.core import evidence

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One promised figure as measured."""

    promise: str
    measured: str
    met: bool | None  # None: no bar was promised, or it could not be run here
    command: str


def absent(promise: str, command: str, why: str = "no recordings here") -> Row:
    """A figure that cannot be measured on this machine."""
    return Row(promise=promise, measured=why, met=None, command=command)


def spread(metric: Mapping[str, Any]) -> str:
    """A value with its interval."""
    return f"{metric['value']:.3g} [{metric['low']:.3g}, {metric['high']:.3g}]"


def by_seed(metric: Mapping[str, Any]) -> str:
    """The values of each seed."""
    return ", ".join(f"{value:.3g}" for value in metric["by_seed"])


def over(found: Mapping[str, float]) -> str:
    """A ratio with its interval."""
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def interval(found: evidence.Ratio) -> str:
    """A ratio of the library with its interval."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
