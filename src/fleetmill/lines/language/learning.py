"""Teach the model: text and conversations as they come, and the sums that stand in them, asked and answered.

Loads torch: imported by `train`. Half of the parts of text begin where a conversation begins, as they do when the model
is asked. Of a sum only the answer is learned: which sum somebody asks is chance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Metrics, ModelSpec, Tracker, TrainJob
from fleetmill.core.model import BASE_FILE
from fleetmill.lines.fit import Loss, Plan, fit, steady, take_over, weights
from fleetmill.lines.language import adapting, calibrating, files, sizes
from fleetmill.lines.language.conversations import CONTEXT, Conversation, ids, padded
from fleetmill.lines.language.judging import Episodes, everything
from fleetmill.lines.language.muon import Muon
from fleetmill.lines.language.net import Llama, Size
from fleetmill.lines.language.practice import asked, drawn, pairs, told
from fleetmill.lines.language.sums import sums
from fleetmill.lines.vocabulary import ASSISTANT, PAD, Vocabulary

_LENGTH, _TEXTS, _SUMS = CONTEXT, 4, 96  # ids and rows of a batch; sums of a batch
_STEPS, _RATE, _DECAY, _CLIP, _KEEP = 500, 2e-2, 0.05, 1.0, 50
_ON_RATE = 1e-2  # of a training that goes on from a parent
_BESIDE_RATE = 2e-3  # of what is learned beside a network that stays as it is
_MADE = 0.2  # share of the sums whose numbers are drawn anew


def train(job: TrainJob, tracker: Tracker, spec: ModelSpec, words: Vocabulary) -> Mapping[str, bytes]:
    """The model, and its files for every engine: see `files.made`.

    Settings: ``steps``, ``on_steps`` (of a training that goes on from a parent; as many where nobody says), ``rate``,
    ``decay`` (of the weights), ``size`` (pocket, small, large; tiny: for tests), ``practice`` (share of the sums whose
    numbers are drawn anew), ``texts`` and ``sums`` (of a step: parts of 256 ids, sums), ``weight`` (of text), ``apart``
    (share of the sessions on which it is only found how sure the model may be, see `calibrating`; 0: none), ``adapt``,
    ``rank``, ``alpha`` (of a training that goes on: see `adapting`).

    Raises:
        InvalidInputError: there is no text to learn from, or an unknown size.
        LineError: the parent's weights are another network's.
        Stopped: the run was cancelled through the tracker.
    """
    size, how = _size(job, words), adapting.asked(job)
    steps = int(job.settings.get("steps", _STEPS))
    if job.parent and steps:
        steps = int(job.settings.get("on_steps", steps))
    usual = _BESIDE_RATE if how else _ON_RATE if job.parent else _RATE
    rate = float(job.settings.get("rate", usual))
    with steady(job.seed):
        net = Llama(size)
        take_over(net, job.parent)
        temperature = calibrating.read(job.parent)
        if steps:
            decay = float(job.settings.get("decay", _DECAY))
            taught, apart = calibrating.parted(job.data.split("train"), float(job.settings.get("apart", 0.0)))
            plan = Plan(steps=steps, rate=rate, decay=decay, clip=_CLIP, keep=_KEEP)
            loss, rows = _lesson(net, taught, job, words)
            _fit(net, loss, plan, job, tracker, rows, how)
            temperature = _temperature(net.eval(), apart, words)
        net.eval()
        beside = {calibrating.NAME: calibrating.written(temperature)} if temperature != 1.0 else {}
        if job.parent and BASE_FILE in job.parent:
            beside[BASE_FILE] = job.parent[BASE_FILE]
        return {**files.made(net, spec, words, temperature), "weights.safetensors": weights(net), **beside}


def _size(job: TrainJob, words: Vocabulary) -> Size:
    """A base's own where there is one, else what the settings name."""
    if not (job.parent and BASE_FILE in job.parent):
        return sizes.named(str(job.settings.get("size", "small")), words.size)
    if "size" in job.settings:
        raise InvalidInputError("language: size: a model that came from a base has that one's. Leave it out")
    return sizes.size_of(json.loads(job.parent["config.json"]), words.size)


def _fit(
    net: Llama,
    loss: Loss,
    plan: Plan,
    job: TrainJob,
    tracker: Tracker,
    rows: Metrics,
    how: adapting.Adapting | None,
) -> None:
    """All weights, or only what is put beside them and then added to them."""
    if how is None:
        fit(net, loss, plan, job, tracker, rows, optimiser=Muon(net, rate=plan.rate, decay=plan.decay))
        return
    adapters = adapting.Adapters(net, how)
    net.to(job.accelerator).train()
    fit(adapters, loss, plan, job, tracker, {**rows, "trained.share": adapters.share()})
    net.to("cpu").eval()
    adapters.merge()


def _temperature(net: Llama, apart: Episodes, words: Vocabulary) -> float:
    """At which the answers of the sessions kept apart are told best; 1 where there is none."""
    rows = _known(everything(apart, teaches=True))
    if not rows:
        return 1.0
    table = _answers(rows, words).to(next(net.parameters()).device)
    with torch.no_grad():
        found = [_behind(net, table[at : at + _SUMS], after=ASSISTANT) for at in range(0, len(table), _SUMS)]
    logits = torch.cat([said[came != PAD] for said, came in found])
    wanted = torch.cat([came[came != PAD] for _, came in found])
    return calibrating.temperature(lambda t: functional.cross_entropy(logits / t, wanted))


def _lesson(net: Llama, data: Episodes, job: TrainJob, words: Vocabulary) -> tuple[Loss, Metrics]:
    """The mean loss of a batch that chance draws, and how many rows there are to draw from, by kind."""
    said = everything(data, teaches=True)
    if not said:
        raise InvalidInputError("language: no text to learn from; import .txt, .md or .jsonl files with some")
    flow, starts = _flow(ids(said, words))
    known = _known(said)
    share = float(job.settings.get("practice", _MADE))
    weight = float(job.settings.get("weight", 1.0))
    texts, number = int(job.settings.get("texts", _TEXTS)), int(job.settings.get("sums", _SUMS))
    if not (texts > 0 or (known and number > 0)):
        raise InvalidInputError("language: texts = 0, and no sum to learn. Give texts, or conversations with sums")

    def loss(chance: np.random.Generator) -> torch.Tensor:
        value = torch.zeros((), device=job.accelerator)
        if texts:
            value = value + weight * _told(net, _texts(flow, starts, chance, texts).to(job.accelerator))
        if known and number:
            rows = [known[n] for n in chance.integers(len(known), size=number)]
            made = chance.random(number) < share
            rows = [drawn(row, chance) if new else row for row, new in zip(rows, made, strict=True)]
            value = value + _told(net, _answers(rows, words).to(job.accelerator), after=ASSISTANT)
        return value

    return loss, {"rows.text": float(len(flow)), "rows.sums": float(len(known))}


def _known(said: Sequence[Conversation]) -> list[tuple[str, str]]:
    """Sums and their answers: those in a calculator's notes, and those that were asked and answered."""
    notes = asked([found for c in said for turn in c for found in sums(turn.text)])
    return [*notes, *(pair for c in said for pair in pairs(c))]


def _flow(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """All ids one after another, at least a batch's row of them, and where conversations begin."""
    starts = np.cumsum([0, *map(len, rows[:-1])])
    flow = np.concatenate([np.asarray(row, np.int64) for row in rows])
    short = max(_LENGTH + 1 - len(flow), 0)
    return np.concatenate([flow, np.full(short, PAD, np.int64)]), starts


def _texts(flow: Array, starts: Array, chance: np.random.Generator, number: int) -> torch.Tensor:
    """int64 (`number`, 257): parts of the text, half of them from where a conversation begins."""
    last = len(flow) - _LENGTH - 1
    at = chance.integers(last + 1, size=number)
    begun = np.minimum(starts[np.searchsorted(starts, at, side="right") - 1], last)
    at = np.where(chance.random(number) < 0.5, begun, at)
    return torch.from_numpy(flow[at[:, None] + np.arange(_LENGTH + 1)])


def _answers(rows: Sequence[tuple[str, str]], words: Vocabulary) -> torch.Tensor:
    return torch.from_numpy(padded(ids([told(*row) for row in rows], words)))


def _told(net: Llama, rows: torch.Tensor, after: int | None = None) -> torch.Tensor:
    """Mean surprise at each next id; with `after` only at those that stand behind that mark."""
    return functional.cross_entropy(*_behind(net, rows, after), ignore_index=PAD)


def _behind(net: Llama, rows: torch.Tensor, after: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits (N, vocabulary), what came (N,), `PAD` where that is not asked)."""
    logits, _ = net(rows[:, :-1])
    wanted = rows[:, 1:]
    if after is not None:
        behind = torch.cumsum((rows[:, :-1] == after).long(), 1) > 0
        wanted = torch.where(behind, wanted, PAD)
    return logits.flatten(0, 1), wanted.flatten()
