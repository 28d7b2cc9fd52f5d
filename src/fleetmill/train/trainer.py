"""Training: a dataset version becomes a model version, once per key; a killed run goes on where it was."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from fleetmill.core.errors import LineError, NotFoundError
from fleetmill.core.line import Data, Line, Metrics, TrainJob
from fleetmill.core.model import ModelVersion, Run
from fleetmill.core.plain import build, plain
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Draft, Ledger

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
        """Forget the state: the run is over."""
        self._path.unlink(missing_ok=True)


def run(
    ledger: Ledger,
    blobs: Blobs,
    line: Line,
    data: Data,
    plan: Run,
    *,
    folder: Path,
    progress: Progress = lambda step, of, metrics: None,
) -> ModelVersion:
    """The model version that `plan` makes of `data`; a run that was finished before is given back.

    Raises:
        LineError: the line gives no ``model.onnx``.
    """
    try:
        return model(ledger, ledger.get("run", plan.key).record["model"])
    except NotFoundError:
        pass
    tracker = FolderTracker(folder / plan.key, progress)
    job = TrainJob(
        data=data,
        parent=files(ledger, blobs, plan.parent) if plan.parent else None,
        seed=plan.seed,
        settings=plan.settings,
    )
    made = line.train(job, tracker)
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
            Draft(kind="run", key=plan.key, record={**plain(plan), "model": version.digest}),
            *_new_model(ledger, version),
        ]
    )
    tracker.clear()
    return version


def model(ledger: Ledger, digest: str) -> ModelVersion:
    """A model version.

    Raises:
        NotFoundError: no such model.
    """
    return build(ModelVersion, ledger.get("model", digest).record)


def files(ledger: Ledger, blobs: Blobs, digest: str) -> Mapping[str, bytes]:
    """A model version's files by name."""
    return {name: blobs.get(blob) for name, blob in model(ledger, digest).files.items()}


def _new_model(ledger: Ledger, version: ModelVersion) -> list[Draft]:
    """No second fact when another run came to the very same files."""
    try:
        ledger.get("model", version.digest)
    except NotFoundError:
        return [Draft(kind="model", key=version.digest, record=plain(version))]
    return []
