"""A model that was trained elsewhere comes in as a candidate: it is judged and released like our own."""

from __future__ import annotations

from fleetmill.core.errors import ConflictError, InvalidInputError
from fleetmill.core.line import Line
from fleetmill.core.model import ModelVersion
from fleetmill.core.plain import plain
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Draft, Fact, Ledger
from fleetmill.seams.runtime import Runtime, policies

MOST_BYTES = 2 * 1024**3


def add(ledger: Ledger, blobs: Blobs, runtime: Runtime, line: Line, data: bytes, *, made_by: str) -> ModelVersion:
    """Enter the bytes of a ``model.onnx``; adding the same again changes nothing.

    Raises:
        IntegrityError: the bytes are no model.
        InvalidInputError: its ports are not the line's, or nobody is named.
        ConflictError: this factory has that very model already.
    """
    if not made_by.strip() or len(made_by) > 500:
        raise InvalidInputError("--made-by: say in 1 to 500 characters who made the model and how; it stays for ever")
    if len(data) > MOST_BYTES:
        raise InvalidInputError(f"model: {len(data)} bytes, at most {MOST_BYTES} are taken")
    policies(line, runtime, {"model.onnx": data})
    version = ModelVersion(line=line.name, files={"model.onnx": blobs.put(data)})
    known = _entered(ledger, line.name)
    if version.digest in {f.record["model"] for f in known}:
        return version
    ours = _with_file(ledger, version.files["model.onnx"])
    if ours:
        raise ConflictError(f"model {ours[:12]}: this very file was trained here. See: fleetmill why {ours[:12]}")
    record = {"line": line.name, "model": version.digest, "made_by": made_by}
    ledger.append(
        [
            Draft(kind="model", key=version.digest, record=plain(version)),
            Draft(kind="entered", key=f"{line.name}/{len(known)}", record=record),
        ]
    )
    return version


def waiting(ledger: Ledger, line: str) -> Fact | None:
    """The oldest entry that was not examined to its end; None: there is none."""
    done = {f.key for f in ledger.read(kind="examined")}
    return next((f for f in _entered(ledger, line) if f.key not in done), None)


def _entered(ledger: Ledger, line: str) -> list[Fact]:
    return [f for f in ledger.read(kind="entered") if f.record["line"] == line]


def _with_file(ledger: Ledger, file: str) -> str:
    """Digest of a model version that has that ``model.onnx``; "": none has."""
    return next((f.key for f in ledger.read(kind="model") if f.record["files"]["model.onnx"] == file), "")
