"""Any MCAP file whose channels are the line's features, ours or a foreign one, as sessions.

A recording of ours names its session and device; a foreign one is a session for each run without a gap over 5 s.
"""

from __future__ import annotations

from collections.abc import Iterator

from fleetmill.core.line import Files, Foreign, Importer, Message
from fleetmill.seams import recordings

GAP_NS = 5_000_000_000


def _detects(files: Files) -> bool:
    names = files.names()
    return bool(names) and all(name.endswith(".mcap") for name in names)


def _read(files: Files) -> Iterator[Foreign]:
    ours: dict[tuple[str, str], Foreign] = {}
    held: dict[tuple[str, str], list[Message]] = {}
    for name in files.names():
        data = files.read(name)
        info = recordings.read_info(data, name)
        messages = list(recordings.read_messages(data, name))
        if info is None:
            yield from _runs(name.removesuffix(".mcap"), messages)
            continue
        key = (info.device, info.session)
        held.setdefault(key, []).extend(messages)
        ours[key] = Foreign(
            device=info.device,
            session=info.session,
            time_base=info.time_base,
            tags=dict(info.tags),
            messages=iter(()),
        )
    for key, foreign in ours.items():
        yield Foreign(
            device=foreign.device,
            session=foreign.session,
            time_base=foreign.time_base,
            tags=foreign.tags,
            messages=iter(sorted(held[key], key=lambda m: m.log_time_ns)),
        )


def _runs(name: str, messages: list[Message]) -> Iterator[Foreign]:
    run: list[Message] = []
    number = 0
    for message in messages:
        if run and message.log_time_ns - run[-1].log_time_ns > GAP_NS:
            yield _foreign(name, number, run)
            run, number = [], number + 1
        run.append(message)
    if run:
        yield _foreign(name, number, run)


def _foreign(name: str, number: int, run: list[Message]) -> Foreign:
    session = f"{name.replace('/', '-').lower()}-{number:03d}"
    return Foreign(device="", session=session, time_base="utc", tags={}, messages=iter(run))


importer = Importer(name="mcap", detects=_detects, read=_read)
