"""Findings 4 and 5: devices that behave unlike the others, and the factory's own sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fleetmill.core.finding import Finding
from fleetmill.findings import rule
from fleetmill.findings.failures import AFTER_NS, BEFORE_NS, rounded
from fleetmill.findings.gather import Seen, Takeover, hours


def unlike(seen: Seen, found: Sequence[Takeover]) -> Iterator[Finding]:
    """A finding per device that is taken over more or less often than the rest, then the fleet's plain counts."""
    driven = {
        device: hours([s for s in seen.new if s.device == device and s.model])
        for device in sorted({s.device for s in seen.new})
    }
    asked = {device: time for device, time in driven.items() if time > 0}
    taken = Counter(t.session.device for t in found if t.session.model)
    total, time = sum(taken[d] for d in asked), sum(asked.values())
    alone = [rule.rates_differ(taken[d], h, total - taken[d], time - h) for d, h in asked.items()]
    standing_out = 0
    for (device, driven_hours), p, family in zip(asked.items(), alone, rule.holm(alone), strict=True):
        if family < rule.LEVEL:
            standing_out += 1
            rest = (total - taken[device]) / (time - driven_hours)
            yield _stands_out(seen, found, device, driven_hours, taken[device], rest, (p, family, len(asked)))
    yield _counted(seen, found, standing_out, len(asked))


def factory(seen: Seen, sheet: Mapping[str, Any]) -> Finding:
    """The factory's own sheet: what an accepted improvement cost so far."""
    accepted = sheet["accepted"]
    names = ("wall_seconds", "cpu_seconds", "bytes", "label_rows")
    each = {name: rounded(sheet[name] / accepted) for name in names} if accepted else {}
    said = "no improvement was accepted yet"
    if accepted:
        said = (
            f"{each['wall_seconds']:.3g} s of wall time, {each['cpu_seconds']:.3g} CPU-seconds, "
            f"{each['bytes'] / 1e6:.3g} MB and {each['label_rows']:.0f} label rows for each"
        )
    per = {f"{name}_per_accepted": each.get(name) for name in names}
    made = f"{sheet['candidates']} candidate{'s' * (sheet['candidates'] > 1)}"
    numbers = {name: rounded(v) if isinstance(v, float) else v for name, v in sheet.items()}
    return Finding(
        kind="factory",
        sentence=f"{made} made, {accepted} accepted (yield {sheet['yield']:.0%}); {said}",
        numbers={**numbers, **per},
        fact=seen.head,
    )


def _stands_out(
    seen: Seen,
    found: Sequence[Takeover],
    device: str,
    driven_hours: float,
    taken: int,
    rest: float,
    chances: tuple[float, float, int],
) -> Finding:
    p, family, devices = chances
    rate = taken / driven_hours
    return Finding(
        kind="unlike",
        sentence=(
            f"{device} is taken over {rate:.3g} times per lived hour, the rest of the fleet {rest:.3g} times: "
            f"p {family:.2g} over {devices} devices"
        ),
        numbers={
            "device": device,
            "takeovers": taken,
            "lived_hours": rounded(driven_hours),
            "per_lived_hour": rounded(rate),
            "rest_per_lived_hour": rounded(rest),
            "p": rounded(p),
            "p_family": rounded(family),
            "devices": devices,
        },
        evidence=tuple(t.clip(BEFORE_NS, AFTER_NS) for t in found if t.session.device == device),
        fact=max(seen.facts[s.key] for s in seen.new if s.device == device),
    )


def _counted(seen: Seen, found: Sequence[Takeover], standing_out: int, asked: int) -> Finding:
    counts = _counts(seen, found)
    total = {name: sum(c[name] for c in counts.values()) for name in ("bytes_kept", "crashes", "refused", "failed")}
    if asked < 2:
        said = "whether one stands out cannot be told: fewer than two were driven by a model"
    else:
        said = f"{standing_out or 'none'} of {asked} stand{'s' * (standing_out < 2)} out by takeovers"
    return Finding(
        kind="unlike",
        sentence=(
            f"{len(counts)} devices: {total['bytes_kept'] / 1e6:.1f} MB kept, {total['crashes']} crashes, "
            f"{total['refused']} refused and {total['failed']} failed deployments; {said}"
        ),
        numbers={**total, "devices": counts, "stand_out": standing_out, "asked": asked},
        fact=max(seen.session_fact, seen.newest_report),
    )


def _counts(seen: Seen, found: Sequence[Takeover]) -> dict[str, dict[str, Any]]:
    """Plain counts by device: of new sessions, and of reports since the turn before."""
    names = sorted({s.device for s in seen.new} | {str(r["device"]) for r in seen.reports})
    taken = Counter(t.session.device for t in found)
    said = Counter((str(r["device"]), str(r["state"])) for r in seen.reports)
    return {
        name: {
            "sessions": sum(s.device == name for s in seen.new),
            "lived_hours": rounded(hours([s for s in seen.new if s.device == name])),
            "takeovers": taken[name],
            "bytes_kept": sum(r.bytes for s in seen.new if s.device == name for r in s.recordings),
            "crashes": sum(s.device == name and s.ended == "crash" for s in seen.new),
            "refused": said[name, "refused"],
            "failed": said[name, "failed"],
        }
        for name in names
    }
