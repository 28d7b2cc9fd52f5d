"""Drives become episodes: gap-free runs of frames that a human steered and nobody marked deleted.

A drive is a session, so whole drives are held out; this file only ends runs inside one. A run ends where a frame was
left out by a human, was not steered by one, or comes more than three nominal periods after the one before it. A
picture that equals the one before it (a camera that stood still) is left out and ends nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Episode, Message, Stretch

PERIOD_NS = 50_000_000  # 20 Hz: the median of all three tubs
SHAPE = (120, 160, 3)
_APART_NS = 3 * PERIOD_NS
_FEWEST = 5  # frames: a shorter run says nothing
Row = dict[str, Array]


def cut(stretch: Stretch) -> Iterator[Episode]:
    """The stretch's runs, oldest first.

    Raises:
        InvalidInputError: the pictures are of another size than the line's.
    """
    run: list[tuple[int, Row]] = []
    for time_ns, row in _instants(stretch.messages):
        usable = _is_usable(row)
        if run and (not usable or time_ns - run[-1][0] > _APART_NS):
            yield from _episode(stretch, run)
            run = []
        if usable and not (run and np.array_equal(run[-1][1]["camera"], row["camera"])):
            run.append((time_ns, row))
    yield from _episode(stretch, run)


def _instants(messages: Iterable[Message]) -> Iterator[tuple[int, Row]]:
    """Messages of one log time together: the car writes all of a record at once."""
    now, row = 0, Row()
    for message in messages:
        if row and message.log_time_ns != now:
            yield now, row
            row = {}
        data = message.value.get("data")
        now = message.log_time_ns
        if isinstance(data, np.ndarray):
            row[message.topic] = data
    if row:
        yield now, row


def _is_usable(row: Row) -> bool:
    return "camera" in row and "label.steer" in row and float(row.get("deleted", np.zeros(()))) < 0.5


def _episode(stretch: Stretch, run: list[tuple[int, Row]]) -> Iterator[Episode]:
    if len(run) < _FEWEST:
        return
    times = [time_ns for time_ns, _ in run]
    yield Episode(
        device=stretch.device,
        session=stretch.session,
        start_ns=times[0],
        end_ns=times[-1] + PERIOD_NS,
        times_ns=np.array(times, dtype=np.int64),
        columns={
            "camera": np.stack([_picture(row["camera"]) for _, row in run]),
            "label.steer": _numbers("label.steer", run),
            "range_cm": _numbers("range_cm", run),
        },
        tags=dict(stretch.tags),
    )


def _picture(data: Array) -> Array:
    if data.shape != SHAPE or data.dtype != np.uint8:
        raise InvalidInputError(f"camera: expected uint8 {SHAPE}, found {data.dtype} {data.shape}.")
    return data


def _numbers(name: str, run: list[tuple[int, Row]]) -> Array:
    return np.array([float(row.get(name, np.array(np.nan))) for _, row in run], dtype=np.float32)
