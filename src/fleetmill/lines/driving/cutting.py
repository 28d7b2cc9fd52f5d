"""A gap-free stretch of messages becomes an episode: one row per picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fleetmill.core.line import Array, Episode, Feature, Stretch
from fleetmill.lines.driving.shape import FEATURES, STEP_NS

_FEWEST_FRAMES = 4
_OPTIONAL = {"model.steer": np.nan, "label.steer": np.nan, "takeover": 0.0}  # what stands where nothing was recorded

Track = tuple[list[int], list[Array]]


def cut(stretch: Stretch) -> Iterator[Episode]:
    """One episode with a column per feature, or none: fewer than four frames, or no picture, speed or steering.

    A picture gets the message of each other topic nearest to it in time, at most half a period away. A picture
    without speed or steering is no row; a missing label or model is NaN, a missing `takeover` is 0.
    """
    tracks: dict[str, Track] = {feature.name: ([], []) for feature in FEATURES}
    for message in stretch.messages:
        if message.topic in tracks:
            times, values = tracks[message.topic]
            times.append(message.log_time_ns)
            values.append(np.asarray(message.value["data"]))
    clock = np.unique(np.array(tracks["camera"][0], dtype=np.int64))  # a picture that came twice is one row
    found = {feature.name: _at(tracks[feature.name], feature, clock) for feature in FEATURES}
    whole = np.ones(len(clock), dtype=bool)
    for name, (_, there) in found.items():
        if name not in _OPTIONAL:
            whole &= there
    if whole.sum() < _FEWEST_FRAMES:
        return
    times_ns = clock[whole]
    yield Episode(
        device=stretch.device,
        session=stretch.session,
        start_ns=int(times_ns[0]),
        end_ns=int(times_ns[-1]) + STEP_NS,
        times_ns=times_ns,
        columns={name: column[whole] for name, (column, _) in found.items()},
        tags=dict(stretch.tags),
    )


def _at(track: Track, feature: Feature, clock: Array) -> tuple[Array, Array]:
    """The track's value at each tick of the clock, and whether there is one."""
    times = np.array(track[0], dtype=np.int64)
    column = np.full((len(clock), *feature.shape), _OPTIONAL.get(feature.name, 0), dtype=feature.dtype)
    if not len(times) or not len(clock):
        return column, np.zeros(len(clock), dtype=bool)
    after = np.searchsorted(times, clock).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(np.abs(times[before] - clock) < np.abs(times[after] - clock), before, after)
    there = np.abs(times[nearest] - clock) <= feature.hold_ns // 2
    values = np.stack(track[1]).reshape(len(times), *feature.shape)
    column[there] = values[nearest[there]]
    return column, there
