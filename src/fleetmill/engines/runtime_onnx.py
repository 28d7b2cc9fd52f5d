"""Models through ONNX Runtime on one CPU thread: deterministic, and the same on device and judge."""

from __future__ import annotations

from collections.abc import Sequence

import onnxruntime

from fleetmill.core.errors import EngineError, IntegrityError, InvalidInputError
from fleetmill.core.line import Frame
from fleetmill.seams.runtime import LoadedModel, Tensor

_BAD_FILE = (
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
)


CPU = "CPUExecutionProvider"


class OnnxRuntime:
    """`seams.runtime.Runtime` over onnxruntime. `providers`: what runs a model, first come first.

    Raises:
        InvalidInputError: this build of onnxruntime lacks one.
    """

    def __init__(self, providers: Sequence[str] = (CPU,)) -> None:
        there = onnxruntime.get_available_providers()
        for provider in providers:
            if provider not in there:
                raise InvalidInputError(f"provider {provider!r}: onnxruntime here has only {', '.join(there)}")
        self._providers = list(providers)

    def load(self, model: bytes) -> LoadedModel:
        """Load a model from its bytes.

        Raises:
            IntegrityError: these bytes are no ONNX model that this runtime can run.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(model, options, providers=self._providers)
        except _BAD_FILE as error:
            raise IntegrityError(f"model file of {len(model)} bytes does not load: {_first_line(error)}") from error
        return _OnnxModel(session)


class _OnnxModel:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs = {i.name: _tensor(i) for i in session.get_inputs()}
        self.outputs = {o.name: _tensor(o) for o in session.get_outputs()}

    def ask(self, inputs: Frame) -> Frame:
        """Outputs by port name; inputs that the model does not have are left out."""
        try:
            values = self._session.run(list(self.outputs), {k: v for k, v in inputs.items() if k in self.inputs})
        except (ValueError, *_BAD_FILE, onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException) as error:
            raise EngineError(f"the model could not be run: {_first_line(error)}") from error
        return dict(zip(self.outputs, values, strict=True))


def _tensor(node: onnxruntime.NodeArg) -> Tensor:
    element = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape[1:])
    return Tensor({"float": "float32", "double": "float64"}.get(element, element), shape)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
