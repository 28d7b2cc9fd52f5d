"""What an attacker makes: a bad model, a flipped byte, a list signed by a wrong key, a list with stolen keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from onnx import numpy_helper
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]

from fleetmill.core.errors import NotFoundError
from fleetmill.demo.wire import Bend

_Signed = TypeVar("_Signed", Targets, Snapshot, Timestamp)
_METADATA = re.compile(r"/v1/repository/metadata/(?:(\d+)\.)?(timestamp|snapshot|targets)\.json")


def bad_model(model: bytes, *, seed: int) -> bytes:
    """A model with the ports of `model` and shuffled weights: it answers, and nothing that it says is right."""
    chance = np.random.default_rng(seed)
    made = onnx.load_model_from_string(model)
    for stored in made.graph.initializer:
        values = numpy_helper.to_array(stored)
        if values.dtype.kind == "f":  # a single number has no other order: its sign is turned
            shuffled = chance.permutation(values.reshape(-1)).reshape(values.shape) if values.size > 1 else -values
            stored.CopyFrom(numpy_helper.from_array(np.asarray(shuffled, values.dtype), stored.name))
    return bytes(made.SerializeToString())


def flipped_byte(moment: float) -> Bend:
    """Flips one bit of every model file that passes, at the same place; the rest is carried as it came."""

    def bend(method: str, path: str, status: int, body: bytes) -> tuple[int, bytes]:
        if method == "GET" and path.endswith("/model.onnx") and body and status in (200, 206):
            bent = bytearray(body)
            bent[int(moment * len(bent)) % len(bent)] ^= 1
            return status, bytes(bent)
        return status, body

    return bend


def wrong_key(newest: int) -> Bend:
    """Signs every timestamp after version `newest` with a key that no root names."""
    key = CryptoSigner.generate_ed25519()

    def bend(method: str, path: str, status: int, body: bytes) -> tuple[int, bytes]:  # noqa: ARG001
        if status == 200 and path.endswith("/timestamp.json"):
            found: Metadata[Timestamp] = Metadata.from_bytes(body)
            if found.signed.version > newest:
                found.sign(key, append=False)
                return status, found.to_bytes()
        return status, body

    return bend


def older_release(repository: Path, keys: Path, line: str, newest: int) -> Bend:
    """The next metadata after version `newest`, signed with the factory's own stolen keys, offers an older release.

    Only the release is another one: the campaign that was signed stays, so that the device has work.
    """
    made: dict[str, bytes] = {}

    def bend(method: str, path: str, status: int, body: bytes) -> tuple[int, bytes]:  # noqa: ARG001
        found = _METADATA.search(path)
        if status != 200 or found is None:
            return status, body
        name = found[0].rpartition("/")[2]
        if name == "timestamp.json" and not made:
            honest: Metadata[Timestamp] = Metadata.from_bytes(body)
            if honest.signed.version > newest:
                made.update(_with_older(repository, keys, line, honest.signed))
        return status, made.get(name, body)

    return bend


def _with_older(repository: Path, keys: Path, line: str, timestamp: Timestamp) -> dict[str, bytes]:
    """Timestamp, snapshot and targets of the same versions, with the oldest release instead of the newest."""
    sign = _signing(keys)
    snapshot = _read(repository / f"{timestamp.snapshot_meta.version}.snapshot.json", Snapshot)
    number = snapshot.meta["targets.json"].version
    targets = _read(repository / f"{number}.targets.json", Targets)
    old = _oldest(repository, line)
    stay = {p: t for p, t in targets.targets.items() if not p.startswith("models/")}
    targets.targets = {**stay, **{p: t for p, t in old.targets.items() if p.startswith("models/")}}
    made = {f"{number}.targets.json": sign("targets", targets)}
    snapshot.meta["targets.json"] = MetaFile.from_data(number, made[f"{number}.targets.json"], ["sha256"])
    made[f"{snapshot.version}.snapshot.json"] = sign("snapshot", snapshot)
    timestamp.snapshot_meta = MetaFile.from_data(
        snapshot.version, made[f"{snapshot.version}.snapshot.json"], ["sha256"]
    )
    return {**made, "timestamp.json": sign("timestamp", timestamp)}


def _oldest(repository: Path, line: str) -> Targets:
    """The first list that ever offered a release of the line."""
    for path in sorted(repository.glob("*.targets.json"), key=lambda p: int(p.name.partition(".")[0])):
        found = _read(path, Targets)
        if any("release_counter" in t.custom and t.custom["line"] == line for t in found.targets.values() if t.custom):
            return found
    raise NotFoundError(f"{repository}: no list offers a release of {line}; there is nothing older to offer")


def _signing(keys: Path) -> Callable[[str, Targets | Snapshot | Timestamp], bytes]:
    def sign(role: str, signed: Targets | Snapshot | Timestamp) -> bytes:
        pem = (keys / f"{role}.pem").read_bytes()
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(CryptoSigner(load_pem_private_key(pem, password=None)))
        return metadata.to_bytes()

    return sign


def _read(path: Path, kind: type[_Signed]) -> _Signed:
    metadata: Metadata[Any] = Metadata.from_file(str(path))
    signed = metadata.signed
    assert isinstance(signed, kind)
    return signed
