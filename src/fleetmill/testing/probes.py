"""What of the contract must hold for whatever comes: asked of generated sessions, actions and files.

Each probe looks for the smallest case that breaks something and says it in one sentence, with the case in words. The
same line gives the same cases every time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import numpy as np
from hypothesis import Phase, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from fleetmill.core.errors import IntegrityError, InvalidInputError, LineError
from fleetmill.core.line import UNREADABLE, Episode, Importer, Line, Memory, Message, Stretch, as_it_is
from fleetmill.refine import stages
from fleetmill.seams import recordings
from fleetmill.seams.runtime import RunningPolicy
from fleetmill.testing import foreign, generated, rules, talks
from fleetmill.testing.compared import Broken, equal, fits, is_finite, member

Case = TypeVar("Case", bound=Hashable)
Train = Callable[[Sequence[Episode]], object]

_CUTS, _SCORES, _TRAININGS, _GUARDS, _FILES = 20, 10, 3, 30, 100  # cases that are drawn
_MOST_TRAININGS = 6  # before them


def cuts(line: Line) -> Iterator[str]:
    """Any session that can be recorded is cut, into episodes that keep the rules."""

    def faults(made: generated.Made) -> list[str]:
        found: list[str] = []
        for stretch in _stretches(line, made):
            found += [*rules.cut(line, stretch), *talks.left_out(line, stretch)]
        return found

    yield from _smallest(generated.sessions(line), faults, _CUTS, first=generated.corners(line))


def trainings(line: Line, train: Train) -> Iterator[str]:
    """Whatever was cut can be learned from, or is refused in one line; so it is for the baseline."""

    def faults(made: generated.Made) -> list[str]:
        episodes = _episodes(line, made)
        if episodes:
            with suppress(InvalidInputError, LineError):  # it said clearly that there is nothing to learn from
                train(episodes)
        return []

    first = [
        made for made in generated.corners(line) if not made.missing and "NaN" in (dict(made.ways).values() or ["NaN"])
    ]
    yield from _smallest(generated.sessions(line), faults, _TRAININGS, first=first[:_MOST_TRAININGS])


def scores(line: Line, policy: RunningPolicy) -> Iterator[str]:
    """Whatever was cut can be scored, sliced and pooled, in any order."""

    def faults(made: generated.Made) -> list[str]:
        episodes = _episodes(line, made)
        return rules.scored(line, policy, episodes)[0] if episodes else []

    yield from _smallest(generated.sessions(line), faults, _SCORES, first=generated.corners(line))


def guards(line: Line) -> Iterator[str]:
    """Whatever the model says and the machine sees, what is sent is what the line declares; `safe` answers too."""
    yield from _smallest(
        generated.questions(line),
        lambda asked: list(_asked(line, asked)),
        _GUARDS,
        first=generated.first_questions(line),
    )


def importers(line: Line, files: Mapping[str, bytes]) -> Iterator[str]:
    """Garbage is refused in one line; what is taken can be recorded. `files`: good ones, to be broken."""
    for importer in line.importers:
        found = _smallest(foreign.garbage(importer, files), partial(_imported, line, importer), _FILES)
        yield from (f"importer {importer.name}: {fault}" for fault in found)


def _smallest(
    cases: SearchStrategy[Case], faults: Callable[[Case], list[str]], number: int, *, first: Sequence[Case] = ()
) -> Iterator[str]:
    """What is wrong with the first of `first` that has a fault, else with the smallest of `number` drawn cases."""
    known: dict[Case, list[str]] = {}

    def broken(case: Case) -> bool:
        if case not in known:
            if len(known) >= len(first) + 4 * number:
                return False  # it is small enough: what was found so far stands
            try:
                known[case] = faults(case)
            except Broken as error:
                known[case] = [str(error)]
        return bool(known[case])

    case = next((case for case in first if broken(case)), None) or _drawn(cases, broken, number)
    if case is not None:
        yield f"{known[case][0]}. Smallest case: {case}"


def _drawn(cases: SearchStrategy[Case], broken: Callable[[Case], bool], number: int) -> Case | None:
    plan = settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
    )
    try:
        return find(cases, broken, settings=plan)
    except NoSuchExample:
        return None


def _stretches(line: Line, made: generated.Made) -> Iterator[Stretch]:
    session, messages = generated.session(line, made)
    if not messages:
        yield Stretch(device=session.device, session=session.name, index=0, tags={}, messages=[])
    yield from stages.stretches(line, session, messages)


def _episodes(line: Line, made: generated.Made) -> list[Episode]:
    with member("cut"):
        return [e for stretch in _stretches(line, made) for e in line.cut(stretch)]


def _asked(line: Line, asked: generated.Asked) -> Iterator[str]:
    """The guard's and `safe`'s answers to some instants, one after another, each asked twice."""
    memory: Memory = {}
    declared = {f.name: f for f in line.features}
    for action, seen in asked.instants(line):
        with member("guard"):
            sent, after = line.guard(action, seen, memory)
            again, _ = line.guard(action, seen, memory)
        if not equal(sent, again):
            yield "guard: the same action, observation and memory must be answered alike"
        if set(sent) != set(action):
            yield f"guard: was given {sorted(action)}, sends {sorted(sent)}"
            return
        for name, value in sent.items():
            f, got = declared[name], np.asarray(value)
            if not fits(got, f.dtype, f.shape):
                yield f"guard: sends {name} as {got.dtype}{got.shape}, the feature is {f.dtype}{f.shape}"
            elif not is_finite({name: got}) and is_finite(action):
                yield f"guard: makes of finite numbers a {name} that is none"
            elif not is_finite({name: got}) and line.guard is not as_it_is and "NaN" not in (line.guard.__doc__ or ""):
                yield f"guard: sends a {name} that is no number; send one, or say in its docstring what NaN means"
        memory = dict(after)
        with member("safe"):
            answer: object = line.safe(seen)
        if not isinstance(answer, (bool, np.bool_)):
            yield f"safe: must answer True or False, not {answer!r}"


def _imported(line: Line, importer: Importer, files: foreign.Garbage) -> list[str]:
    features = {f.name: f for f in line.features}
    with member("detects"):
        if not importer.detects(files):
            return []
    for called, read in (("read", importer.read), ("read_past", importer.read_past)):
        taken: list[Message] = []
        try:
            with member(called, may=(InvalidInputError, IntegrityError)):
                for session in read(files) if read else ():
                    taken += session.messages
        except (InvalidInputError, IntegrityError):
            continue
        known = [m for m in taken if m.topic in features]
        strange = {m.topic for m in taken} - set(features) - {UNREADABLE}
        outside = [m.log_time_ns for m in taken if not 0 <= m.log_time_ns < 2**63]
        if outside:
            return [f"{called}: gives a message at {outside[0]} ns, which no recording holds"]
        if taken and not known and strange:
            return [f"{called}: gives messages on {', '.join(sorted(strange))}, which are not among the features"]
        with member(f"{called}: gives a message that cannot be recorded"):
            for message in known:
                recordings.encode(features[message.topic], message)
    return []
