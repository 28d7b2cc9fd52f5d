"""Finding 3: whether what the fleet sees and does has changed, new sessions against those of the dataset before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fleetmill.core.finding import Evidence, Finding
from fleetmill.core.line import Array, Feature
from fleetmill.core.recording import Session
from fleetmill.findings import rule
from fleetmill.findings.failures import rounded
from fleetmill.findings.gather import Episodes, Seen

KINDS = ("observation", "action")  # what the machine meets and does; labels and extras belong to who judged it
ROWS = 48  # of a session, evenly spread: rows of a session are alike, so more of them tell little
MOST_SESSIONS = 200  # on a side, evenly spread
_SHOWN = 3  # sessions whose recordings stand as evidence
_COLOURS = ("red", "green", "blue")

Column = list[Array]  # one component: a session's rows each


def findings(seen: Seen, episodes: Episodes) -> Iterator[Finding]:
    """A finding per component that drifted, the furthest first; one that says so when none did or nobody can tell."""
    if not seen.turn:
        return  # nothing was before
    new = {s.key for s in seen.new}
    sides = [_spread([s for s in seen.known.values() if (s.key in new) is is_new]) for is_new in (True, False)]
    rows = {s.key: components(seen, episodes, s) for side in sides for s in side}
    mine, old = ([s for s in side if rows[s.key]] for side in sides)
    names = _common([rows[s.key] for s in (*mine, *old)])
    why_not = _too_few(len(mine), len(old), len(names))
    if why_not:
        yield _told(seen, f"drift cannot be told: {why_not}", mine, old, names)
        return
    columns = [[rows[s.key][name] for s in (*mine, *old)] for name in names]
    found = rule.shifts(columns, [True] * len(mine) + [False] * len(old), seed=seen.turn)
    drifted = [(s, n, c) for s, n, c in zip(found, names, columns, strict=True) if s.p_family < rule.LEVEL]
    for shift, name, column in sorted(drifted, key=lambda d: (-d[0].distance, d[1])):
        yield _drifted(seen, shift, name, column, mine, old, len(names))
    if not drifted:
        least = min(found, key=lambda s: s.p_family).p_family
        yield _told(
            seen,
            f"no drift in {len(names)} components: {len(mine)} new sessions against {len(old)} before, "
            f"least p {least:.2g} over the family",
            mine,
            old,
            names,
        )


def components(seen: Seen, episodes: Episodes, session: Session) -> dict[str, Array]:
    """A session's rows by scalar component, those that are numbers; of a picture the mean of each channel.

    ``state`` of width 2 gives ``state[0]`` and ``state[1]``, a camera ``camera.red`` and so on.
    """
    features = [f for f in seen.line.features if f.kind in KINDS and f.dtype != "str"]
    held = episodes.rows(session.key, [f.name for f in features], most=ROWS)
    found: dict[str, Array] = {}
    for feature in features:
        if feature.name in held:
            for name, values in _scalars(feature, held[feature.name]):
                finite = values[np.isfinite(values)]
                if len(finite):
                    found[name] = finite
    return found


def _scalars(feature: Feature, rows: Array) -> Iterator[tuple[str, Array]]:
    if len(feature.shape) == 3:
        means = _means(rows)
        named = _COLOURS if means.shape[1] == len(_COLOURS) else tuple(map(str, range(means.shape[1])))
        yield from ((f"{feature.name}.{channel}", means[:, i]) for i, channel in enumerate(named))
        return
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    alone = feature.shape == ()
    yield from ((feature.name if alone else f"{feature.name}[{i}]", flat[:, i]) for i in range(flat.shape[1]))


def _means(rows: Array) -> Array:
    """(N, channels): the mean over a picture's points."""
    flat = rows.reshape(len(rows), -1, rows.shape[-1])
    return np.asarray(np.einsum("npc->nc", flat.astype(np.float32)) / flat.shape[1], np.float64)


def _spread(sessions: Sequence[Session]) -> list[Session]:
    ordered = sorted(sessions, key=lambda s: (s.device, s.number))
    picked = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_SESSIONS)).astype(int))
    return [ordered[i] for i in picked]


def _common(rows: Sequence[Mapping[str, Array]]) -> list[str]:
    """The components that every session has."""
    return sorted(set.intersection(*(set(r) for r in rows))) if rows else []


def _too_few(new: int, old: int, names: int) -> str:
    if min(new, old) < rule.LEAST_SESSIONS:
        return f"{new} new and {old} earlier sessions have rows, at least {rule.LEAST_SESSIONS} of each are needed"
    if not names:
        return "the sessions have no component in common"
    if names * rule.least_chance(new, old) >= rule.LEVEL:
        return f"{new} sessions against {old} cannot single out one of {names} components, however far apart"
    return ""


def _drifted(
    seen: Seen, shift: rule.Shift, name: str, column: Column, mine: list[Session], old: list[Session], of: int
) -> Finding:
    new_rows, old_rows = np.concatenate(column[: len(mine)]), np.concatenate(column[len(mine) :])
    means = float(new_rows.mean()), float(old_rows.mean())
    return Finding(
        kind="drift",
        sentence=(
            f"{name} drifted: KS distance {shift.distance:.2f} between {len(mine)} new sessions (mean {means[0]:.4g}) "
            f"and {len(old)} before (mean {means[1]:.4g}), p {shift.p_family:.2g} over {of} components"
        ),
        numbers={
            "component": name,
            "ks": rounded(shift.distance),
            "p": rounded(shift.p),
            "p_family": rounded(shift.p_family),
            "components": of,
            "permutations": rule.permutations(of),
            "mean_new": rounded(means[0]),
            "mean_before": rounded(means[1]),
            **_counts(mine, old),
        },
        evidence=tuple(_furthest(seen, column[: len(mine)], old_rows, mine)),
        fact=seen.dataset_fact,
    )


def _furthest(seen: Seen, columns: Column, old_rows: Array, mine: list[Session]) -> Iterator[Evidence]:
    """The recordings of the new sessions that are furthest from what was before."""
    far = [(rule.ks(rows, old_rows), s) for rows, s in zip(columns, mine, strict=True)]
    for _, session in sorted(far, key=lambda f: (-f[0], f[1].key))[:_SHOWN]:
        yield from seen.evidence(session, session.start_ns, session.end_ns)


def _told(seen: Seen, sentence: str, mine: list[Session], old: list[Session], names: list[str]) -> Finding:
    numbers = {"components": len(names), **_counts(mine, old)}
    return Finding(kind="drift", sentence=sentence, numbers=numbers, fact=seen.dataset_fact)


def _counts(mine: list[Session], old: list[Session]) -> dict[str, int]:
    return {"sessions_new": len(mine), "sessions_before": len(old)}
