"""Finding 1: where safety drivers took over, grouped, ranked, with a contact sheet per group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleetmill.core.finding import Finding
from fleetmill.core.line import Line
from fleetmill.findings.gather import Episodes, Seen, Takeover, hours

BEFORE_NS, AFTER_NS = 1_000_000_000, 500_000_000  # of a clip, around the takeover
MOST_ROWS = 12  # of a sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Takeovers of one kind: the model that drove, the line's slices that hold around them, and the tags."""

    model: str
    inside: tuple[str, ...] | None  # None: the instants were cut into no episode, so nobody can tell
    outside: tuple[str, ...]
    tags: Mapping[str, str]
    takeovers: tuple[Takeover, ...]
    lived_hours: float  # of all new sessions with this model and these tags

    @property
    def per_hour(self) -> float:
        """Takeovers per lived hour."""
        return len(self.takeovers) / self.lived_hours if self.lived_hours else 0.0


def groups(seen: Seen, found: Sequence[Takeover], episodes: Episodes) -> list[Group]:
    """The takeovers grouped, the most frequent first.

    Slices and tags by which nothing differs (true of all takeovers, the same in all sessions) make no groups.
    """
    held = [_slices(seen.line, t, episodes) for t in found]
    telling = sorted(n for n in seen.line.slices if not all(names is None or n in names for names in held))
    tags = sorted({k for s in seen.new for k in s.tags if len({o.tags.get(k) for o in seen.new}) > 1})
    by_kind: dict[tuple[str, tuple[str, ...] | None, tuple[tuple[str, str], ...]], list[Takeover]] = {}
    for takeover, names in zip(found, held, strict=True):
        inside = None if names is None else tuple(n for n in telling if n in names)
        shown = tuple((k, takeover.session.tags[k]) for k in tags if k in takeover.session.tags)
        by_kind.setdefault((takeover.session.model, inside, shown), []).append(takeover)
    made = [
        Group(
            model=model,
            inside=inside,
            outside=() if inside is None else tuple(n for n in telling if n not in inside),
            tags=dict(shown),
            takeovers=tuple(members),
            lived_hours=hours([s for s in seen.new if s.model == model and set(shown) <= set(s.tags.items())]),
        )
        for (model, inside, shown), members in by_kind.items()
    ]
    return sorted(made, key=lambda g: (-len(g.takeovers), -g.per_hour, g.model, g.inside or (), sorted(g.tags.items())))


def finding(seen: Seen, group: Group, total: int, *, drawn: str) -> Finding:
    """What is said of a group; `drawn` is the digest of its contact sheet."""
    devices = Counter(t.session.device for t in group.takeovers)
    count, most = len(group.takeovers), devices.most_common(1)[0]
    drove = f"while model {group.model[:12]} drove" if group.model else "while no model of ours drove"
    return Finding(
        kind="failures",
        sentence=(
            f"{count} of {total} takeovers {drove}{where(group)}: {group.per_hour:.3g} per lived hour, "
            f"on {len(devices)} device{'s' * (len(devices) > 1)}, most on {most[0]} ({most[1]})"
        ),
        numbers={
            "count": count,
            "of": total,
            "lived_hours": rounded(group.lived_hours),
            "per_lived_hour": rounded(group.per_hour),
            "model": group.model,
            "slices": None if group.inside is None else list(group.inside),
            "outside": list(group.outside),
            "tags": dict(group.tags),
            "devices": dict(sorted(devices.items())),
            "shown": min(count, MOST_ROWS),
        },
        evidence=tuple(t.clip(BEFORE_NS, AFTER_NS) for t in group.takeovers),
        fact=max(seen.facts[t.session.key] for t in group.takeovers),
        sheet=drawn,
    )


def none(seen: Seen) -> Finding:
    """What is said when nobody took over."""
    clips = sum(len(s.recordings) for s in seen.new)
    return Finding(
        kind="failures",
        sentence=(
            f"no takeover in {clips} recordings of {len(seen.new)} new sessions ({seen.hours * 3600:.0f} s lived)"
        ),
        numbers={"count": 0, "recordings": clips, "sessions": len(seen.new), "lived_hours": rounded(seen.hours)},
        fact=seen.session_fact,
    )


def rounded(value: float) -> float:
    """Six digits: what is left is the same on every machine.

    >>> rounded(0.1234567891)
    0.123457
    """
    return float(f"{value:.6g}")


def _slices(line: Line, takeover: Takeover, episodes: Episodes) -> tuple[str, ...] | None:
    around = episodes.around(takeover.session.key, takeover.onset_ns, BEFORE_NS, AFTER_NS)
    return None if around is None else tuple(name for name, holds in sorted(line.slices.items()) if holds(around))


def where(group: Group) -> str:
    """What holds of a group, as the middle of a sentence; "" where nothing tells it from others."""
    if group.inside is None:
        parts = ["cut into no episode"]
    else:
        parts = [*group.inside, *(f"not {name}" for name in group.outside)]
    parts += [f"{key}={value}" for key, value in sorted(group.tags.items())]
    return f" ({', '.join(parts)})" if parts else ""
