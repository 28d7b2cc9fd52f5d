"""The line ``language``: a small language model reads text and conversations, and answers sums.

What is recorded is text in bytes. What a device and the gate run of it is one look: ids in, what comes next and how
likely each id was out; a byte is its own id, so a recorded piece can be read as it is. To answer whole sentences, the
same weights lie beside ``model.onnx`` as files of ONNX Runtime GenAI and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from fleetmill.core.errors import EngineMissingError
from fleetmill.core.line import (
    Asking,
    Check,
    Episode,
    Feature,
    Files,
    Frame,
    Judging,
    Line,
    Memory,
    ModelSpec,
    Port,
    Recipe,
    Round,
    Tracker,
    TrainJob,
)
from fleetmill.lines.language.conversations import PERIOD_NS, PIECE, PLAIN, cut, left_out
from fleetmill.lines.language.importing import chats, texts
from fleetmill.lines.language.judging import baseline, metrics, score
from fleetmill.lines.language.pieces import OURS
from fleetmill.lines.language.questions import asks
from fleetmill.lines.language.sample import bills
from fleetmill.lines.language.talking import talk
from fleetmill.lines.vocabulary import Vocabulary


def model(words: Vocabulary) -> ModelSpec:
    """The ports of a model of these words."""
    return ModelSpec(
        inputs=(Port(name="ids", dtype="int64", shape=(-1,), feature="text"),),
        outputs=(
            Port(name="logits", dtype="float32", shape=(words.size,)),
            Port(name="token", dtype="int64", shape=(), feature="token"),
            Port(name="logprobs", dtype="float32", shape=(-1,)),
        ),
        rate_hz=1e9 / PERIOD_NS,
        latency_ns=100_000_000,
        tolerance=1e-3,  # of a logarithm
    )


def train(job: TrainJob, tracker: Tracker, *, words: Vocabulary) -> Mapping[str, bytes]:
    """The model's files; see `learning.train`.

    Raises:
        EngineMissingError: PyTorch, ONNX, safetensors or tokenizers is not installed.
    """
    try:
        from fleetmill.lines.language.learning import train as learn
    except ModuleNotFoundError as error:
        raise EngineMissingError(str(error.name), extra="train") from error
    return learn(job, tracker, model(words), words)


def adopt(files: Files, *, words: Vocabulary) -> Mapping[str, bytes]:
    """A base's files as a parent's; see `bases.adopt`.

    Raises:
        EngineMissingError: PyTorch or safetensors is not installed.
    """
    try:
        from fleetmill.lines.language.bases import adopt as take
    except ModuleNotFoundError as error:
        raise EngineMissingError(str(error.name), extra="train") from error
    return take(files, words)


def guard(action: Frame, observation: Frame, memory: Memory, *, words: Vocabulary) -> tuple[Frame, Memory]:  # noqa: ARG001
    """An id of the vocabulary."""
    return {"token": np.clip(np.asarray(action["token"], np.int64), 0, words.size - 1)}, memory


def _is_plain(episode: Episode) -> bool:
    return bool((np.asarray(episode.columns["role"]) == PLAIN).all())


def _feature(name: str, kind: str, shape: tuple[int, ...] = (), dtype: str = "uint8") -> Feature:
    return Feature(name=name, kind=kind, dtype=dtype, shape=shape, unit="1", hold_ns=PERIOD_NS)  # type: ignore[arg-type]


_first_days = Round(scenario="replay", sessions=11, seconds=600.0, budget_ratio=1.0)
_a_week = Round(scenario="replay", sessions=5, seconds=600.0, budget_ratio=1.0)
_people = Asking(
    asks=asks,
    schools=60,
    pilots=20,
    checks=24,
    teacher={"size": "small", "steps": 1000, "texts": 0, "sums": 48, "practice": 0.0},
    learner={
        "size": "pocket",
        "steps": 1000,
        "on_steps": 300,
        "decay": 0.3,
        "texts": 1,
        "weight": 0.1,
        "sums": 48,
        "practice": 0.0,
        "apart": 0.17,
    },
)


_beats_counting = Check(metric="bits_per_byte", better="lower", against="baseline", limit=1.0)
_is_not_worse = Check(metric="bits_per_byte", better="lower", against="champion", limit=1.02, first=False)


def made(name: str, words: Vocabulary) -> Line:
    """A line whose models read and write these words. Sums are scored, and no check asks for them."""
    return Line(
        name=name,
        features=(
            _feature("text", "observation", (PIECE,)),  # a piece of a turn in UTF-8, filled up with noughts
            _feature("role", "observation"),  # who says it: 0 nobody, 1 the system, 2 a user, 3 the assistant
            _feature("first", "observation"),  # 1 where a conversation begins
            _feature("token", "action", dtype="int64"),  # what the model would read next
            _feature("model.token", "extra", dtype="int64"),
            _feature("tier", "extra"),  # who answered: 0 the device, 1 own servers, 2 an attested partner, 3 a partner
            _feature("may_train", "extra"),  # 1 where a partner's terms let us learn from its answer
            _feature("sure", "extra", dtype="float32"),  # how likely the device's own model found its own answer
        ),
        model=model(words),
        cut=cut,
        left_out=left_out,
        talk=talk(words),
        version=2,
        train=partial(train, words=words),
        adopt=partial(adopt, words=words),
        judging=Judging(score=partial(score, words=words), metrics=metrics, baseline=partial(baseline, words=words)),
        checks=(_beats_counting, _is_not_worse),
        guard=partial(guard, words=words),
        slices={"plain": _is_plain, "conversations": lambda episode: not _is_plain(episode)},
        importers=(chats, texts),
    )


line = replace(
    made("language", OURS),
    checks=(
        _beats_counting,
        Check(metric="sums_wrong", better="lower", against="limit", limit=0.9),
        _is_not_worse,
        Check(metric="sums_wrong", better="lower", against="champion", limit=1.02, first=False),
    ),
    recipe=Recipe(
        devices=3,
        first=_first_days,
        then=_a_week,
        headline="sums_wrong",
        report_trials=10,
        quick=(2, 3),
        sample=bills,
        asking=_people,
    ),
)
