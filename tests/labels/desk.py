"""A factory with a line whose labels come from outside: a machine that is watched by one number and by a camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fleetmill.core.line import Check, Feature, Line, Message
from fleetmill.core.recording import RecordingInfo
from fleetmill.lines.ready import rows_of
from fleetmill.receive import imports
from fleetmill.seams import recordings
from fleetmill.testing import tiny_line

NS, PERIOD = 10**9, 10**8
START = 1_800_000_000 * NS
ROWS = 20


def feature(name, kind, shape=(), dtype="float32"):
    return Feature(name=name, kind=kind, dtype=dtype, shape=shape, unit="1", hold_ns=PERIOD)


# x is recorded, label.y only sometimes: like the tiny line, whose training and judging it takes
LINE: Line = replace(
    tiny_line,
    name="desk",
    features=(
        feature("x", "observation", (3,)),
        feature("view", "observation", (8, 12, 3), "uint8"),
        feature("y", "action"),
        feature("label.y", "label"),
        feature("label.boxes", "label", (3, 5)),
        feature("label.note", "label", (), "str"),
    ),
    cut=rows_of("x", "label.y", period_ns=PERIOD),
    world=None,
    recipe=None,
    triggers=(),
    importers=(),
    checks=(
        Check(metric="error", better="lower", against="champion", limit=1.02, first=False),
        Check(metric="error", better="lower", against="baseline", limit=1.0),
    ),
)
WEIGHTS = np.array([-1.0, 1.0, 2.0], np.float32)


def start_of(number):
    return START + number * 3600 * NS


def observed(number):
    return np.random.default_rng(number).normal(size=(ROWS, 3)).astype(np.float32)


def right(number):
    return (observed(number) @ WEIGHTS).astype(np.float32)


def times(number):
    return [start_of(number) + i * PERIOD for i in range(ROWS)]


def messages(number, *, label=None, view=False) -> Iterator[Message]:
    chance = np.random.default_rng(number)
    for at, x in zip(times(number), observed(number), strict=True):
        values = {"x": x}
        if label is not None:
            values["label.y"] = np.float32(label)
        if view:
            values["view"] = chance.integers(0, 255, (8, 12, 3)).astype(np.uint8)
        for topic, value in values.items():
            yield Message(topic=topic, log_time_ns=at, publish_time_ns=at, value={"data": np.asarray(value)})


def record(folder, number, *, device="press", **what):
    """A session of two seconds as an MCAP file."""
    known = {f.name: f for f in LINE.features}
    held = [recordings.encode(known[m.topic], m) for m in messages(number, **what)]
    info = RecordingInfo(
        device=device,
        session=f"s{number}",
        line="desk",
        start_ns=start_of(number),
        end_ns=start_of(number) + ROWS * PERIOD,
    )
    path = folder / f"{number}.mcap"
    path.write_bytes(recordings.write_recording(info, LINE.features, held))
    return path


def bring(home, folder, numbers, **what):
    for number in numbers:
        path = record(folder, number, **what)
        imports.import_path(home.ledger, home.books, home.blobs, LINE, path, device="press")


def table(numbers, value=None, *, source="", feature="label.y"):
    """A CSV of what was right at each instant of these sessions; `value`: the same over each whole session."""
    lines = ["session,value,source,start,end,feature,device"]
    for number in numbers:
        if value is not None:
            spans = [(times(number)[0], times(number)[-1] + PERIOD, value)]
        else:
            spans = [(t, t + PERIOD, repr(float(y))) for t, y in zip(times(number), right(number), strict=True)]
        lines += [f"s{number},{v},{source},{a},{b},{feature},press-press" for a, b, v in spans]
    return "\n".join(lines).encode()
