"""A line that trains in milliseconds: a machine that sees three numbers and must answer with their weighted sum.

In scenario "field" the weights differ, so that only what the fleet lives can teach them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import (
    Array,
    Check,
    Data,
    Episode,
    Feature,
    Files,
    Foreign,
    Frame,
    Importer,
    Judging,
    Line,
    Message,
    Metrics,
    ModelSpec,
    Policy,
    Port,
    Recipe,
    Round,
    Step,
    Stretch,
    Tally,
    Tracker,
    TrainJob,
    Trigger,
)

PERIOD_NS = 100_000_000
_WEIGHTS = {"default": np.array([-0.5, 0.0, 1.5], np.float32), "field": np.array([-1.0, 1.0, 2.0], np.float32)}
_ENDING = ".tiny.json"
_BEYOND = 1.0  # the safety driver takes over when the last answer was wrong by more


class TinyWorld:
    """Three random numbers at each instant; a wrong answer calls the safety driver for the next one."""

    def __init__(self, scenario: str, seed: int) -> None:
        self._weights, self._rng = _WEIGHTS[scenario], np.random.default_rng(seed)
        self._index, self._held = 0, False

    def begin(self) -> Step:
        """The first instant."""
        return self._step(0.0, 0.0)

    def act(self, action: Frame) -> Step:
        """The next instant."""
        wrong = abs(float(action["y"]) - float(self._x @ self._weights))
        took, self._held = float(wrong > _BEYOND and not self._held), wrong > _BEYOND
        self._index += 1
        return self._step(wrong, took)

    def close(self) -> None:
        """Nothing to let go of."""

    def _step(self, wrong: float, took: float) -> Step:
        self._x = self._rng.normal(size=3).astype(np.float32)
        right = np.float32(self._x @ self._weights)
        return Step(
            time_ns=self._index * PERIOD_NS,
            observation={"x": self._x},
            label={"label.y": np.asarray(right)},
            takeover={"y": np.asarray(right)} if self._held else None,
            events={"wrong": wrong, "takeovers": took, "steps": 1.0},
            done=False,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A policy that always answers the same: the tiny line's baseline."""

    value: float

    def reset(self) -> None:
        """It has no memory."""

    def step(self, observation: Frame) -> Frame:  # noqa: ARG002
        """The constant."""
        return {"y": np.asarray(np.float32(self.value))}

    def ask(self, inputs: Frame) -> Frame:
        """The constant for each of the batch."""
        return {"y": np.full(len(inputs["x"]), self.value, np.float32)}


def tiny_model(weights: Array) -> bytes:
    """ONNX bytes of y = x @ weights."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.asarray(weights, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


def _cut(stretch: Stretch) -> Iterator[Episode]:
    rows: dict[int, dict[str, Array]] = {}
    for message in stretch.messages:
        rows.setdefault(message.log_time_ns, {})[message.topic] = np.asarray(message.value["data"])
    whole = {t: row for t, row in rows.items() if "x" in row and "label.y" in row}
    if not whole:
        return
    times = np.array(sorted(whole), np.int64)
    yield Episode(
        device=stretch.device,
        session=stretch.session,
        start_ns=int(times[0]),
        end_ns=int(times[-1]) + PERIOD_NS,
        times_ns=times,
        columns={name: np.stack([whole[int(t)][name] for t in times]) for name in ("x", "label.y")},
        tags=stretch.tags,
    )


def _train(job: TrainJob, tracker: Tracker) -> Mapping[str, bytes]:
    """Ridge regression; going on from a parent with 0 steps is the parent."""
    if job.parent is not None and job.settings.get("steps") == 0:
        return dict(job.parent)
    x, y = job.data.column("x").astype(np.float64), job.data.column("label.y").astype(np.float64)
    weights = np.linalg.solve(x.T @ x + 1e-3 * np.eye(3), x.T @ y).astype(np.float32)
    tracker.step(1, 1, {"loss": float(np.mean((x @ weights - y) ** 2)), "rows.oracle": float(len(x))})
    return {"model.onnx": tiny_model(weights), "weights.bin": weights.tobytes()}


def _live(steps: Sequence[Step], sent: Sequence[Frame]) -> Tally:  # noqa: ARG001
    return {name: np.asarray(sum(s.events[name] for s in steps)) for name in ("wrong", "takeovers", "steps")}


def _score(policy: Policy, episode: Episode) -> Tally:
    answers = policy.ask({"x": episode.columns["x"]})["y"]
    return {
        "wrong": np.abs(answers - episode.columns["label.y"]).sum(),
        "takeovers": np.asarray(0.0),
        "steps": np.asarray(float(len(answers))),
    }


def _metrics(tallies: Sequence[Tally]) -> Metrics:
    total = {name: float(sum(t[name] for t in tallies)) for name in ("wrong", "takeovers", "steps")}
    steps = max(total["steps"], 1.0)
    return {"error": total["wrong"] / steps, "takeovers_per_step": total["takeovers"] / steps}


def _baseline(data: Data) -> Policy:  # noqa: ARG001
    return Constant(value=0.0)


def _is_tiny(files: Files) -> bool:
    return any(name.endswith(_ENDING) for name in files.names())


def _time(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no time")
    return value


def _read_tiny(files: Files) -> Iterator[Foreign]:
    for name in sorted(n for n in files.names() if n.endswith(_ENDING)):
        try:
            rows = [
                (_time(t), np.array(x, np.float32).reshape(3), float(y)) for t, x, y in json.loads(files.read(name))
            ]
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInputError(f"{name}: must hold rows of [time_ns, [x, x, x], y] ({error})") from error
        messages = [
            Message(topic=topic, log_time_ns=t, publish_time_ns=t, value={"data": np.asarray(value, np.float32)})
            for t, x, y in rows
            for topic, value in (("x", x), ("label.y", y))
        ]
        session = name.removesuffix(_ENDING)
        yield Foreign(device="", session=session, time_base="utc", tags={}, messages=iter(messages))


def tiny_file(seed: int, *, rows: int = 30, scenario: str = "field") -> bytes:
    """What the tiny importer reads: rows of [time_ns, x, label]."""
    rng = np.random.default_rng(seed)
    start = 1_700_000_000_000_000_000 + seed * 10**12
    x = rng.normal(size=(rows, 3))
    y = x @ _WEIGHTS[scenario]
    return json.dumps([[start + i * PERIOD_NS, list(x[i]), y[i]] for i in range(rows)]).encode()


def _feature(name: str, kind: str, shape: tuple[int, ...] = ()) -> Feature:
    return Feature(name=name, kind=kind, dtype="float32", shape=shape, unit="1", hold_ns=PERIOD_NS)  # type: ignore[arg-type]


tiny_line = Line(
    name="tiny",
    features=(
        _feature("x", "observation", (3,)),
        _feature("y", "action"),
        _feature("model.y", "extra"),
        _feature("label.y", "label"),
        _feature("takeover", "extra"),
    ),
    model=ModelSpec(
        inputs=(Port(name="x", dtype="float32", shape=(3,), feature="x"),),
        outputs=(Port(name="y", dtype="float32", shape=(), feature="y"),),
        rate_hz=10.0,
        latency_ns=50_000_000,
    ),
    cut=_cut,
    train=_train,
    judging=Judging(score=_score, metrics=_metrics, live=_live, baseline=_baseline, trial_seconds=2.0),
    checks=(
        Check(metric="error", better="lower", against="champion", limit=1.0),
        Check(metric="error", better="lower", against="baseline", limit=1.0),
    ),
    triggers=(Trigger(when="takeover or abs(model.y - label.y) > 1.5", before_ns=200_000_000, after_ns=PERIOD_NS),),
    world=TinyWorld,
    importers=(Importer(name="tiny-json", detects=_is_tiny, read=_read_tiny),),
    recipe=Recipe(
        devices=3,
        first=Round(scenario="default", sessions=1, seconds=3.0, budget_ratio=1.0),
        then=Round(scenario="field", sessions=1, seconds=6.0, budget_ratio=0.35),
        headline="error",
    ),
)
