"""Sessions, actions and foreign files that nobody recorded: drawn by Hypothesis, each told in a few words.

What is drawn is small (how many instants, what is missing, what is no number) and hashable; arrays follow from it and a
seed. So a failing case shrinks to what matters, and the sentence about it says that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from fleetmill.core.line import Array, Feature, Line, Message, Port
from fleetmill.core.recording import RecordingInfo, RecordingRef, Session
from fleetmill.refine.stages import GAP_PERIODS
from fleetmill.seams import recordings
from fleetmill.testing.made import START_NS, value

LARGE = 1e6
_SMALL_ROW = 4096  # bytes: of such rows a session may have many
_ALMOST = 0.3  # of a period: how far instants are moved
_CORNER = (8,)  # instants of a session that is awkward in another way
_TEXTS = ("user", "", "{}", "naïve ☂")

Way = Literal["NaN", "some NaN", "infinity", "zeros", "large numbers"]
_WAYS: tuple[Way, ...] = ("NaN", "some NaN", "infinity", "zeros", "large numbers")
Ways = tuple[tuple[str, Way], ...]  # a feature or port, and what its numbers are like where they are not usual


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A made-up session."""

    rows: tuple[int, ...] = (3,)  # instants of each stretch, a silence between two
    missing: tuple[str, ...] = ()  # channels that were never recorded
    seldom: tuple[str, ...] = ()  # channels of which every second message is missing
    ways: Ways = ()
    shaken: bool = False  # instants do not come evenly
    apart: bool = False  # each channel ticks for itself
    twice: bool = False  # every third instant was recorded twice
    seed: int = 0

    def __str__(self) -> str:
        """In words."""
        many = [str(n) for n in self.rows]
        said = ["a session without a message"] if not any(self.rows) else []
        if any(self.rows):
            last = f"{many[-1]} instant{'s' * (many[-1] != '1')}"
            said = [f"a session of {'' if len(many) == 1 else ', '.join(many[:-1]) + ' and '}{last}"]
        said += [f"without {', '.join(self.missing)}"] if self.missing else []
        said += [f"with half of {', '.join(self.seldom)} missing"] if self.seldom else []
        said += [f"with {way} in {name}" for name, way in self.ways]
        said += ["that come unevenly"] if self.shaken else []
        said += ["each channel at times of its own"] if self.apart else []
        said += ["some recorded twice"] if self.twice else []
        return ", ".join(said)


def sessions(line: Line) -> st.SearchStrategy[Made]:
    """Short sessions, long ones too where a row is small; each awkward in one or two ways, not in all at once."""
    names = [f.name for f in line.features]
    floats = [f.name for f in line.features if np.issubdtype(_dtype(f), np.floating)]
    longest = (40, 200) if sum(_size(f) for f in line.features) < _SMALL_ROW else (12,)
    rows = st.sampled_from((1, 2, 3, 4, 6, 8, 0, *longest))
    channels = st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True).map(tuple)
    change = st.one_of(
        _ways(floats).map(lambda ways: {"ways": ways}),
        _ways(floats).map(lambda ways: {"ways": ways}),
        st.sampled_from(["shaken", "twice", "apart"]).map(lambda name: {name: True}),
        channels.map(lambda missing: {"missing": missing}),
        channels.map(lambda seldom: {"seldom": seldom}),
    )

    def made(rows: list[int], changes: list[dict[str, Any]], seed: int) -> Made:
        together: dict[str, Any] = {name: value for change in changes for name, value in change.items()}
        return Made(rows=tuple(rows), seed=seed, **together)

    return st.builds(made, st.lists(rows, max_size=3), st.lists(change, max_size=2), st.integers(0, 9))


def corners(line: Line) -> list[Made]:
    """Sessions that are awkward in one way each: always tried, before chance is asked."""
    names = [f.name for f in line.features]
    floats = [f.name for f in line.features if np.issubdtype(_dtype(f), np.floating)]
    return [
        Made(rows=(1,)),
        Made(rows=(1, *_CORNER)),
        Made(rows=_CORNER, twice=True),
        Made(rows=_CORNER, shaken=True),
        Made(rows=_CORNER, apart=True),
        *(Made(rows=_CORNER, missing=(name,)) for name in names),
        *(Made(rows=_CORNER, ways=((name, way),)) for name in floats for way in _WAYS),
    ]


def session(line: Line, made: Made) -> tuple[Session, list[Message]]:
    """The session as it comes out of its recording."""
    features = {f.name: f for f in line.features}
    messages = sorted(_messages(line, made), key=lambda m: m.log_time_ns)
    longest = max((f.hold_ns for f in line.features), default=0)
    start_ns = messages[0].log_time_ns if messages else START_NS
    end_ns = (messages[-1].log_time_ns if messages else START_NS) + max(longest, 1)
    info = RecordingInfo(device="made-up", session="s00000", line=line.name, start_ns=start_ns, end_ns=end_ns)
    data = recordings.write_recording(info, line.features, [recordings.encode(features[m.topic], m) for m in messages])
    ref = RecordingRef(digest="0" * 64, start_ns=start_ns, end_ns=end_ns, bytes=len(data), messages=len(messages))
    manifest = Session(
        device="made-up",
        name="s00000",
        number=0,
        line=line.name,
        start_ns=start_ns,
        end_ns=end_ns,
        recordings=(ref,),
        recorded_bytes=len(data),
    )
    return manifest, list(recordings.read_messages(data, "a made-up recording"))


def _messages(line: Line, made: Made) -> Iterable[Message]:
    period = round(1e9 / line.model.rate_hz)
    silence = 2 * GAP_PERIODS * max([period, *(f.hold_ns for f in line.features)])
    begins = START_NS
    for rows in made.rows:
        for row in range(rows):
            yield from _instant(line, made, row, begins + row * period, period)
        begins += rows * period + silence


def _instant(line: Line, made: Made, row: int, at_ns: int, period: int) -> Iterable[Message]:
    ways = dict(made.ways)
    chance = np.random.default_rng((made.seed, row, at_ns % 2**32))
    moved = chance.uniform(0, _ALMOST * period, len(line.features))
    for place, f in enumerate(line.features):
        if f.name in made.missing or (f.name in made.seldom and row % 2):
            continue
        shift = moved[place] if made.apart else moved[0] if made.shaken else 0.0
        for _ in range(1 + (made.twice and row % 3 == 0)):
            at = at_ns + round(shift)
            yield Message(topic=f.name, log_time_ns=at, publish_time_ns=at, value=_value(f, ways.get(f.name), chance))


def _value(feature: Feature, way: Way | None, chance: np.random.Generator) -> Mapping[str, Array | str]:
    if feature.dtype == "str":
        return {"data": str(chance.choice(_TEXTS))}
    return {"data": _changed(value(feature.dtype, feature.shape, chance), way, chance)}


def _changed(usual: Array, way: Way | None, chance: np.random.Generator) -> Array:
    if way == "some NaN":
        return np.asarray(np.where(chance.random(usual.shape) < 0.5, np.nan, usual), usual.dtype)
    if way == "large numbers":
        return np.asarray(LARGE * np.sign(usual), usual.dtype)
    fill = {"NaN": np.nan, "infinity": np.inf, "zeros": 0.0}.get(str(way))
    return usual if fill is None else np.full_like(usual, fill)


# -- what a guard is asked --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Instants one after another: what the model wants, and what is seen."""

    wants: tuple[Ways, ...]  # one for each instant, by feature
    sees: Ways = ()
    missing: tuple[str, ...] = ()  # observations that no input of the model needs, and that are not there
    seed: int = 0

    def __str__(self) -> str:
        """In words."""
        told = [", ".join(f"{way} in {name}" for name, way in ways) or "usual numbers" for ways in self.wants]
        said = [f"an action with {' and then one with '.join(told)}"]
        said += [f"seen {', '.join(f'{way} in {name}' for name, way in self.sees)}"] if self.sees else []
        return "; ".join([*said, *([f"without {', '.join(self.missing)}"] if self.missing else [])])

    def instants(self, line: Line) -> Iterable[tuple[dict[str, Array], dict[str, Array]]]:
        """(action, observation) of each instant; read-only, so that nobody writes into what it is given."""
        outputs: dict[str, Port] = {p.feature: p for p in line.model.outputs if p.feature is not None}
        for row, wants in enumerate(self.wants):
            chance = np.random.default_rng((self.seed, row))
            action = {n: _drawn(p.dtype, p.shape, dict(wants).get(n), chance) for n, p in outputs.items()}
            seen = {
                f.name: _drawn(f.dtype, f.shape, dict(self.sees).get(f.name), chance)
                for f in line.features
                if f.kind == "observation" and f.dtype != "str" and f.name not in self.missing
            }
            yield action, seen


def questions(line: Line) -> st.SearchStrategy[Asked]:
    """What a guard may be asked: any action, after any other."""
    acts, floats, spare = _numbers(line)
    return st.builds(
        Asked,
        wants=st.lists(_ways(acts), min_size=1, max_size=3).map(tuple),
        sees=_ways(floats),
        missing=st.lists(st.sampled_from(spare), unique=True).map(tuple) if spare else st.just(()),
        seed=st.integers(0, 9),
    )


def first_questions(line: Line) -> list[Asked]:
    """Each number that is acted, and each that is seen, unusual by itself; always asked."""
    acts, seen, _ = _numbers(line)
    return [
        Asked(wants=((), ())),
        *(Asked(wants=(((name, way),),)) for name in acts for way in _WAYS),
        *(Asked(wants=((),), sees=((name, way),)) for name in seen for way in _WAYS),
    ]


def _numbers(line: Line) -> tuple[list[str], list[str], list[str]]:
    """Floats that the model acts, floats that are seen, and what is seen beside the model's inputs."""
    inputs = {p.feature for p in line.model.inputs}
    acts = [p.feature for p in line.model.outputs if p.feature and np.issubdtype(np.dtype(p.dtype), np.floating)]
    seen = [f for f in line.features if f.kind == "observation" and f.dtype != "str"]
    floats = [f.name for f in seen if np.issubdtype(_dtype(f), np.floating)]
    return acts, floats, [f.name for f in seen if f.name not in inputs]


def _drawn(dtype: str, shape: tuple[int, ...], way: Way | None, chance: np.random.Generator) -> Array:
    found = _changed(value(dtype, shape, chance), way, chance)
    found.flags.writeable = False
    return found


def _ways(names: Sequence[str]) -> st.SearchStrategy[Ways]:
    if not names:
        return st.just(())
    pairs = st.tuples(st.sampled_from(names), st.sampled_from(_WAYS))
    return st.lists(pairs, max_size=3, unique_by=lambda p: p[0]).map(tuple)


def _dtype(feature: Feature) -> np.dtype[np.generic]:
    return np.dtype("U1") if feature.dtype == "str" else np.dtype(feature.dtype)


def _size(feature: Feature) -> int:
    return int(np.prod([max(n, 1) for n in feature.shape], dtype=np.int64)) * _dtype(feature).itemsize
