"""Recordings of attempts become episodes: one per stretch, a row where state, action and label were recorded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fleetmill.core.line import Array, Episode, Stretch
from fleetmill.lines.arm.world import PERIOD_NS

_NEEDED = ("state", "move", "label.move")
_TAKEOVER = "takeover"


def cut(stretch: Stretch) -> Iterator[Episode]:
    """The stretch as one episode; nothing when no instant is complete. What the model proposed is left out."""
    instants: dict[int, dict[str, Array]] = {}
    for message in stretch.messages:
        data = message.value.get("data")
        if message.topic in (*_NEEDED, _TAKEOVER) and isinstance(data, np.ndarray):
            instants.setdefault(message.log_time_ns, {})[message.topic] = data
    times = [t for t in sorted(instants) if all(name in instants[t] for name in _NEEDED)]
    if not times:
        return
    columns = {name: np.stack([instants[t][name] for t in times]).astype(np.float32) for name in _NEEDED}
    # without the channel nobody took over: imported attempts
    columns[_TAKEOVER] = np.array([float(np.asarray(instants[t].get(_TAKEOVER, 0.0))) for t in times], np.float32)
    yield Episode(
        device=stretch.device,
        session=stretch.session,
        start_ns=times[0],
        end_ns=times[-1] + PERIOD_NS,
        times_ns=np.array(times, dtype=np.int64),
        columns=columns,
        tags=dict(stretch.tags),
    )
