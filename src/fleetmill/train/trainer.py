"""Training: a dataset version becomes a model version, once per key; a killed run goes on where it was."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fleetmill.core.errors import LineError, NotFoundError
from fleetmill.core.line import Data, Line, Metrics, Tracker, TrainCommand, TrainJob
from fleetmill.core.model import ModelVersion, Run
from fleetmill.core.plain import build, plain
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Draft, Ledger
from fleetmill.seams.runtime import Runtime, policies
from fleetmill.train import bases, command

Progress = Callable[[int, int, Metrics], None]
_STEP = struct.Struct("<q")


class FolderTracker:
    """`core.line.Tracker` whose state survives a kill: one file, replaced whole."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path, self._progress = path, progress
        self.metrics: dict[str, float] = {}

    def step(self, step: int, of: int, metrics: Metrics) -> None:
        """Report progress; the last value of each metric goes to the model's record."""
        self.metrics.update({name: float(value) for name, value in metrics.items()})
        self._progress(step, of, metrics)

    def save(self, step: int, state: bytes) -> None:
        """Keep what the run needs to go on from `step`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, _STEP.pack(step) + state)

    def saved(self) -> tuple[int, bytes] | None:
        """What an earlier, killed process of this run kept."""
        if not self._path.exists():
            return None
        data = self._path.read_bytes()
        return _STEP.unpack_from(data)[0], data[_STEP.size :]

    def clear(self) -> None:
        """Forget the state, or the folder of a command: the run is over."""
        if self._path.is_dir():
            shutil.rmtree(self._path, ignore_errors=True)  # what belongs to another user stays, and `gc` names it
        else:
            self._path.unlink(missing_ok=True)


class Stored(Mapping[str, bytes]):
    """Files that lie in `blobs`, by name."""

    def __init__(self, blobs: Blobs, digests: Mapping[str, str]) -> None:
        self._blobs, self._digests = blobs, digests

    def __getitem__(self, name: str) -> bytes:
        return self._blobs.get(self._digests[name])

    def __contains__(self, name: object) -> bool:
        return name in self._digests

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)


def run(
    ledger: Ledger,
    blobs: Blobs,
    line: Line,
    data: Data,
    plan: Run,
    *,
    folder: Path,
    runtime: Runtime | None = None,
    base: bases.Base | None = None,
    progress: Progress = lambda step, of, metrics: None,
) -> ModelVersion:
    """The model version that `plan` makes of `data`; a run that was finished before is given back.

    `runtime`: tries what a training command made before it is entered. `base`: what it begins from without a parent.

    Raises:
        LineError: the line gives no ``model.onnx``.
        InvalidInputError: the line does not take the base.
        EngineError: the line's training command failed.
        IntegrityError, InvalidInputError: what the command made is no model, or has other ports than the line's.
    """
    try:
        return model(ledger, ledger.get("run", plan.key).record["model"])
    except NotFoundError:
        pass
    tracker = FolderTracker(folder / plan.key, progress)
    job = TrainJob(
        data=data,
        parent=_parent(ledger, blobs, line, plan, base),
        seed=plan.seed,
        settings=plan.settings,
    )
    made = fit(line, job, tracker, tables=lambda: command.tables(ledger, blobs, plan.dataset), folder=folder / plan.key)
    if runtime is not None and isinstance(line.train, TrainCommand):
        policies(line, runtime, {"model.onnx": made["model.onnx"]})
    if "model.onnx" not in made:
        raise LineError(f"line {line.name}: train gave {sorted(made)}, 'model.onnx' is missing")
    version = ModelVersion(
        line=line.name,
        files={name: blobs.put(made[name]) for name in sorted(made)},
        run=plan.key,
        metrics=tracker.metrics,
    )
    ledger.append(
        [
            Draft(kind="run", key=plan.key, record={**plan.record, "model": version.digest}),
            *_new_model(ledger, version),
        ]
    )
    tracker.clear()
    return version


def fit(
    line: Line, job: TrainJob, tracker: Tracker, *, tables: Callable[[], Mapping[str, Path]], folder: Path
) -> Mapping[str, bytes]:
    """The files that the line's function makes, or its command in `folder` of the rows in `tables`."""
    if not isinstance(line.train, TrainCommand):
        return line.train(job, tracker)
    made, metrics = command.train(line, line.train, job, tables(), folder)
    tracker.step(1, 1, metrics)
    return made


def base_of(ledger: Ledger, digest: str) -> str:
    """Digest of the base that a model came from; "": from none, or the model is none of ours."""
    run = model(ledger, digest).run if digest else ""
    return str(ledger.get("run", run).record.get("base", "")) if run else ""


def model(ledger: Ledger, digest: str) -> ModelVersion:
    """A model version.

    Raises:
        NotFoundError: no such model.
    """
    return build(ModelVersion, ledger.get("model", digest).record)


def files(ledger: Ledger, blobs: Blobs, digest: str) -> Mapping[str, bytes]:
    """A model version's files by name, each read when it is asked for: a training wants few of them."""
    return Stored(blobs, model(ledger, digest).files)


def _parent(ledger: Ledger, blobs: Blobs, line: Line, plan: Run, base: bases.Base | None) -> Mapping[str, bytes] | None:
    if plan.parent:
        return files(ledger, blobs, plan.parent)
    return bases.parent(line, base) if base else None


def _new_model(ledger: Ledger, version: ModelVersion) -> list[Draft]:
    """No second fact when another run came to the very same files."""
    try:
        ledger.get("model", version.digest)
    except NotFoundError:
        return [Draft(kind="model", key=version.digest, record=plain(version))]
    return []
