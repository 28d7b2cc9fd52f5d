"""Whether a staged model may run here: measured values against signed limits. Pure, the hand beside it is `health`."""

from __future__ import annotations

from dataclasses import dataclass

from fleetmill.device.update_rule import MODEL, Release

HEALTHY = "healthy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a child process saw when it ran the model over its golden frames, one frame at a time."""

    model_sha256: str  # of the bytes that were really loaded
    golden_sha256: str
    not_finite: int  # values that are NaN or infinite, over all outputs and frames
    stuck: int  # outputs that never change although the golden ones do
    difference: float | None  # largest absolute difference from the golden outputs; None: they cannot be compared
    latency_ns: int  # p99 of single asks in the quietest tenth of the sampling
    memory_bytes: int  # peak of the process above what it took with an empty model


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthCheck:
    """One check: passes when `measured` is at most `limit`. None: it could not be measured, which does not pass."""

    name: str
    measured: float | None
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it was measured and is within the limit."""
        return self.measured is not None and self.measured <= self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The result of all checks. `failure`: why the child gave no measurements, one line of facts; else empty."""

    checks: tuple[HealthCheck, ...]
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether the model may become active."""
        return not self.failure and all(check.passed for check in self.checks)

    @property
    def line(self) -> str:
        """One line of facts: what failed, or that nothing did."""
        bad = [f"{c.name} {c.measured} above {c.limit}" for c in self.checks if not c.passed]
        return self.failure or "; ".join(bad) or HEALTHY


def judge(measured: Measured | None, release: Release, *, failure: str = "") -> Health:
    """Measured values against the limits that are signed with `release`. No measurements: nothing passes.

    Wrong bytes count as 1 where 0 are allowed, so that every check reads alike.
    """
    signed = next(file.sha256 for file in release.files if file.name == MODEL)
    limits: dict[str, float] = {
        "wrong_model": 0,
        "wrong_golden": 0,
        "not_finite": 0,
        "stuck": 0,
        "difference": release.tolerance,
        "latency_ns": release.latency_ns,
        "memory_bytes": release.memory_bytes,
    }
    found = {} if measured is None else _values(measured, signed, release.golden_sha256)
    checks = tuple(HealthCheck(name=name, measured=found.get(name), limit=limit) for name, limit in limits.items())
    return Health(checks=checks, failure=failure)


def _values(measured: Measured, model_sha256: str, golden_sha256: str) -> dict[str, float | None]:
    return {
        "wrong_model": int(measured.model_sha256 != model_sha256),
        "wrong_golden": int(measured.golden_sha256 != golden_sha256),
        "not_finite": measured.not_finite,
        "stuck": measured.stuck,
        "difference": measured.difference,
        "latency_ns": measured.latency_ns,
        "memory_bytes": measured.memory_bytes,
    }
