"""Trials: a policy lives in worlds, or is replayed on recorded episodes; each gives tallies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core import canonical
from fleetmill.core.drive import drive
from fleetmill.core.errors import LineError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Data, Episode, Line, Policy, Tally
from fleetmill.core.plain import plain
from fleetmill.seams.executor import Executor
from fleetmill.seams.runtime import Runtime, policies

BySession = dict[str, list[Tally]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveTrial:
    """One life in one world; travels to a worker process."""

    line: Line
    model: bytes | None  # model.onnx; None: the line's baseline, fitted on nothing
    scenario: str
    seed: int
    seconds: float
    runtime: Runtime
    baseline: Policy | None = None


def live(trial: LiveTrial) -> Tally:
    """What one policy came to in one world."""
    line = trial.line
    if line.world is None or line.judging.live is None:
        raise LineError(f"line {line.name}: has no world to judge in")
    policy = policies(line, trial.runtime, {"model.onnx": trial.model}) if trial.model else trial.baseline
    world = line.world(trial.scenario, trial.seed)
    try:
        moments = list(drive(world, policy, steps=max(1, round(trial.seconds * line.model.rate_hz))))
    finally:
        world.close()
    return line.judging.live([m.step for m in moments], [m.sent for m in moments])


def live_side(
    line: Line,
    executor: Executor,
    runtime: Runtime,
    *,
    model: bytes | None,
    seeds: Sequence[int],
    baseline: Policy | None = None,
    scenario: str | None = None,
    seconds: float | None = None,
) -> list[Sequence[Tally]]:
    """One tally per seed, in the seeds' order."""
    trials = [
        LiveTrial(
            line=line,
            model=model,
            scenario=scenario or line.judging.scenario,
            seed=seed,
            seconds=seconds or line.judging.trial_seconds,
            runtime=runtime,
            baseline=baseline,
        )
        for seed in seeds
    ]
    return [[tally] for tally in executor.map(live, trials)]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedTrial:
    """One policy on the episodes of one recorded session; travels to a worker process."""

    line: Line
    model: bytes | None  # model.onnx; None: `baseline`
    runtime: Runtime
    episodes: Sequence[Episode]
    baseline: Policy | None = None


def recorded(trial: RecordedTrial) -> list[Tally]:
    """What one policy came to, episode by episode."""
    line = trial.line
    policy = policies(line, trial.runtime, {"model.onnx": trial.model}) if trial.model else trial.baseline
    if policy is None:
        raise LineError(f"line {line.name}: neither a model nor a baseline to ask")
    found = []
    for episode in trial.episodes:
        policy.reset()
        found.append(line.judging.score(policy, episode))
    return found


def recorded_side(
    line: Line,
    executor: Executor,
    runtime: Runtime,
    *,
    model: bytes | None,
    sessions: Sequence[Sequence[Episode]],
    baseline: Policy | None = None,
) -> list[Sequence[Tally]]:
    """The tallies of each session's episodes, in the sessions' order."""
    trials = [
        RecordedTrial(line=line, model=model, runtime=runtime, episodes=episodes, baseline=baseline)
        for episodes in sessions
    ]
    return list(executor.map(recorded, trials))


def replayed(line: Line, policy: Policy, data: Data) -> BySession:
    """The tallies of each session's episodes, sessions in the dataset's order."""
    found: BySession = {}
    for episode in _episodes(data):
        policy.reset()
        found.setdefault(_session(episode), []).append(line.judging.score(policy, episode))
    return found


def sliced(line: Line, policy: Policy, data: Data) -> dict[str, BySession]:
    """The tallies of each slice's episodes, by session; a slice without episodes is left out."""
    found: dict[str, BySession] = {}
    for episode in _episodes(data):
        for name, belongs in line.slices.items():
            if belongs(episode):
                policy.reset()
                tally = line.judging.score(policy, episode)
                found.setdefault(name, {}).setdefault(_session(episode), []).append(tally)
    return found


def unscored(line: Line, mine: BySession, theirs: BySession) -> list[str]:
    """Sessions in which there is nothing to score, for either side: they are no evidence and no pairs.

    Alone such a session measures none of the metrics that the line's checks name, and without it all of them are what
    they were: one that only counts in the pool (a single class of an AUROC) stays.
    """
    return [name for name in mine if all(_says_nothing(line, side, name) for side in (mine, theirs))]


def _says_nothing(line: Line, side: BySession, name: str) -> bool:
    alone = line.judging.metrics(side[name])
    # slices of a line that is judged alive have metrics of their own, which no check names
    asked = {check.metric for check in line.checks} & set(alone) or set(alone)
    if not all(math.isnan(alone[metric]) for metric in asked):
        return False
    rest = [tally for other, tallies in side.items() if other != name for tally in tallies]
    if not rest:
        return True
    whole, without = line.judging.metrics([*rest, *side[name]]), line.judging.metrics(rest)
    return all(whole[m] == without[m] or (math.isnan(whole[m]) and math.isnan(without[m])) for m in asked)


def digest(side: Sequence[Sequence[Tally]]) -> tuple[str, bytes]:
    """(digest, canonical bytes) of tallies: what a reason points at."""
    data = canonical.dumps(plain_side(side))
    return sha256(data), data


def read_side(data: bytes) -> list[Sequence[Tally]]:
    """Tallies from the bytes that `digest` gives."""
    return [[{k: np.asarray(v) for k, v in tally.items()} for tally in trial] for trial in canonical.loads(data)]


def plain_side(side: Sequence[Sequence[Tally]]) -> list[list[dict[str, object]]]:
    """Tallies as plain numbers and lists."""
    return [[{k: _plain(v) for k, v in t.items()} for t in trial] for trial in side]


def _plain(value: object) -> object:
    return plain(np.asarray(value, np.float64).tolist())


def _session(episode: Episode) -> str:
    return f"{episode.device}/{episode.session}"


def _episodes(data: Data) -> Iterator[Episode]:
    for index in range(len(data)):
        yield data.episode(index)
