"""Our records as TUF's metadata and back, and how long each role's is good."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]

from fleetmill.release.keys import Role
from fleetmill.release.trust_rule import Published, Target

_DAY_NS = 86_400 * 10**9
LIFE_NS: dict[Role, int] = {
    "root": 365 * _DAY_NS,
    "targets": 90 * _DAY_NS,
    "snapshot": 7 * _DAY_NS,
    "timestamp": 1 * _DAY_NS,
}
COUNTERS = "x-fleet-counters"  # in targets.json: line -> highest release counter ever; TUF keeps unknown fields
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def targets_of(published: Published, *, version: int, now_ns: int) -> Targets:
    """The metadata that says `published`."""
    files = {
        path: TargetFile(
            target.length, {"sha256": target.sha256}, path, {"custom": dict(target.custom)} if target.custom else {}
        )
        for path, target in sorted(published.targets.items())
    }
    counters = {COUNTERS: dict(published.counters)}
    return Targets(version=version, expires=expiry("targets", now_ns), targets=files, unrecognized_fields=counters)


def published_of(targets: Targets) -> Published:
    """What the metadata says."""
    files = {
        path: Target(path=path, length=file.length, sha256=file.hashes["sha256"], custom=file.custom or {})
        for path, file in targets.targets.items()
    }
    return Published(targets=files, counters=targets.unrecognized_fields.get(COUNTERS, {}))


def ns(moment: datetime) -> int:
    """A moment as ns since 1970."""
    return (moment - _EPOCH) // timedelta(seconds=1) * 10**9


def expiry(role: Role, now_ns: int) -> datetime:
    """Until when metadata of the role is good that is signed now."""
    return _EPOCH + timedelta(seconds=(now_ns + LIFE_NS[role]) // 10**9)
