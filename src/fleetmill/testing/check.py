"""`check_line`: does a line keep its contract? Each breach is one sentence.

What it does: it lives a few short sessions in the line's world (or takes the messages that it is given, or makes some
up), records and reads them back, cuts, trains with few steps, scores, guards. Then it asks the same of sessions,
actions and files that are generated to be awkward (`probes`), and tells of each breach the smallest case. A line's own
tests show that it is good; this shows that it is a line. One thing is not asked of a line whose training is a command:
the same bytes for the same seed. What it runs on is its owner's, and a GPU need not give them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from fleetmill.core import trigger, wire
from fleetmill.core.drive import Moment, drive
from fleetmill.core.errors import EngineMissingError, IntegrityError, InvalidInputError, LineError
from fleetmill.core.ids import checked_name
from fleetmill.core.line import Array, Episode, Frame, Line, Message, Policy, Stretch, TrainCommand, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.refine import stages
from fleetmill.seams import recordings
from fleetmill.seams.runtime import RunningPolicy, policies
from fleetmill.seams.tables import write_table
from fleetmill.testing import rules, talks
from fleetmill.testing.compared import Broken, equal, fits, is_float, member
from fleetmill.testing.kit import Held, Notes
from fleetmill.testing.made import made_up
from fleetmill.train import command, trainer

_START_NS = 1_767_225_600_000_000_000
_STEPS = 40  # instants that are lived per session
_LITTLE: Mapping[str, Any] = {"steps": 3}
_NONE: Mapping[str, Any] = {"steps": 0}
_NO_BASES: tuple[tuple[tuple[str, bytes], ...], ...] = (
    (),
    (("config.json", b"{"), ("tokenizer.json", b"{}")),
    (("config.json", b"[]"), ("tokenizer.json", b"[]"), ("model.safetensors", b"\0" * 16)),
)
Breaches = Iterator[str]


def check_line(line: Line, *, stretches: Sequence[Stretch] = (), files: Mapping[str, bytes] | None = None) -> list[str]:
    """Every breach of the contract, none for a good line.

    `stretches`: for a line without a world, something to cut and to learn from; else it is made up. `files`: foreign
    ones by name, as an importer reads them; broken ones are made of these. Stops after the first part that has
    breaches, since the later ones would only repeat them.

    Raises:
        EngineMissingError: Hypothesis, which generates the sessions, is not installed.
    """
    context = _Context(line, list(stretches), files or _sample(line), _probes())
    for part in _PARTS:
        found: list[str] = []
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # awkward numbers make numpy talk; a warning is no breach
                with member(part.__name__.strip("_").partition("_")[0]):
                    found += part(context)
        except Broken as broken:
            found.append(str(broken))
        if found:
            return [f"line {line.name}: {breach}" for breach in dict.fromkeys(found)]  # not once for each episode
    return []


def _probes() -> ModuleType:
    try:
        from fleetmill.testing import probes
    except ModuleNotFoundError as error:
        raise EngineMissingError(str(error.name), extra="testing") from error
    return probes


def _sample(line: Line) -> Mapping[str, bytes]:
    return line.recipe.sample(0) if line.recipe and line.recipe.sample else {}


class _Context:
    """What the parts hand on to each other."""

    def __init__(self, line: Line, stretches: list[Stretch], foreign: Mapping[str, bytes], probes: ModuleType) -> None:
        self.line, self.stretches, self.foreign, self.probes = line, stretches, foreign, probes
        self.episodes: list[Episode] = []
        self.files: Mapping[str, bytes] = {}  # of the trained model

    def policy(self) -> RunningPolicy:
        """The trained model, fresh."""
        return policies(self.line, OnnxRuntime(), self.files)


def _names(c: _Context) -> Breaches:
    line = c.line
    features = {f.name: f for f in line.features}
    if len(features) != len(line.features):
        yield "features: a name stands twice"
    for f in line.features:
        if f.dtype not in wire.ARRAYS and f.dtype != "str":
            yield f"feature {f.name}: dtype {f.dtype!r} cannot be recorded; use one of {', '.join(wire.ARRAYS)} or str"
        if f.hold_ns < 0:
            yield f"feature {f.name}: hold_ns must not be negative"
    inputs = {p.name for p in line.model.inputs}
    for port in (*line.model.inputs, *line.model.outputs):
        if port.feature is not None and port.feature not in features:
            yield f"port {port.name}: feature {port.feature!r} is not among the line's features"
        elif port.feature is not None and features[port.feature].kind == "label":
            yield f"port {port.name}: {port.feature} is a label; a label is never an input or output of a model"
    for port in line.model.outputs:
        if port.feeds is not None and port.feeds not in inputs:
            yield f"port {port.name}: feeds {port.feeds!r}, which is no input port"
    for t in line.triggers:
        with member(f"trigger {t.when!r}"):
            unknown = trigger.parse(t.when).terms - set(features)
        if unknown:
            yield f"trigger {t.when!r}: {', '.join(sorted(unknown))} is not among the features"
    for name in line.benches:
        checked_name(name, "bench")
    if line.benches and all(check.slice is not None for check in line.checks):
        yield "benches: every check is on a slice; a bench is asked those on all"
    if line.judging.baseline is None:
        yield "judging.baseline: is missing; the first model of a line must beat something"


def _world(c: _Context) -> Breaches:
    if c.line.world is None:
        c.stretches = c.stretches or made_up(c.line, seconds=50 / c.line.model.rate_hz)
        return
    for number, scenario in enumerate(("default", "field")):
        with member(f"world({scenario!r}, {7 + number})"):
            once, again = _live(c.line, scenario, 7 + number), _live(c.line, scenario, 7 + number)
        if not _alike(once, again):
            yield f"world({scenario!r}, {7 + number}): two lives of one seed differ"
        for moment in once:
            yield from _step(c.line, moment)
        c.stretches.append(_stretch(c.line, once, number))


def _step(line: Line, moment: Moment) -> Breaches:
    features = {f.name: f for f in line.features}
    for name, value in {**moment.step.observation, **moment.step.label}.items():
        if name not in features:
            yield f"world: gives {name!r}, which is not among the features"
        elif not fits(np.asarray(value), features[name].dtype, features[name].shape):
            yield f"world: {name} is {np.asarray(value).dtype}{np.shape(value)}, the feature says otherwise"


def _recorded(c: _Context) -> Breaches:
    """What goes into a recording comes out of it."""
    features = {f.name: f for f in c.line.features}
    for stretch in c.stretches:
        for message in stretch.messages:
            feature = features.get(message.topic)
            if feature is None:
                yield f"a message on {message.topic!r}, which is not among the features"
                return
            encoded = recordings.encode(feature, message)
            back = wire.decode(encoded.kind, encoded.payload, feature.shape)["data"]
            if not np.array_equal(np.asarray(back), np.asarray(message.value["data"]), equal_nan=is_float(back)):
                yield f"{message.topic}: does not come out of a recording as it went in"
                return


def _cut(c: _Context) -> Breaches:
    for stretch in c.stretches:
        yield from rules.cut(c.line, stretch)
        yield from talks.left_out(c.line, stretch)
        c.episodes += c.line.cut(stretch)
    if not c.episodes:
        yield "cut: nothing was cut out of any stretch"
    elif len({tuple(sorted(e.columns)) for e in c.episodes}) != 1:
        yield "cut: every episode must have the same columns"


def _cuts_any(c: _Context) -> Breaches:
    yield from c.probes.cuts(c.line)


def _trains(c: _Context) -> Breaches:
    try:
        first = _train(c, None, _LITTLE)
    except InvalidInputError as error:
        yield f"train: refuses these sessions ({error}); give check_line stretches that it can learn from"
        return
    if not isinstance(c.line.train, TrainCommand) and first != _train(c, None, _LITTLE):
        yield "train: two trainings with one seed give different bytes"
    if "model.onnx" not in first:
        yield f"train: gives {sorted(first)}; 'model.onnx' is missing"
        return
    c.files = first
    inputs = _inputs(c)
    if not equal(c.policy().ask(inputs), policies(c.line, OnnxRuntime(), _train(c, first, _NONE)).ask(inputs)):
        yield "train: going on from a parent with 0 steps must give the parent's function"
    whole = c.policy().ask(inputs)
    if set(whole) != {p.name for p in c.line.model.outputs}:
        yield f"model: gives {sorted(whole)}, the spec says {sorted(p.name for p in c.line.model.outputs)}"
        return
    singles = [c.policy().ask({k: v[i : i + 1] for k, v in inputs.items()}) for i in range(len(_any(inputs)))]
    for port in c.line.model.outputs:
        one_by_one = np.concatenate([s[port.name] for s in singles])
        if not np.allclose(whole[port.name], one_by_one, atol=c.line.model.tolerance, equal_nan=True):
            yield f"model: output {port.name} depends on what else is in the batch"
        if not fits(whole[port.name][0], port.dtype, port.shape):
            value = whole[port.name]
            yield f"model: output {port.name} is {value.dtype}{value.shape[1:]}, not as the spec says"


def _trains_any(c: _Context) -> Breaches:
    if not isinstance(c.line.train, TrainCommand):  # that would take long, and is its owner's
        yield from c.probes.trainings(c.line, lambda episodes: _learn(c.line, episodes))


def _learn(line: Line, episodes: Sequence[Episode]) -> None:
    """A model and a baseline from these episodes alone."""
    with member("train", may=(InvalidInputError, LineError)):
        job = TrainJob(data=Held(episodes), parent=None, seed=3, settings=_LITTLE)
        made = trainer.fit(line, job, Notes(), tables=dict, folder=Path())
    with member("train: its model"):
        policies(line, OnnxRuntime(), made)
    with member("judging.baseline", may=(InvalidInputError, LineError)):
        _baseline(line, episodes)


def _scores(c: _Context) -> Breaches:
    line = c.line
    faults, tallies = rules.scored(line, c.policy(), c.episodes)
    yield from faults
    names = set(tallies[0])
    if line.world is not None and line.judging.live is not None:
        with member(f"world({line.judging.scenario!r}, 9), with the model"):
            moments = _live(line, line.judging.scenario, 9, _fresh(c))
        with member("judging.live"):
            tallies += [line.judging.live([m.step for m in moments], [m.sent for m in moments]) for _ in range(2)]
    yield from rules.pooled(line, tallies)
    told = rules.metrics(line, tallies)
    for check in line.checks:
        if check.metric not in told:
            yield f"check on {check.metric}: judging.metrics gives {', '.join(sorted(told))}"
        if check.slice is not None and check.slice not in line.slices:
            yield f"check on {check.metric}: no slice is called {check.slice!r}"
    with member("judging.baseline"):
        floor = _baseline(line, c.episodes)
    with member("judging.score of the baseline"):
        asked = line.judging.score(floor, c.episodes[0])
    if set(asked) != names:
        yield "judging.score: gives other names for the baseline than for the model"


def _scores_any(c: _Context) -> Breaches:
    yield from c.probes.scores(c.line, c.policy())


def _talks(c: _Context) -> Breaches:
    if c.line.talk is not None:
        yield from talks.faults(c.line, c.line.talk, c.policy())


def _guards(c: _Context) -> Breaches:
    yield from c.probes.guards(c.line)


def _adopts(c: _Context) -> Breaches:
    from fleetmill.testing.foreign import Garbage

    for held in _NO_BASES if c.line.adopt else ():
        files = Garbage(held=held)
        try:
            with member("adopt", may=(InvalidInputError, IntegrityError)):
                c.line.adopt(files)  # type: ignore[misc]
        except (InvalidInputError, IntegrityError):
            continue
        yield f"adopt: takes {files} for a base; refuse it with InvalidInputError"


def _takes(c: _Context) -> Breaches:
    yield from c.probes.importers(c.line, c.foreign)


def _baseline(line: Line, episodes: Sequence[Episode]) -> Policy:
    if line.judging.baseline is None:
        raise LineError("judging.baseline is missing")  # said before, among the names
    return line.judging.baseline(Held(episodes))


def _live(line: Line, scenario: str, seed: int, policy: RunningPolicy | None = None) -> list[Moment]:
    if line.world is None:
        return []
    world = line.world(scenario, seed)
    try:
        return list(drive(world, policy, steps=_STEPS))
    finally:
        world.close()


def _stretch(line: Line, moments: Sequence[Moment], index: int) -> Stretch:
    names = {f.name for f in line.features}
    messages = []
    for m in moments:
        at = _START_NS + index * 10**12 + m.step.time_ns
        values = {**m.step.observation, **m.step.label, **m.sent}
        values["takeover"] = np.asarray(np.float32(m.step.takeover is not None))
        for name, value in values.items():
            if name in names:
                messages.append(Message(topic=name, log_time_ns=at, publish_time_ns=at, value={"data": value}))
    return Stretch(device="d", session=f"s{index}", index=0, tags={}, messages=messages)


def _train(c: _Context, parent: Mapping[str, bytes] | None, settings: Mapping[str, Any]) -> Mapping[str, bytes]:
    """By the line's function, or by its command in a folder of its own."""
    job = TrainJob(data=Held(c.episodes), parent=parent, seed=3, settings=settings)
    with TemporaryDirectory() as folder, member("train", may=(InvalidInputError,)):
        return trainer.fit(c.line, job, Notes(), tables=lambda: _tables(c, Path(folder)), folder=Path(folder) / "run")


def _tables(c: _Context, folder: Path) -> dict[str, Path]:
    """What was cut, as files: the same for every role, as `Held` gives it."""
    path = folder / "rows.arrow"
    path.write_bytes(write_table(c.episodes, [stages.place(e) for e in c.episodes]))
    return dict.fromkeys(command.ROLES, path)


def _inputs(c: _Context) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for port in c.line.model.inputs:
        if port.feature is None:
            found[port.name] = np.zeros((4, *port.shape), port.dtype)
            continue
        rows = np.concatenate([e.columns[port.feature] for e in c.episodes])[:4].astype(port.dtype)
        found[port.name] = rows if port.history == 1 else np.stack([rows] * port.history, axis=1)
    return found


def _fresh(c: _Context) -> RunningPolicy:
    policy = c.policy()
    policy.reset()
    return policy


def _alike(a: Sequence[Moment], b: Sequence[Moment]) -> bool:
    seen = [[(m.step.observation, m.step.label) for m in life] for life in (a, b)]
    return len(a) == len(b) and all(equal(x, y) and equal(p, q) for (x, p), (y, q) in zip(*seen, strict=True))


def _any(frame: Frame) -> Array:
    return next(iter(frame.values()))


_PARTS: tuple[Callable[[_Context], Breaches], ...] = (
    _names, _world, _recorded, _cut, _cuts_any, _guards, _trains, _trains_any, _scores, _scores_any,
    _talks, _takes, _adopts,
)  # fmt: skip
