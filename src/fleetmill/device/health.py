"""Try a staged model before it may run, in a child process that can do no harm. The rule beside it is `health_rule`.

The child (``python -m fleetmill.device.health``) has a time, a memory and no core dump, and is the first that the
kernel kills when memory runs out. Whatever a model does (hang, crash, eat memory), the agent reads one line of JSON or
none. Linux only: memory is measured by /proc (proc_pid_status(5), VmHWM and VmRSS).
"""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleetmill.core.canonical import dumps, loads
from fleetmill.core.errors import EngineError, FleetmillError, IntegrityError, InvalidInputError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Array, Frame
from fleetmill.core.plain import build, plain
from fleetmill.device.health_rule import Health, Measured, judge
from fleetmill.device.update_rule import GOLDEN, MODEL, Release
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.seams.runtime import LoadedModel

_SAMPLES = 200  # asks that p99 is taken over; a slow model is asked for `_SAMPLING_SECONDS`, and each frame once
_SAMPLING_SECONDS = 2.0  # fewer samples make p99 the worst of them: stricter, never laxer
_SLACK_BYTES = 64 << 20  # what a child may take beyond twice the limit before the kernel refuses it
_MOST_FRAMES = 4096
# An Identity over one float: what the runtime takes before there is a model to speak of.
_EMPTY = (
    b'\x08\x08:6\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x00Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What the child is told."""

    model: str
    golden: str
    memory_bytes: int
    seconds: float


def check_health(slot: Path, release: Release, *, timeout_seconds: float = 120.0) -> Health:
    """Run the model in `slot` over its golden frames in a child process and judge what was measured.

    Never raises for what a model does: a hang, a crash or a refusal is a `Health` that did not pass.

    Raises:
        UnavailableError: no child could be started.
    """
    task = Task(
        model=str(slot / MODEL),
        golden=str(slot / GOLDEN),
        memory_bytes=release.memory_bytes,
        seconds=timeout_seconds,
    )
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "fleetmill.device.health", dumps(plain(task)).decode()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_seconds,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return judge(None, release, failure=f"gave no answer within {timeout_seconds:g} s")
    except OSError as error:
        raise UnavailableError(f"{sys.executable}: cannot be started: {error.strerror}") from error
    return _heard(answer.returncode, answer.stdout, release)


def _heard(code: int, out: bytes, release: Release) -> Health:
    if code < 0:
        return judge(None, release, failure=f"died of {signal.Signals(-code).name}")
    try:
        said = loads(out)
        if code == 0:
            return judge(build(Measured, said), release)
        return judge(None, release, failure=str(said["failure"])[:500])
    except (InvalidInputError, KeyError, TypeError):
        return judge(None, release, failure=f"ended with code {code} and no answer")


def measure(task: Task) -> Measured:
    """What the model does here. Runs in the child.

    Raises:
        IntegrityError: the files are no model or no golden frames.
        EngineError: the model could not be run, or memory could not be measured.
    """
    model_bytes, golden_bytes = Path(task.model).read_bytes(), Path(task.golden).read_bytes()
    inputs, expected = _golden(golden_bytes)
    frames = [
        {name: value[i : i + 1] for name, value in inputs.items()} for i in range(len(next(iter(inputs.values()))))
    ]
    OnnxRuntime().load(_EMPTY).ask({"x": np.zeros(1, dtype=np.float32)})
    before = _memory("VmRSS")
    model = OnnxRuntime().load(model_bytes)
    outputs, latencies = _ask_all(model, frames)
    return Measured(
        model_sha256=sha256(model_bytes),
        golden_sha256=sha256(golden_bytes),
        not_finite=sum(int((~np.isfinite(v)).sum()) for v in outputs.values() if v.dtype.kind == "f"),
        stuck=sum(_is_constant(outputs[n]) and not _is_constant(v) for n, v in expected.items() if n in outputs),
        difference=_difference(outputs, expected),
        latency_ns=_latency(latencies),
        memory_bytes=max(0, _memory("VmHWM") - before),
    )


def main(arguments: Sequence[str]) -> int:
    """The child: one line of JSON on standard output; 0 measured, 1 could not."""
    task = build(Task, loads(arguments[0]))
    answer = os.dup(1)
    os.dup2(2, 1)  # nothing that a runtime prints may get between
    _confine(task)
    try:
        said, code = plain(measure(task)), 0
    except (FleetmillError, MemoryError, OSError) as error:
        said, code = {"failure": f"{type(error).__name__}: {error}"}, 1
    os.write(answer, dumps(said))
    return code


def bound_memory(memory_bytes: int) -> None:
    """Let this process grow by twice the signed bytes and a slack: the kernel refuses what goes beyond."""
    most = _memory("VmData") + 2 * memory_bytes + _SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _confine(task: Task) -> None:
    """Bounds that hold also when the agent dies: a last alarm, a memory limit, no core file, first to be killed."""
    signal.setitimer(signal.ITIMER_REAL, task.seconds + 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bound_memory(task.memory_bytes)
    Path("/proc/self/oom_score_adj").write_text("1000")


def _golden(data: bytes) -> tuple[Frame, Frame]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError) as error:
        raise IntegrityError(f"{GOLDEN} of {len(data)} bytes: {error}") from error
    inputs = {name.removeprefix("in."): value for name, value in arrays.items() if name.startswith("in.")}
    outputs = {name.removeprefix("out."): value for name, value in arrays.items() if name.startswith("out.")}
    sizes = {len(value) for value in arrays.values() if value.ndim}
    if not inputs or not outputs or len(sizes) != 1 or not 0 < max(sizes) <= _MOST_FRAMES:
        raise IntegrityError(f"{GOLDEN}: needs inputs and outputs of the same 1 to {_MOST_FRAMES} frames, has {sizes}")
    return inputs, outputs


def _ask_all(model: LoadedModel, frames: Sequence[Frame]) -> tuple[dict[str, Array], list[int]]:
    """The outputs of every frame, batch axis first, and the nanoseconds of each ask; the first ask is warm-up."""
    model.ask(frames[0])
    answers: list[Frame] = []
    latencies: list[int] = []
    deadline = time.perf_counter_ns() + int(_SAMPLING_SECONDS * 1e9)
    while len(latencies) < len(frames) or (len(latencies) < _SAMPLES and time.perf_counter_ns() < deadline):
        start = time.perf_counter_ns()
        answer = model.ask(frames[len(latencies) % len(frames)])
        latencies.append(time.perf_counter_ns() - start)
        if len(answers) < len(frames):
            answers.append(answer)
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}, latencies


def _latency(latencies: Sequence[int]) -> int:
    """p99 of the quietest tenth of the asks: other work on the machine can make a model slower, never faster."""
    size = max(1, len(latencies) // 10)
    blocks = [latencies[i : i + size] for i in range(0, len(latencies) - size + 1, size)]
    return min(int(np.percentile(block, 99, method="higher")) for block in blocks)


def _difference(outputs: Frame, expected: Frame) -> float | None:
    worst = 0.0
    for name, value in expected.items():
        found = outputs.get(name)
        if found is None or found.shape != value.shape or found.dtype != value.dtype or value.dtype.kind not in "fiub":
            return None
        difference = float(np.abs(found.astype(np.float64) - value.astype(np.float64)).max(initial=0.0))
        if not np.isfinite(difference):
            return None  # NaN would get lost in `max`
        worst = max(worst, difference)
    return worst


def _is_constant(value: Array) -> bool:
    return bool((value == value[:1]).all())


def _memory(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise EngineError(f"/proc/self/status: has no {field}, memory cannot be measured here")
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
