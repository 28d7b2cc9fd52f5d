"""A staged model is tried in a child process; bad models are planted, each bad in one way."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Array
from fleetmill.device.health import check_health
from fleetmill.device.health_rule import Health, Measured, judge
from fleetmill.device.update_rule import Release, SignedFile
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.release.golden import golden_npz

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
FRAMES = np.linspace(-1.0, 1.0, 24, dtype=np.float32).reshape(8, 3)


def model(*nodes: Any, constants: dict[str, Array] | None = None) -> bytes:
    """An ONNX of `nodes` from ``x`` (batch, 3) to ``y`` (batch, 3)."""
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    shape = ["batch", 3]
    graph = helper.make_graph(
        list(nodes),
        "m",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, shape)],
        stored,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def doubled() -> bytes:
    return model(helper.make_node("Mul", ["x", "two"], ["y"]), constants={"two": np.float32([2.0])})


def not_a_number() -> bytes:
    """The root of -1 for each value below 0."""
    return model(helper.make_node("Sqrt", ["x"], ["y"]))


def constant() -> bytes:
    return model(helper.make_node("Mul", ["x", "none"], ["y"]), constants={"none": np.float32([0.0])})


def looping(times: int) -> bytes:
    """Twice the input, after `times` turns of doing nothing."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), helper.make_tensor_value_info("w", FLOAT, None)],
    )
    return model(
        helper.make_node("Mul", ["x", "two"], ["v0"]),
        helper.make_node("Loop", ["times", "yes", "v0"], ["y"], body=body),
        constants={"times": np.int64(times), "yes": np.bool_(True), "two": np.float32([2.0])},
    )


def hungry(floats: int) -> bytes:
    """Twice the input, after filling `floats` floats of memory."""
    return model(
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Expand", ["top", "many"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["again"], keepdims=0),
        helper.make_node("Mul", ["again", "none"], ["nothing"]),
        helper.make_node("Mul", ["x", "two"], ["v"]),
        helper.make_node("Add", ["v", "nothing"], ["y"]),
        constants={"many": np.int64([floats]), "none": np.float32(0.0), "two": np.float32([2.0])},
    )


GOLDEN = golden_npz({"x": FRAMES}, OnnxRuntime().load(doubled()).ask)


def staged(slot: Path, data: bytes, *, golden: bytes = GOLDEN, **changed: Any) -> Release:
    files = {"golden.npz": golden, "model.onnx": data}
    for name, content in files.items():
        (slot / name).write_bytes(content)
    known: dict[str, Any] = {
        "counter": 1,
        "line": "driving",
        "hardware": ("pi5",),
        "io_contract_sha256": sha256(b"io"),
        "model": sha256(data),
        "golden_sha256": sha256(golden),
        "tolerance": 1e-4,
        "latency_ns": 10**12,
        "memory_bytes": 64 << 20,
        "files": tuple(
            SignedFile(path=f"models/{sha256(c)}/{n}", name=n, length=len(c), sha256=sha256(c))
            for n, c in files.items()
        ),
    }
    return Release(**{**known, **changed})


def failed(health: Health) -> list[str]:
    return [check.name for check in health.checks if not check.passed]


def test_a_good_model_is_healthy_and_every_check_was_measured(tmp_path: Path) -> None:
    health = check_health(tmp_path, staged(tmp_path, doubled()))

    assert health.passed
    assert health.line == "healthy"
    assert {check.name: check.limit for check in health.checks} == {
        "wrong_model": 0,
        "wrong_golden": 0,
        "not_finite": 0,
        "stuck": 0,
        "difference": 1e-4,
        "latency_ns": 10**12,
        "memory_bytes": 64 << 20,
    }
    measured = {check.name: check.measured for check in health.checks}
    assert measured["difference"] == 0.0
    assert measured["latency_ns"]


def test_a_model_that_gives_nan_is_caught(tmp_path: Path) -> None:
    health = check_health(tmp_path, staged(tmp_path, not_a_number()))

    assert failed(health) == ["not_finite", "difference"]
    assert health.line.startswith("not_finite 12 above 0; difference None above")


def test_a_constant_model_is_caught_also_where_the_tolerance_is_wide(tmp_path: Path) -> None:
    health = check_health(tmp_path, staged(tmp_path, constant(), tolerance=100.0))

    assert failed(health) == ["stuck"]


def test_a_model_that_should_be_constant_may_be(tmp_path: Path) -> None:
    golden = golden_npz({"x": FRAMES}, OnnxRuntime().load(constant()).ask)

    assert check_health(tmp_path, staged(tmp_path, constant(), golden=golden)).passed


def test_a_slow_model_is_caught(tmp_path: Path) -> None:
    health = check_health(tmp_path, staged(tmp_path, looping(10_000), latency_ns=1000))

    assert failed(health) == ["latency_ns"]


def test_a_model_that_never_answers_is_killed(tmp_path: Path) -> None:
    health = check_health(tmp_path, staged(tmp_path, looping(2**62)), timeout_seconds=2.0)

    assert not health.passed
    assert health.line == "gave no answer within 2 s"
    assert all(check.measured is None for check in health.checks)


def test_a_model_that_takes_more_memory_than_signed_is_caught(tmp_path: Path) -> None:
    health = check_health(tmp_path, staged(tmp_path, hungry(12 << 20), memory_bytes=16 << 20))

    assert failed(health) == ["memory_bytes"]


def test_a_model_that_wants_all_memory_is_refused_it(tmp_path: Path) -> None:
    health = check_health(tmp_path, staged(tmp_path, hungry(64 << 20), memory_bytes=16 << 20))

    assert not health.passed
    assert health.line.startswith("EngineError: the model could not be run")


def test_a_model_of_another_answer_is_caught(tmp_path: Path) -> None:
    other = model(helper.make_node("Mul", ["x", "two"], ["y"]), constants={"two": np.float32([2.01])})

    assert failed(check_health(tmp_path, staged(tmp_path, other))) == ["difference"]


def test_bytes_that_were_changed_on_the_disk_do_not_pass(tmp_path: Path) -> None:
    release = staged(tmp_path, doubled())
    (tmp_path / "model.onnx").write_bytes(
        model(helper.make_node("Mul", ["x", "zwo"], ["y"]), constants={"zwo": np.float32([2.0])})
    )

    assert failed(check_health(tmp_path, release)) == ["wrong_model"]


@pytest.mark.parametrize(
    ("name", "fact"),
    [("model.onnx", "IntegrityError: model file of 4 bytes"), ("golden.npz", "IntegrityError: golden.npz")],
)
def test_bytes_that_are_no_model_or_no_frames_are_told(tmp_path: Path, name: str, fact: str) -> None:
    release = staged(tmp_path, doubled())
    (tmp_path / name).write_bytes(b"junk")

    assert check_health(tmp_path, release).line.startswith(fact)


def test_a_model_that_crashes_its_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "crashing"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(crashing))

    assert check_health(tmp_path, staged(tmp_path, doubled())).line == "died of SIGSEGV"


def test_a_child_that_says_nonsense_or_cannot_be_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    assert check_health(tmp_path, staged(tmp_path, doubled())).line == "ended with code 0 and no answer"

    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(UnavailableError, match="cannot be started"):
        check_health(tmp_path, staged(tmp_path, doubled()))


def test_the_child_is_small() -> None:
    code = "import fleetmill.device.health, sys; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    )

    assert loaded.isdisjoint({"torch", "onnx", "tuf", "httpx", "sqlalchemy", "cryptography", "pyarrow", "ray", "mcap"})


# The rule


GOOD = Measured(
    model_sha256=sha256(doubled()),
    golden_sha256=sha256(GOLDEN),
    not_finite=0,
    stuck=0,
    difference=1e-4,
    latency_ns=10**12,
    memory_bytes=64 << 20,
)


def test_at_the_limit_is_healthy_and_above_is_not(tmp_path: Path) -> None:
    release = staged(tmp_path, doubled())
    above = {
        "not_finite": 1,
        "stuck": 1,
        "difference": 1.1e-4,
        "latency_ns": 10**12 + 1,
        "memory_bytes": (64 << 20) + 1,
    }

    assert judge(GOOD, release).passed
    for name, value in above.items():
        assert failed(judge(replace(GOOD, **{name: value}), release)) == [name]
    assert failed(judge(replace(GOOD, difference=None), release)) == ["difference"]
    assert failed(judge(replace(GOOD, golden_sha256="0"), release)) == ["wrong_golden"]


# Golden frames


def test_golden_frames_are_the_same_bytes_each_time_and_numpy_reads_them() -> None:
    again = golden_npz({"x": np.asfortranarray(FRAMES)}, OnnxRuntime().load(doubled()).ask)

    assert again == GOLDEN
    alike = golden_npz({"x": FRAMES}, lambda inputs: {"y": inputs["x"] * 2})
    assert sha256(alike) == "47f617758f7dba794be27dfc6a1601a7d0f59125cb4181712e71fe3af2cfd0f7"
    with np.load(BytesIO(GOLDEN), allow_pickle=False) as stored:
        assert sorted(stored.files) == ["in.x", "out.y"]
        assert np.array_equal(stored["out.y"], FRAMES * 2)
    assert zipfile.ZipFile(BytesIO(GOLDEN)).testzip() is None


@pytest.mark.parametrize(
    ("inputs", "answer", "fact"),
    [
        ({}, {}, "at least 1"),
        ({"x": FRAMES, "z": FRAMES[:1]}, {}, "same number"),
        ({"x": FRAMES[:0]}, {}, "at least 1"),
        ({"x": FRAMES}, {"y": np.float32([[np.nan]])}, "'y': holds values"),
        ({"x": FRAMES}, {"y": np.array([["text"]])}, "'y': holds values"),
    ],
)
def test_what_cannot_be_golden_is_refused(inputs: dict[str, Array], answer: dict[str, Array], fact: str) -> None:
    with pytest.raises(InvalidInputError, match=fact):
        golden_npz(inputs, lambda _: answer)
