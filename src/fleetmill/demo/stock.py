"""A fleet's past: recorded sessions are cut into runs without a hole, and dealt to devices and to the report.

Nothing is dealt twice. Where a line holds out later time, each device goes on with one recorded machine, and the report
asks about what comes after all that the device ever gets. Elsewhere a device gets whole machines, one after another,
and the report asks about machines that no device gets.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Asking, Foreign, Line, Message
from fleetmill.core.recording import RecordingInfo
from fleetmill.receive.imports import read_sessions
from fleetmill.seams.files import write_whole
from fleetmill.seams.recordings import encode, write_recording

_HOLE = 1.5  # periods: a longer step ends a run
_SHORT = 0.25  # of the run in which the middle instant of all lies, runs sorted by length: a shorter one is left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A stretch of one recorded machine without a hole, at the line's rate."""

    machine: str
    session: str  # of the recording, with -2, -3 where it was cut
    foreign: Foreign  # what it was cut from
    messages: tuple[Message, ...]
    instants: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dealt:
    """Who replays what. `short` and `spare`: runs that nobody gets, too short or not needed; `rest`: the latter."""

    devices: Mapping[str, Sequence[Run]]
    report: Sequence[Run]
    short: int
    spare: int
    rest: Sequence[Run] = ()

    def told(self) -> dict[str, int]:
        """In numbers, for the facts."""
        given = [run for runs in self.devices.values() for run in runs]
        return {
            "machines": len({run.machine for run in [*given, *self.report]}),
            "fleet_sessions": len(given),
            "fleet_instants": sum(run.instants for run in given),
            "report_sessions": len(self.report),
            "report_instants": sum(run.instants for run in self.report),
            "short_sessions": self.short,
            "spare_sessions": self.spare,
        }


def read_runs(line: Line, path: Path, *, seconds: float) -> list[Run]:
    """Every run in the files at `path`, machines and sessions in the files' order; none is longer than `seconds`.

    Raises:
        NotFoundError, InvalidInputError, IntegrityError: as an import of these files.
    """
    most = max(1, round(seconds * line.model.rate_hz))
    found = read_sessions(path, line)
    if asking := _asking(line):
        found = (asking.asks(foreign, True) for foreign in found)
    return [run for foreign in found for run in _runs(line, foreign, most)]


def asked(line: Line, dealt: Dealt) -> Dealt:
    """The same where people ask: a device hears the questions alone, what is right is the report's."""
    asking = _asking(line)
    if asking is None:
        return dealt
    devices = {name: [_questions(line, asking, run) for run in runs] for name, runs in dealt.devices.items()}
    return replace(dealt, devices=devices)


def _asking(line: Line) -> Asking | None:
    return line.recipe.asking if line.recipe else None


def _questions(line: Line, asking: Asking, run: Run) -> Run:
    whole = replace(run.foreign, device=run.machine, messages=iter(run.messages))
    found = tuple(asking.asks(whole, False).messages)
    tick = next(f.name for f in line.features if f.kind == "observation")
    return replace(run, messages=found, instants=sum(m.topic == tick for m in found))


def deal(line: Line, runs: Sequence[Run], *, names: Sequence[str], each: int, report: int, seed: int) -> Dealt:
    """`each` runs to every device; `report` runs more of each machine, or `report` machines, that no device gets.

    `seed` chooses which machines go to which device, and nothing else: the report's are the same for every seed.

    Raises:
        InvalidInputError: there are not enough.
    """
    lengths = np.sort([run.instants for run in runs])
    least = _SHORT * float(lengths[np.searchsorted(np.cumsum(lengths), lengths.sum() / 2)])
    whole = [run for run in runs if run.instants >= least]
    machines = [list(found) for _, found in itertools.groupby(whole, key=lambda run: run.machine)]
    sort = _in_time if line.split == "time" else _by_machine
    devices, wanted = sort(line, machines, names, each, report, seed)
    given = {id(run) for found in (*devices.values(), wanted) for run in found}
    rest = [run for run in whole if id(run) not in given]
    return Dealt(devices=devices, report=wanted, short=len(runs) - len(whole), spare=len(rest), rest=rest)


def write(line: Line, dealt: Dealt, folder: Path) -> None:
    """A folder of recordings per device, numbered in the order in which it lives them, and one called ``report``."""
    for name, runs in (*dealt.devices.items(), (REPORT, dealt.report)):
        write_runs(line, runs, folder / name)


def write_runs(line: Line, runs: Sequence[Run], folder: Path) -> None:
    """A recording for each run."""
    folder.mkdir(parents=True)
    for number, run in enumerate(runs):
        write_whole(folder / f"{number:03d}.mcap", _recording(line, run))


REPORT = "report"
_Sorted = tuple[dict[str, list[Run]], list[Run]]


def _in_time(
    line: Line, machines: Sequence[list[Run]], names: Sequence[str], each: int, report: int, seed: int
) -> _Sorted:
    fit = [runs for runs in machines if len(runs) >= each + report]
    if len(fit) < len(names):
        raise InvalidInputError(
            f"line {line.name}: {len(fit)} of {len(machines)} recorded machines have {each + report} sessions "
            f"({each} to live and {report} for the report); {len(names)} devices want one each. "
            "Give more recordings, fewer --generations or fewer --devices"
        )
    chosen = np.random.default_rng(seed).permutation(len(names))
    devices = {name: fit[at][:each] for name, at in zip(names, chosen, strict=True)}
    return devices, [run for runs in fit[: len(names)] for run in runs[each : each + report]]


def _by_machine(
    line: Line, machines: Sequence[list[Run]], names: Sequence[str], each: int, report: int, seed: int
) -> _Sorted:
    asked = set(np.linspace(0, len(machines) - 1, min(report, len(machines))).round().astype(int).tolist())
    rest = [runs for at, runs in enumerate(machines) if at not in asked]
    order = iter(np.random.default_rng(seed).permutation(len(rest)))
    devices: dict[str, list[Run]] = {}
    for name in names:
        devices[name] = []
        while len(devices[name]) < each:
            at = next(order, None)
            if at is None:
                raise InvalidInputError(
                    f"line {line.name}: {len(machines)} recorded machines are not enough for {len(names)} devices with "
                    f"{each} sessions each and {report} machines for the report. Give more recordings, fewer "
                    "--generations or fewer --devices"
                )
            devices[name] += rest[at]
        devices[name] = devices[name][:each]
    return devices, [run for at in sorted(asked) for run in machines[at]]


def _runs(line: Line, foreign: Foreign, most: int) -> Iterator[Run]:
    features = {f.name for f in line.features}
    messages = sorted((m for m in foreign.messages if m.topic in features), key=lambda m: m.log_time_ns)
    at = [m.log_time_ns for m in messages]
    for number, (start, end, instants) in enumerate(_edges(line, messages, most), start=1):
        yield Run(
            machine=foreign.device,
            session=foreign.session + (f"-{number}" if number > 1 else ""),
            foreign=foreign,
            messages=tuple(messages[bisect_left(at, start) : bisect_left(at, end)]),
            instants=instants,
        )


def _edges(line: Line, messages: Sequence[Message], most: int) -> Iterator[tuple[int, int, int]]:
    """(first time, time after the last, instants) of each run, by the times of the first observation."""
    period_ns = 1e9 / line.model.rate_hz
    tick = next(f.name for f in line.features if f.kind == "observation")
    times = np.unique([m.log_time_ns for m in messages if m.topic == tick])
    holes = np.flatnonzero(np.diff(times) > _HOLE * period_ns) + 1
    for run in np.split(times, holes):
        parts = [run[at : at + most] for at in range(0, len(run), most)]
        for part, after in itertools.zip_longest(parts, parts[1:]):
            end = int(after[0]) if after is not None else int(part[-1] + period_ns)
            yield int(part[0]), end, len(part)


def _recording(line: Line, run: Run) -> bytes:
    features = {f.name: f for f in line.features}
    info = RecordingInfo(
        device=run.machine or "recorded",
        session=run.session,
        line=line.name,
        start_ns=run.messages[0].log_time_ns,
        end_ns=run.messages[-1].log_time_ns + 1,
        tags=dict(run.foreign.tags),
        time_base=run.foreign.time_base,
    )
    return write_recording(info, line.features, [encode(features[m.topic], m) for m in run.messages])
