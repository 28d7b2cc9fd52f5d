"""Which lines are installed, and what each observes and does: told for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from fleetmill.core.line import Check, Feature, Line
from fleetmill.lines import GROUP


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """One entry point of the group. With `error`, nothing is known but where it came from."""

    name: str
    distribution: str
    version: str  # of the distribution
    module: str
    error: str = ""
    observes: tuple[str, ...] = ()  # "speed float32 (3,) m/s"
    does: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    rate_hz: float = 0.0
    checks: tuple[str, ...] = ()
    lives: str = ""  # "world" or "replay"
    importers: tuple[str, ...] = ()
    cut_version: int = 0
    split: str = ""


def installed() -> list[Installed]:
    """Every installed line by name; one whose package is broken with its error."""
    return [_look(point) for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value))]


def in_words(check: Check) -> str:
    """A check as a person would say it."""
    side = "at most" if check.better == "lower" else "at least"
    limit = f"{check.limit:g}" if check.against == "limit" else f"{check.limit:g} x the {check.against}'s"
    where = f" ({check.slice})" if check.slice else ""
    later = "" if check.first else ", not asked of the first model"
    forbidden = f", no held-out label by {' or '.join(check.forbids)}" if check.forbids else ""
    return f"{check.metric}{where} {side} {limit}{later}{forbidden}"


def _look(point: EntryPoint) -> Installed:
    distribution = point.dist.name if point.dist else "unknown"
    version = point.dist.version if point.dist else ""
    try:
        line = point.load()
    except Exception as error:  # noqa: BLE001 - what a foreign package raises while it loads is anybody's guess
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Installed(
            name=point.name, distribution=distribution, version=version, module=point.value, error=said[:200]
        )
    if not isinstance(line, Line):
        wrong = f"must be a Line, it is a {type(line).__name__}"
        return Installed(name=point.name, distribution=distribution, version=version, module=point.value, error=wrong)
    return Installed(
        name=point.name,
        distribution=distribution,
        version=version,
        module=point.value,
        observes=_told(f for f in line.features if f.kind == "observation"),
        does=_told(f for f in line.features if f.kind == "action"),
        labels=_told(f for f in line.features if f.kind == "label"),
        rate_hz=line.model.rate_hz,
        checks=tuple(in_words(check) for check in line.checks),
        lives="world" if line.world else "replay",
        importers=(*(i.name for i in line.importers), "mcap"),
        cut_version=line.version,
        split=line.split,
    )


def _told(features: Iterable[Feature]) -> tuple[str, ...]:
    return tuple(" ".join([f.name, f.dtype, *([str(f.shape)] if f.shape else []), f.unit]) for f in features)
