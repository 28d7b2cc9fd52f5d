"""What a model told beforehand, as the document that is signed, and its track record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fleetmill.core import canonical, evidence
from fleetmill.core.document import read_document
from fleetmill.core.line import Array, Episode, Feature, Metrics, Tally
from fleetmill.core.plain import plain

TYPE, VERSION = "fleet.forecast", 1
_DIGITS = 9  # of a float32: they name it exactly
_NEWEST, _RESAMPLES = 200, 400
_LEAST_DEVICES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """The interval that must be recorded before it can be said how well it was told."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """What was told of one action feature: a row per instant, each of the feature's shape."""

    unit: str
    dtype: str
    rows: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """What one model told of one device, made at the last instant of what the device had recorded."""

    line: str
    line_version: int
    device: str
    session: str
    recording: str  # digest of the newest recording that it was told from
    model: str  # digest
    release: int  # the counter under which that model is in the field
    from_ns: int  # the first instant that the model saw
    at_ns: int  # the last: lived time of the device
    due: Due
    times_ns: tuple[int, ...]  # the instants that are told; of an alarm all since the last look, else the last
    values: Mapping[str, Series]
    type: str = TYPE
    version: int = VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> bytes:
        """The bytes that are signed: canonical JSON."""
        return canonical.dumps(plain(self))

    def episode(self) -> Episode:
        """The told rows as `Forecast.score` gets them."""
        return Episode(
            device=self.device,
            session=self.session,
            start_ns=self.from_ns,
            end_ns=self.at_ns + 1,
            times_ns=np.array(self.times_ns, np.int64),
            columns={name: np.array(s.rows, s.dtype) for name, s in self.values.items()},
        )

    def alarms(self, alarm: str) -> tuple[int, ...]:
        """The instants at which somebody is called, by the feature that says so."""
        rows = self.values[alarm].rows if alarm in self.values else ()
        return tuple(at for at, row in zip(self.times_ns, rows, strict=False) if row > 0.5)


def series(feature: Feature, rows: Array) -> Series:
    """Rows of a feature, (T, *shape), as JSON holds them; a float keeps the digits that name it."""
    values = np.asarray(rows)
    said = _short(values.tolist()) if np.issubdtype(values.dtype, np.floating) else values.tolist()
    return Series(unit=feature.unit, dtype=feature.dtype, rows=tuple(said))


def read_foretold(document: bytes, where: str) -> Foretold:
    """The forecast in a document.

    Raises:
        IntegrityError: it is none.
        TooNewError: a newer version wrote it.
    """
    return read_document(Foretold, document, where, type=TYPE, version=VERSION)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A pooled metric with its 95 % bootstrap interval; None: there are too few to tell."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackRecord:
    """How well a line's forecasts turned out so far."""

    told: int
    scored: int
    unmeasured: int  # what they spoke of was recorded, and there was nothing to score them by
    metrics: Mapping[str, Metric]  # of the newest `_NEWEST` that were scored
    of: int  # how many these are
    resampled: str  # what the interval is over: devices, or forecasts where there are few devices


def track_record(
    told: int,
    scored: Sequence[tuple[str, Tally]],
    unmeasured: int,
    pool: Callable[[Sequence[Tally]], Metrics],
) -> TrackRecord:
    """Pooled over the newest of `scored`: (device, tally), oldest first. Forecasts of one device are alike."""
    newest = scored[-_NEWEST:]
    by_device: dict[str, list[Tally]] = {}
    for device, tally in newest:
        by_device.setdefault(device, []).append(tally)
    over = "devices" if len(by_device) >= _LEAST_DEVICES else "forecasts"
    trials = list(by_device.values()) if over == "devices" else [[tally] for _, tally in newest]
    return TrackRecord(
        told=told,
        scored=len(scored),
        unmeasured=unmeasured,
        metrics=_pooled(trials, pool) if trials else {},
        of=len(newest),
        resampled=over,
    )


def _pooled(trials: Sequence[Sequence[Tally]], pool: Callable[[Sequence[Tally]], Metrics]) -> dict[str, Metric]:
    def whole(chosen: Sequence[Sequence[Tally]]) -> Metrics:
        return pool([tally for trial in chosen for tally in trial])

    found = evidence.intervals(trials, whole, seed=0, resamples=_RESAMPLES)
    few = len(trials) < evidence.LEAST_TRIALS
    return {
        name: Metric(value=value, low=None if few else _finite(low), high=None if few else _finite(high))
        for name, (value, low, high) in found.items()
        if math.isfinite(value)
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: Any) -> Any:
    return [_short(item) for item in value] if isinstance(value, list) else float(f"{value:.{_DIGITS}g}")
