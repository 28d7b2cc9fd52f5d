"""Bytes edited on the disk and on the wire between a real factory and a real device.

The device refuses, keeps running the old model, and says why, signed, as soon as it is heard.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.signer import CryptoSigner
from town import LINE, until
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from fleetmill.core.ids import sha256
from fleetmill.core.release import io_contract
from fleetmill.demo.wire import honest, open_wire
from fleetmill.device.enrolment import Token
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import init_home, open_home
from fleetmill.receive import roll
from fleetmill.release.golden import golden_npz
from fleetmill.release.trust_rule import Target, release_custom
from fleetmill.settings import Settings

pytestmark = pytest.mark.slow

FRAMES = {"state": np.linspace(-1.0, 1.0, 8 * 28, dtype=np.float32).reshape(8, 28)}
DAYS = timedelta(days=1)


# Models of the arm


def model(*nodes, **constants):
    """An ONNX of `nodes` from the matrix product ``v`` of state and weights to ``move``."""
    weights = np.linspace(-0.1, 0.2, 28 * 4, dtype=np.float32).reshape(28, 4)
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in {"w": weights, **constants}.items()]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["state", "w"], ["v"]), *nodes],
        "arm",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 28])],
        [helper.make_tensor_value_info("move", TensorProto.FLOAT, ["batch", 4])],
        stored,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


def good(factor):
    return model(helper.make_node("Mul", ["v", "f"], ["move"]), f=np.float32([factor]))


def not_a_number():
    return model(helper.make_node("Sqrt", ["v"], ["move"]))


def constant():
    return model(helper.make_node("Mul", ["v", "none"], ["move"]), none=np.float32([0.0]))


def sleeping():
    """A good answer, after a long while of doing nothing."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
        ],
    )
    return model(
        helper.make_node("Mul", ["v", "f"], ["v0"]),
        helper.make_node("Loop", ["times", "yes", "v0"], ["move"], body=body),
        f=np.float32([1.0]),
        times=np.int64(100_000),
        yes=np.bool_(True),
    )


GOLDEN = golden_npz(FRAMES, OnnxRuntime().load(good(1.0)).ask)


# A factory, a wire and a device


class Pair:
    """One factory that does not turn, one device, and the wire between them."""

    def __init__(self, home, wire, log):
        self.home, self.wire, self._log = home, wire, log
        self.repository = home.settings.home / "repository"

    def release(self, counter, data, *, golden=GOLDEN):
        """Put a release into the signed list, by the real machinery; the digest of its model file."""
        file, frames = self.home.blobs.put(data), self.home.blobs.put(golden)
        custom = release_custom(
            LINE,
            release_counter=counter,
            hardware=["cpu"],
            io_contract_sha256=io_contract(LINE),
            model=sha256(file.encode()),
            golden_sha256=frames,
            memory_bytes=1 << 29,
        )
        self.home.repository.publish(
            [
                Target(path=f"models/{file}/model.onnx", length=len(data), sha256=file, custom=custom),
                Target(path=f"models/{frames}/golden.npz", length=len(golden), sha256=frames),
            ],
            now_ns=time.time_ns(),
            retire=[path for path in self.home.repository.targets() if file not in path and frames not in path],
        )
        return file

    def reports(self, state):
        found = [f.record["report"] for f in self.home.ledger.read(kind="deployment")]
        return [r for r in found if r["state"] == state]

    def told(self, state, words):
        """The first report of `state` whose reason holds `words`."""

        def found():
            return next((r for r in self.reports(state) if words in r["reason"]), None)

        try:
            return until(found, f"a report {state}: {words}", 90.0, pause=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; the device said: {self._log.read_text()}") from None

    def confirmed(self, counter):
        return until(
            lambda: next((r for r in self.reports("confirmed") if r["release_counter"] == counter), None),
            f"confirmation of release {counter}",
            90.0,
            pause=0.1,
        )

    def sign(self, role, signed, *, key=None):
        """Write metadata as who holds the key can, going round the repository's own rules."""
        pem = (self.home.settings.home / "keys" / f"{role}.pem").read_bytes()
        metadata = Metadata(signed)
        metadata.sign(key or CryptoSigner(load_pem_private_key(pem, password=None)))
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        fresh = self.repository / f".{name}.new"
        fresh.write_bytes(metadata.to_bytes())
        fresh.rename(self.repository / name)
        return metadata.to_bytes()

    def timestamp(self):
        return Metadata[Timestamp].from_file(str(self.repository / "timestamp.json")).signed


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEETMILL_POLL_SECONDS", "0.5")
    settings = Settings(home=tmp_path / "home")
    init_home(settings, now_ns=time.time_ns())
    with ExitStack() as stack:
        home = stack.enter_context(open_home(settings, own=False))
        root = sha256(home.repository.root())
        token = Token(name="d0", secret=roll.invite(home.ledger, "d0", line=LINE.name), root_sha256=root).text()
        factory = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "fleetmill.cli", "up", "--home", settings.home, "--port", "0", "--no-loop"],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(factory.terminate)
        wire = stack.enter_context(open_wire(factory.stdout.readline().split()[1]))
        log = tmp_path / "device.log"
        with log.open("wb") as out:
            words = ["device", "run", "--factory", wire.address, "--line", LINE.name, "--device-home", tmp_path / "d0"]
            device = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "fleetmill.cli", *words, "--token", token], stdout=out, stderr=out
                )
            )
        stack.callback(device.terminate)
        found = Pair(home, wire, log)
        found.first = found.release(1, good(1.0))
        found.confirmed(1)
        yield found
        assert device.poll() is None, log.read_text()
        assert "Traceback" not in log.read_text()


def test_a_model_that_was_changed_on_the_factorys_disk_is_refused_until_it_is_whole(pair):
    data = good(2.0)
    path = pair.home.blobs.path(pair.home.blobs.put(data))
    os.chmod(path, 0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    pair.release(2, data, golden=golden_npz(FRAMES, OnnxRuntime().load(data).ask))

    report = pair.told("refused", "SHA-256")
    assert (report["release_counter"], report["running"]) == (2, pair.first)
    assert f"signed is {sha256(data)[:12]}" in report["reason"]

    path.write_bytes(data)
    assert pair.confirmed(2)["running"] == sha256(data)


def test_a_model_that_is_changed_on_the_wire_is_refused_and_told_when_the_wire_is_whole_again(pair):
    def flip(method, path, status, body):
        if "/targets/models/" in path and path.endswith("model.onnx"):
            return status, body[:100] + bytes([body[100] ^ 0x40]) + body[101:]
        return status, body

    pair.wire.bend, pair.wire.blocked = flip, ("POST",)  # and nobody shall hear of it
    data = good(2.0)
    pair.release(2, data, golden=golden_npz(FRAMES, OnnxRuntime().load(data).ask))
    until(lambda: "refused: " in pair._log.read_text(), "the refusal", 60.0)
    assert pair.reports("refused") == []

    pair.wire.blocked = ()
    report = pair.told("refused", "SHA-256")
    assert (report["release_counter"], report["running"]) == (2, pair.first)

    pair.wire.bend = honest
    assert pair.confirmed(2)["running"] == sha256(data)


def test_metadata_signed_by_a_wrong_key_is_refused(pair):
    timestamp = pair.timestamp()
    whole = (pair.repository / "timestamp.json").read_bytes()
    timestamp.version += 1

    pair.sign("timestamp", timestamp, key=CryptoSigner.generate_ed25519())

    report = pair.told("refused", "not signed by enough of the right keys")
    assert report["running"] == pair.first

    (pair.repository / "timestamp.json").write_bytes(whole)
    data = good(2.0)
    pair.release(2, data, golden=golden_npz(FRAMES, OnnxRuntime().load(data).ask))
    assert pair.confirmed(2)["running"] == sha256(data)


def test_an_expired_timestamp_is_refused(pair):
    timestamp = pair.timestamp()
    timestamp.version, timestamp.expires = (
        timestamp.version + 1,
        datetime.now(timezone.utc).replace(microsecond=0) - DAYS,
    )

    pair.sign("timestamp", timestamp)

    report = pair.told("refused", "expired: timestamp.json is expired")
    assert report["running"] == pair.first


def test_an_older_release_under_newer_metadata_is_refused(pair):
    data = good(2.0)
    pair.release(2, data, golden=golden_npz(FRAMES, OnnxRuntime().load(data).ask))
    pair.confirmed(2)
    expires = datetime.now(timezone.utc).replace(microsecond=0) + DAYS
    old = Metadata[Targets].from_file(str(pair.repository / "2.targets.json")).signed  # release 1, rightly signed
    old.version, old.expires = 9, expires

    named = MetaFile.from_data(9, pair.sign("targets", old), ["sha256"])
    snapshot = pair.sign("snapshot", Snapshot(version=9, expires=expires, meta={"targets.json": named}))
    meta = MetaFile.from_data(9, snapshot, ["sha256"])
    pair.sign("timestamp", Timestamp(version=9, expires=expires, snapshot_meta=meta))

    report = pair.told("refused", "older release under newer metadata")
    assert "release 1 of line arm is not above 2" in report["reason"]
    assert report["running"] == sha256(data)


def test_planted_bad_models_fail_the_health_check_by_name_and_the_old_one_runs_on(pair):
    planted = {"not_finite": not_a_number(), "stuck": constant(), "latency_ns": sleeping()}

    for counter, (check, data) in enumerate(planted.items(), start=2):
        file = pair.release(counter, data)
        report = pair.told("failed", check)
        assert report["reason"].startswith("health check: ")
        assert (report["release_counter"], report["model_file"], report["running"]) == (counter, file, pair.first)

    data = good(2.0)
    pair.release(5, data, golden=golden_npz(FRAMES, OnnxRuntime().load(data).ask))
    assert pair.confirmed(5)["running"] == sha256(data)
