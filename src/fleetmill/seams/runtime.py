"""Run a model file: the seam, and the `Policy` that folds state, history and guard around a bare model.

A runtime gives `ask`: ports in, ports out, batch axis first. Everything else that a machine needs (state fed back,
the last n frames, the line's guard) is done here once, so that replay, gate, device and field share it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fleetmill.core.errors import InvalidInputError, LineError
from fleetmill.core.line import Array, Frame, Line, Memory, Port


class Tensor(NamedTuple):
    """What a model file says of a port: numpy's name of the element, and the shape without batch axis (-1: free)."""

    dtype: str
    shape: tuple[int, ...]


class LoadedModel(Protocol):
    """A model in memory. Not thread-safe; may be asked any number of times."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """What it takes, by port name."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """What it gives, by port name."""

    def ask(self, inputs: Frame) -> Frame:
        """Outputs by port name for inputs by port name, batch axis first.

        Raises:
            EngineError: the engine failed on these inputs; the cause is chained.
        """


class Runtime(Protocol):
    """Turns the bytes of a model file into something that can be asked."""

    def load(self, model: bytes) -> LoadedModel:
        """Load from memory, so that the bytes that were verified are the bytes that run.

        Raises:
            IntegrityError: these bytes are no model.
        """


class RunningPolicy:
    """A loaded model with its state, its history and the line's guard: what a machine would really do.

    Implements `core.line.Policy`.
    """

    def __init__(self, line: Line, model: LoadedModel) -> None:
        self._line, self._model = line, model
        self._memory: Memory = {}
        self._state: dict[str, Array] = {}
        self._past: dict[str, deque[Array]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget state, history and the guard's memory."""
        spec = self._line.model
        fed = {port.feeds for port in spec.outputs if port.feeds is not None}
        self._memory = {}
        self._state = {p.name: np.zeros(_fixed(p), dtype=p.dtype) for p in spec.inputs if p.name in fed}
        self._past = {p.name: deque(maxlen=p.history) for p in spec.inputs if p.history > 1}

    def step(self, observation: Frame) -> Frame:
        """One instant, through state, history and guard: features by name, without batch axis."""
        spec = self._line.model
        answer = self.ask({p.name: self._input(p, observation)[np.newaxis] for p in spec.inputs})
        for port in spec.outputs:
            if port.feeds is not None:
                self._state[port.feeds] = answer[port.name][0]
        action = {p.feature: answer[p.name][0] for p in spec.outputs if p.feature is not None}
        sent, self._memory = self._line.guard(action, observation, self._memory)
        return sent

    def ask(self, inputs: Frame) -> Frame:
        """The bare model, ports in and out, batch axis first."""
        return self._model.ask(inputs)

    def _input(self, port: Port, observation: Frame) -> Array:
        if port.name in self._state:
            return self._state[port.name]
        if port.feature is None or port.feature not in observation:
            raise LineError(
                f"line {self._line.name}: input port {port.name!r} wants feature {port.feature!r}, "
                f"the observation has {sorted(observation)}"
            )
        value = np.asarray(observation[port.feature], dtype=port.dtype)
        if port.history == 1:
            return value
        past = self._past[port.name]
        past.append(value)
        missing = [np.full_like(value, _missing(value))] * (port.history - len(past))
        return np.stack([*missing, *past])


def policies(line: Line, runtime: Runtime, files: Mapping[str, bytes], *, what: str = "model") -> RunningPolicy:
    """The policy that a model version's files make on `line`; the file that runs is ``model.onnx``.

    Raises:
        IntegrityError: the bytes are no model.
        InvalidInputError: a model of another shape; `what` names it there.
    """
    model = runtime.load(files["model.onnx"])
    _check_ports(line, line.model.inputs, model.inputs, f"{what}: input")
    _check_ports(line, line.model.outputs, model.outputs, f"{what}: output")
    absent = sorted({p.name for p in line.model.outputs} - set(model.outputs))
    strange = sorted(set(model.inputs) - {p.name for p in line.model.inputs})  # one that it lacks it does not need
    if absent or strange:
        raise InvalidInputError(
            f"{what}: outputs that line {line.name} needs and it lacks: {', '.join(absent) or 'none'}; inputs that it "
            f"needs and the line lacks: {', '.join(strange) or 'none'}. Train it on this line"
        )
    return RunningPolicy(line, model)


def _check_ports(line: Line, ports: Sequence[Port], tensors: Mapping[str, Tensor], what: str) -> None:
    for port in ports:
        shape = port.shape if port.history == 1 else (port.history, *port.shape)
        found = tensors.get(port.name, Tensor(port.dtype, shape))
        fits = len(found.shape) == len(shape) and all(-1 in (a, b) or a == b for a, b in zip(found.shape, shape))
        if found.dtype != port.dtype or not fits:
            raise InvalidInputError(
                f"{what} {port.name!r} is {found.dtype} {found.shape}, line {line.name} says {port.dtype} {shape}. "
                "Train it on this line"
            )


def _fixed(port: Port) -> tuple[int, ...]:
    if any(n < 0 for n in port.shape):
        raise LineError(f"state port {port.name!r} must have a fixed shape, not {port.shape}")
    return port.shape


def _missing(value: Array) -> float:
    return float("nan") if np.issubdtype(value.dtype, np.floating) else 0.0
