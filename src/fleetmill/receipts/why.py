"""From a model back to the seconds that made it. Reads manifests: run, dataset, refined, session; never the books.

`fate` goes the other way on another path, and `check` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleetmill.core.dataset import refined_key
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.receipts.dataset import LabelsUsed, Sets
from fleetmill.receipts.standing import Standing, Standings
from fleetmill.release import publish as release
from fleetmill.seams.ledger import Fact, Ledger

TAUGHT = ("train", "validation")  # a validation interval chose the weights: the model owes it something too
_LEAST_DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Owed:
    """A piece of a recording that a model learned from or was judged on."""

    device: str
    number: int  # the device's
    session: str
    role: str
    recording: str  # digest; "": the episode reaches over what no recording holds
    start_ns: int
    end_ns: int
    episode: str
    datasets: tuple[str, ...]  # of the model's own run or of its ancestors'


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One training in a model's descent; a model that was made elsewhere has none of our runs (`run` is "")."""

    model: str
    run: str
    dataset: str
    parent: str
    code: str
    seed: int
    settings: Mapping[str, Any]
    labels: Mapping[str, float]  # rows by who labelled them
    fact: int
    command: str = ""  # digest of a training command's words; "": the line trained in a function
    environment: str = ""  # of the image or environment that the command ran in, as its owner named it
    base: str = ""  # digest of the model that the owner brought and that all of this began from
    trained: float = 1.0  # how many weights were learned for each that the model has


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """Everything that one model came from, and what was said of it."""

    model: str
    line: str
    files: Mapping[str, str]
    made_by: str  # who made it elsewhere, as they said; "": this factory did
    descent: tuple[Training, ...]  # the model's own training first, then its parent's, to the first
    learned_from: tuple[Owed, ...]
    judged_on: tuple[Owed, ...]
    labels: tuple[LabelsUsed, ...]  # from outside, in what it learned from or was judged on
    devices: tuple[str, ...]  # that lived what it learned from
    standing: Standing
    fact: int


def find(ledger: Ledger, name: str, line: str | None) -> str:
    """Digest of the model that is meant by ``champion``, a release number of `line`, or a digest (of the
    model or of its ``model.onnx``) or its beginning.

    `line`: not needed where only one has releases.

    Raises:
        InvalidInputError: ``champion`` or a release number of several lines.
        NotFoundError: there is none, or more than one.
    """
    if name == "champion" or (name.isdigit() and len(name) < _LEAST_DIGITS):
        released = sorted({str(f.record["line"]) for f in ledger.read(kind="release")})
        if not line and len(released) > 1:
            raise InvalidInputError(f"model {name!r}: of which line? Give --line {' or '.join(released)}")
        if not line and not released:
            raise NotFoundError(f"model {name!r}: nothing was released yet. See: fleetmill status")
        return _released(ledger, name, line or released[0])
    models = [f for f in ledger.read(kind="model") if not line or f.record["line"] == line]
    named = [{f.key, str(f.record["files"]["model.onnx"])} for f in models]  # devices name the file that they run
    long_enough = len(name) >= _LEAST_DIGITS
    found = [f.key for f, names in zip(models, named) if long_enough and any(n.startswith(name) for n in names)]
    if len(found) != 1:
        least = f" (give at least {_LEAST_DIGITS} digits)" if len(name) < _LEAST_DIGITS else ""
        raise NotFoundError(f"model {name[:64]!r}: {len(found)} found{least}. See: fleetmill status")
    return found[0]


def why(ledger: Ledger, model: str) -> Why:
    """What made a model; `model` is its whole digest (`find`).

    Raises:
        NotFoundError: no such model.
    """
    return Backward(ledger).why(model)


class Backward:
    """The path back, for any number of models, from facts that are read once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._models = {f.key: f for f in ledger.read(kind="model")}
        self._runs: dict[str, list[Fact]] = {}
        for fact in ledger.read(kind="run"):
            self._runs.setdefault(fact.record["model"], []).append(fact)
        self._made_by = {f.record["model"]: str(f.record["made_by"]) for f in ledger.read(kind="entered")}
        self._verdicts = [f.record for f in ledger.read(kind="verdict")]
        self._numbers = {f.key: int(f.record["number"]) for f in ledger.read(kind="device")}
        self._standings, self._sets = Standings(ledger), Sets(ledger)
        self._places: dict[str, list[Owed]] = {}

    def why(self, model: str) -> Why:
        """See `why`."""
        if model not in self._models:
            raise NotFoundError(f"no model {model[:12]!r} in the ledger. See: fleetmill status")
        fact = self._models[model]
        descent = self._descent(model)
        datasets = list(dict.fromkeys(t.dataset for t in descent if t.dataset))
        judged = dict.fromkeys(v["dataset"] for v in self._verdicts if v["candidate"] == model)
        learned = self._owed(datasets, TAUGHT)
        return Why(
            model=model,
            line=fact.record["line"],
            files=fact.record["files"],
            made_by=self._made_by.get(model, ""),
            descent=descent,
            learned_from=learned,
            judged_on=self._owed(list(judged), ("held_out",)),
            labels=self._labels(datasets, list(judged)),
            devices=tuple(sorted({p.device for p in learned})),
            standing=self._standings.of(model),
            fact=fact.seq,
        )

    def _descent(self, model: str) -> tuple[Training, ...]:
        """Every run that made the model or an ancestor of it; a run that gave its own parent back ends there."""
        found, todo, seen = [], [model], {model}
        while todo:
            name = todo.pop(0)
            trainings = [self._training(name, run) for run in self._runs.get(name, [None])]
            found += trainings
            for training in trainings:
                if training.parent and training.parent not in seen:
                    seen.add(training.parent)
                    todo.append(training.parent)
        return tuple(found)

    def _training(self, model: str, run: Fact | None) -> Training:
        made = self._models[model]
        record: Mapping[str, Any] = run.record if run else {}
        rows = {k.removeprefix("rows."): v for k, v in made.record["metrics"].items() if k.startswith("rows.")}
        return Training(
            model=model,
            run=run.key if run else "",
            dataset=record.get("dataset", ""),
            parent=record.get("parent", ""),
            code=record.get("code", ""),
            seed=int(record.get("seed", 0)),
            settings=record.get("settings", {}),
            labels=rows,
            fact=(run or made).seq,
            command=record.get("command", ""),
            environment=record.get("environment", ""),
            base=record.get("base", ""),
            trained=float(made.record["metrics"].get("trained.share", 1.0)),
        )

    def _labels(self, learned: list[str], judged: list[str]) -> tuple[LabelsUsed, ...]:
        """The label sets that taught or asked, each once for what it was used for."""
        taught, asked = (
            self._sets.of([self._ledger.get("dataset", d).record["manifest"] for d in datasets], roles)
            for datasets, roles in ((learned, TAUGHT), (judged, ("held_out",)))
        )
        return (*taught, *asked)

    def _owed(self, datasets: list[str], roles: tuple[str, ...]) -> tuple[Owed, ...]:
        """The pieces that any of the datasets holds in these roles, each once, with all datasets that hold it."""
        found: dict[tuple[object, ...], Owed] = {}
        for dataset in datasets:
            for piece in self._held(dataset):
                if piece.role in roles:
                    key = (piece.number, piece.start_ns, piece.end_ns, piece.episode, piece.role)
                    before = found.get(key, replace(piece, datasets=()))
                    found[key] = replace(before, datasets=(*before.datasets, dataset))
        return tuple(found[key] for key in sorted(found, key=lambda k: k[:3]))

    def _held(self, dataset: str) -> list[Owed]:
        """Every piece of a dataset version, by its manifest."""
        if dataset not in self._places:
            manifest = self._ledger.get("dataset", dataset).record["manifest"]
            self._places[dataset] = [p for part in manifest["parts"] for p in self._part(manifest, part)]
        return self._places[dataset]

    def _part(self, manifest: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[Owed]:
        key = refined_key(manifest["line"], manifest["line_version"], part["session"], part.get("labels", ()))
        places = {p["digest"]: p for p in self._ledger.get("refined", key).record["episodes"]}
        refs = self._ledger.get("session", part["session"]).record["manifest"]["recordings"]
        for episode in part["episodes"]:
            place = places[episode]
            whole = Owed(
                device=place["device"],
                number=self._numbers[place["device"]],
                session=place["session"],
                role=part["role"],
                recording="",
                start_ns=place["start_ns"],
                end_ns=place["end_ns"],
                episode=episode,
                datasets=(),
            )
            yield from _by_recording(whole, refs)


def _by_recording(whole: Owed, refs: list[Mapping[str, Any]]) -> Iterator[Owed]:
    """`whole` cut where recordings begin and end; what lies in none has none."""
    at = whole.start_ns
    for ref in sorted(refs, key=lambda r: int(r["start_ns"])):
        start, end = max(ref["start_ns"], at), min(ref["end_ns"], whole.end_ns)
        if start >= end:
            continue
        if start > at:
            yield replace(whole, start_ns=at, end_ns=start)
        yield replace(whole, start_ns=start, end_ns=end, recording=ref["digest"])
        at = end
    if at < whole.end_ns:
        yield replace(whole, start_ns=at)


def _released(ledger: Ledger, name: str, line: str) -> str:
    if name == "champion":
        champion = release.champion(ledger, line)
        if champion is None:
            raise NotFoundError(f"line {line}: has no champion yet. Run: fleetmill turn --line {line}")
        return champion.model
    for fact in ledger.read(kind="release"):
        if (fact.record["line"], fact.record["counter"]) == (line, int(name)):
            return str(fact.record["model"])
    raise NotFoundError(f"line {line}: no release {name}. See: fleetmill status")
