"""Training by a command: a folder goes in, ``out/model.onnx`` and ``out/metrics.json`` come out of the same folder.

The command ends with the process that waits for it. Whichever of the two is killed, the next call finds the same folder
with what the command left there, so that a command which keeps its state in it goes on where it was.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.errors import EngineError, InvalidInputError, LineError, UnavailableError
from fleetmill.core.line import Line, TrainCommand, TrainJob
from fleetmill.core.plain import plain
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.files import copy_whole, write_whole
from fleetmill.seams.ledger import Ledger
from fleetmill.seams.tables import open_table

ROLES = ("train", "validation")  # what a training may see; held_out is the judge's
JOB = "FLEETMILL_JOB"
DATASET, PARENT, OUT, LOG, SETTINGS = "dataset", "parent", "out", "log.txt", "settings.json"
MODEL, METRICS = "model.onnx", "metrics.json"
_LAST_LINES, _LAST_BYTES = 5, 2000


def named(line: Line) -> dict[str, str]:
    """What of a line's command goes into a `Run`; nothing where the line trains in a function."""
    if not isinstance(line.train, TrainCommand):
        return {}
    return {"command": canonical.digest(list(line.train.words)), "environment": line.train.environment_digest}


def tables(ledger: Ledger, blobs: Blobs, dataset: str) -> dict[str, Path]:
    """The files with a dataset version's rows, by role, that a training may see.

    Raises:
        NotFoundError: no such version.
    """
    shards = ledger.get("dataset", dataset).record["shards"]
    return {role: blobs.path(shards[role]) for role in ROLES if role in shards}


def train(
    line: Line, command: TrainCommand, job: TrainJob, data: Mapping[str, Path], folder: Path
) -> tuple[dict[str, bytes], dict[str, float]]:
    """(files of the model, metrics) that the command made in `folder`, which is completed first where it is not whole.

    `data`: the job's rows as files, by role.

    Raises:
        LineError: there is no such program, or it leaves no model or no readable metrics.
        EngineError: it ended with something else than 0; with the end of what it said.
        UnavailableError: the disk refused.
    """
    who = f"line {line.name}: training command {' '.join(command.words[:3])[:80]!r}"
    try:
        _prepare(line, job, data, folder)
    except OSError as error:
        raise UnavailableError(f"{folder}: cannot be written: {error.strerror}") from error
    code = _run(command, folder, who)
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise EngineError(f"{who} {how}{_said(folder)}")
    return _made(folder, who), _metrics(folder, who)


def _prepare(line: Line, job: TrainJob, data: Mapping[str, Path], folder: Path) -> None:
    """Fill the folder; ``dataset.json`` is written last and says that all the rest is there."""
    mark = folder / DATASET / "dataset.json"
    if mark.exists():
        return
    for name in (DATASET, PARENT, OUT):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for role, source in data.items():
        copy_whole(source, folder / DATASET / f"{role}.arrow")
    for name, content in (job.parent or {}).items():
        write_whole(folder / PARENT / name, content)
    settings = {"seed": job.seed, "settings": plain(job.settings), "accelerator": job.accelerator}
    write_whole(folder / SETTINGS, canonical.dumps(settings))
    manifest = {
        "type": "fleet.training_data",
        "version": 1,
        "line": line.name,
        "line_version": line.version,
        "features": plain(line.features),
        "files": {role: f"{role}.arrow" for role in data},
        "episodes": {role: plain(open_table(path).places) for role, path in data.items()},
    }
    write_whole(mark, canonical.dumps(manifest))


def _run(command: TrainCommand, folder: Path, who: str) -> int:
    """The exit code; the command and what it started in its session are gone when something ends the waiting."""
    environment = _environment(folder)
    if not command.words or shutil.which(command.words[0], path=environment["PATH"]) is None:
        raise LineError(f"{who}: there is no such program. Give one that PATH finds, or its whole path")
    place = str(folder.resolve())
    launch = [sys.executable, "-m", "fleetmill.train.child", str(os.getpid()), place, *command.words, place]
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            launch, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """Ours, with the folder, and our own interpreter's programs before all others: ``python`` is the factory's."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {**os.environ, JOB: str(folder.resolve()), "PATH": path}


def _made(folder: Path, who: str) -> dict[str, bytes]:
    """The plain files of ``out/``, but for the metrics and what begins with a dot."""
    found = {
        path.name: path.read_bytes()
        for path in sorted((folder / OUT).glob("*"))
        if path.is_file() and not path.is_symlink() and path.name != METRICS and not path.name.startswith(".")
    }
    if MODEL not in found:
        raise LineError(f"{who} left {sorted(found) or 'nothing'} in {OUT}/, '{MODEL}' is missing{_said(folder)}")
    return found


def _metrics(folder: Path, who: str) -> dict[str, float]:
    rule = f"{who}: {OUT}/{METRICS} must be a JSON object of names and finite numbers"
    try:
        value = canonical.loads((folder / OUT / METRICS).read_bytes())
    except FileNotFoundError:
        raise LineError(f"{rule}; it is missing{_said(folder)}") from None
    except OSError as error:
        raise LineError(f"{rule}; it cannot be read: {error.strerror}") from error
    except InvalidInputError as error:
        raise LineError(f"{rule}; it is {error}") from error
    if not isinstance(value, dict):
        raise LineError(f"{rule}; it is a {type(value).__name__}")
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise LineError(f"{rule}; {name!r} is {str(number)[:40]!r}")
    return {name: float(number) for name, number in value.items()}


def _said(folder: Path) -> str:
    """The end of the log, for the end of an error."""
    log = folder / LOG
    if not log.is_file():
        return ". It removed its log"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f". Its last words ({log}): {' | '.join(lines[-_LAST_LINES:]) or 'none'}"
