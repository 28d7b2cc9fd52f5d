"""The rules for a line whose model is spoken with, and for what a line says it leaves out: each breach as one text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fleetmill.core.line import Episode, Frame, Line, Message, Policy, Stretch
from fleetmill.core.serve import Tier
from fleetmill.core.talk import Said, Source, Talk
from fleetmill.device.speaking import speak
from fleetmill.testing.compared import fits, member

_START_NS = 1_767_225_600_000_000_000
_QUESTION = Said(role="user", text="What is it?")
_SECRET = "Quizzical xylophone 7391"  # noqa: S105 - what no cut may hold
_TALKS: tuple[tuple[Said, ...], ...] = (
    (Said(role="user", text="24*3="), Said(role="assistant", text="72")),
    (Said(role="system", text="Be short."), Said(role="user", text="né\n☂ don’t"), Said(role="assistant", text="")),
    (_QUESTION, Said(role="assistant", text="so long " * 90), Said(role="user", text="And?")),
)
_OWN = Source(tier=Tier.PREMISES, may_train=False, sure=0.5)


def faults(line: Line, talk: Talk, policy: Policy | None) -> Iterator[str]:
    """What is wrong with a line's `talk`; with a policy its model is spoken with too."""
    yield from _ports(line, talk)
    for said in _TALKS:
        with member("talk"):
            frames = _frames(talk, said, _OWN)
            turns, ids, again = talk.turns(frames), talk.ids(said), talk.ids(said)
        yield from _rows(line, frames)
        if turns != list(said):
            yield f"talk.turns: {_shown(turns)} came out of the rows of {_shown(said)}"
        if [talk.begins(f) for f in frames] != [n == 0 for n in range(len(frames))]:
            yield "talk.begins: must be true of the first row of a conversation alone"
        if ids != again or not ids or not all(type(i) is int and i >= 0 for i in ids):
            yield "talk.ids: must give whole numbers, the same ones for the same conversation"
    for likely in ([1.0], [0.5, 0.1], [1e-9]):
        if not 0.0 <= talk.sureness(likely) <= 1.0:
            yield f"talk.sureness: of {likely} is {talk.sureness(likely)}, must be from 0 to 1"
    yield from _learned(line, talk)
    if policy is not None:
        with member("talk, spoken with the model"):
            said_once, said_again = (speak(talk, policy, [_QUESTION], talk.limits) for _ in range(2))
        if said_once != said_again or not 0.0 <= said_once.sure <= 1.0:
            yield "talk: the model must answer the same twice, sure from 0 to 1"


def left_out(line: Line, stretch: Stretch) -> Iterator[str]:
    """What is wrong with what the line says of a stretch: nothing that is cut may be said to be left out."""
    messages = list(stretch.messages)
    with member("left_out"):
        found = list(line.left_out(stretch))
    cut = [(e.start_ns, e.end_ns) for e in line.cut(stretch)]
    longest = max([1, *(f.hold_ns for f in line.features)])
    for start, end, reason in found:
        last = messages[-1].log_time_ns + longest if messages else 0
        if not messages or not messages[0].log_time_ns <= start < end <= last:
            yield f"left_out: [{start}, {end}) does not lie within its stretch"
        elif any(a < end and start < b for a, b in cut):
            yield f"left_out: what is left out for {reason!r} is in an episode"


def _ports(line: Line, talk: Talk) -> Iterator[str]:
    if talk.takes not in {p.name for p in line.model.inputs} or talk.gives not in {p.name for p in line.model.outputs}:
        yield f"talk: takes {talk.takes!r} and gives {talk.gives!r} must be an input and an output port of the model"
    if not talk.ends or talk.context < 2 or talk.limits.tokens < 1:
        yield "talk: needs an id that ends an answer, a context of at least 2 and at least one token"


def _rows(line: Line, frames: Sequence[Frame]) -> Iterator[str]:
    features = {f.name: f for f in line.features}
    for frame in frames:
        for name, value in frame.items():
            if name not in features:
                yield f"talk.rows: gives {name!r}, which is not among the features"
            elif not fits(np.asarray(value), features[name].dtype, features[name].shape):
                yield f"talk.rows: {name} is {np.asarray(value).dtype}{np.shape(value)}, the feature says otherwise"


def _learned(line: Line, talk: Talk) -> Iterator[str]:
    """What may be learned from is cut and comes out whole; a partner's answer is not, unless its terms allow it."""
    for tier, may_train, is_kept in (
        (Tier.DEVICE, False, True),
        (Tier.PREMISES, False, True),
        (Tier.ATTESTED, False, False),
        (Tier.PARTNER, False, False),
        (Tier.PARTNER, True, True),
    ):
        source = Source(tier=tier, may_train=may_train, sure=float("nan"))
        said = (_QUESTION, Said(role="assistant", text=_SECRET))
        with member("cut, of what was answered"):
            episodes = list(line.cut(_stretch(line, [*_frames(talk, said, source), *_frames(talk, said[:1], None)])))
        has = any(_SECRET in turn.text for e in episodes for turn in talk.turns(_of(e)))
        if has != is_kept:
            terms = "may be learned from and is not" if is_kept else "may not be learned from and is"
            yield f"cut: an answer of tier {tier.name.lower()}, may_train = {may_train}, {terms}"


def _frames(talk: Talk, said: Sequence[Said], source: Source | None) -> list[Frame]:
    return [
        row
        for n, turn in enumerate(said)
        for row in talk.rows(turn, n == 0, source if turn.role == "assistant" else None)
    ]


def _of(episode: Episode) -> list[Frame]:
    return [{name: column[n] for name, column in episode.columns.items()} for n in range(len(episode.times_ns))]


def _stretch(line: Line, frames: Sequence[Frame]) -> Stretch:
    period_ns = round(1e9 / line.model.rate_hz)
    messages = [
        Message(topic=name, log_time_ns=at, publish_time_ns=at, value={"data": np.asarray(value)})
        for at, frame in ((_START_NS + n * period_ns, frame) for n, frame in enumerate(frames))
        for name, value in frame.items()
    ]
    return Stretch(device="d", session="s0", index=0, tags={}, messages=messages)


def _shown(said: Sequence[Said]) -> str:
    return repr([(turn.role, turn.text[:20]) for turn in said])[:120]
