"""The rules for what a line cuts out of a stretch, and for how it scores episodes: each breach as one text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleetmill.core.line import Array, Episode, Feature, Line, Metrics, Policy, Stretch, Tally
from fleetmill.testing.compared import equal, member, same


def cut(line: Line, stretch: Stretch) -> list[str]:
    """What is wrong with the episodes of one stretch."""
    with member("cut"):
        found, again = list(line.cut(stretch)), list(line.cut(stretch))
    if len(found) != len(again) or not all(map(same, found, again)):
        return ["cut: two cuts of one stretch differ"]
    messages = list(stretch.messages)
    if not messages:
        return ["cut: gives an episode of a stretch without a message"] if found else []
    longest = max([1, *(f.hold_ns for f in line.features)])
    inside = (messages[0].log_time_ns, messages[-1].log_time_ns + longest)
    return [fault for e in found for fault in (_interval(e, *inside) or _columns(line, e))]


def _interval(e: Episode, first_ns: int, last_ns: int) -> list[str]:
    times = np.asarray(e.times_ns)
    if times.ndim != 1 or not len(times) or (np.diff(times) <= 0).any():
        return ["cut: an episode without rows, or whose times do not rise"]
    is_inside = first_ns <= e.start_ns and e.end_ns <= last_ns
    if not is_inside or e.end_ns <= int(times[-1]) or int(times[0]) < e.start_ns:
        return ["cut: an episode's interval must hold its rows and lie within its stretch"]
    return []


def _columns(line: Line, e: Episode) -> list[str]:
    features = {f.name: f for f in line.features}
    found = []
    for name, column in e.columns.items():
        if len(column) != len(e.times_ns):
            found.append(f"cut: column {name} has {len(column)} rows, the episode {len(e.times_ns)}")
        elif name not in features:
            found.append(f"cut: column {name} is not among the features")
        elif not _holds(column, features[name]):
            f = features[name]
            found.append(f"cut: column {name} is {column.dtype}{column.shape[1:]}, the feature is {f.dtype}{f.shape}")
    return found


def _holds(column: Array, feature: Feature) -> bool:
    shape = column.shape[1:]
    is_shaped = len(shape) == len(feature.shape) and all(w in (-1, g) for w, g in zip(feature.shape, shape))
    return is_shaped and (feature.dtype == "str" or str(column.dtype) == feature.dtype)


def scored(line: Line, policy: Policy, episodes: Sequence[Episode]) -> tuple[list[str], list[Tally]]:
    """(what is wrong with the scores, the slices and the pooled metrics of some episodes, their tallies)."""
    found: list[str] = []
    tallies: list[Tally] = []
    for e in episodes:
        with member("judging.score"):
            policy.reset()
            first = line.judging.score(policy, e)
            policy.reset()
            second = line.judging.score(policy, e)
        if not equal(first, second):
            found.append("judging.score: two scores of one episode differ")
        tallies.append(first)
        for name, belongs in line.slices.items():
            with member(f"slice {name!r}"):
                answer: object = belongs(e)
            if not isinstance(answer, (bool, np.bool_)):
                found.append(f"slice {name!r}: must answer True or False, not {answer!r}")
    if len({tuple(sorted(t)) for t in tallies}) > 1:
        found.append("judging.score: every episode's tally must have the same names, since trials are pooled")
    return [*found, *pooled(line, tallies)], tallies


def pooled(line: Line, tallies: Sequence[Tally]) -> list[str]:
    """What is wrong with the metrics of some tallies."""
    once = metrics(line, tallies)
    for other in (tallies[::-1], [*tallies[1:], *tallies[:1]], [*tallies[::2], *tallies[1::2]]):
        turned = metrics(line, other)
        if once.keys() != turned.keys() or not all(np.isclose(once[k], turned[k], equal_nan=True) for k in once):
            return ["judging.metrics: the order of tallies changes the metrics"]
    return []


def metrics(line: Line, tallies: Sequence[Tally]) -> Metrics:
    """The line's own, each a number."""
    with member("judging.metrics"):
        return {name: float(value) for name, value in line.judging.metrics(tallies).items()}
