"""The Open Inference Protocol, version 2, over HTTP: JSON, and the binary tensor extension that clients use by default.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md; the binary extension as Triton
documents it (protocol/extension_binary_data.md). Models run in this process; a batch axis comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson

from fleetmill.core.errors import EngineError
from fleetmill.core.line import Array, Frame
from fleetmill.seams.runtime import LoadedModel
from fleetmill.serve.http import Reply, Request

NAME, VERSION = "fleetmill", "2"
EXTENSIONS = ("binary_tensor_data",)
_LENGTH = b"inference-header-content-length"
_TYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model that answers: `version` is its release's number, or its digest's beginning."""

    name: str
    version: str
    model: LoadedModel
    digest: str = ""


class Models(Protocol):
    """What is served now. A swap is a change of what `get` gives; whoever has a model keeps it to the end."""

    def names(self) -> Sequence[str]: ...
    def get(self, name: str, version: str = "") -> Loaded | None: ...  # "": the one that answers by default
    def versions(self, name: str) -> Sequence[str]: ...
    def saw(self, loaded: Loaded, inputs: Frame, outputs: Frame) -> None: ...  # for a candidate in the shadow


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    head: int | None = None  # length of the JSON, where tensors follow it
    spoke: tuple[Loaded, Frame, Frame] | None = None  # who answered what, with what


class Wrong(Exception):  # noqa: N818 - an answer to a client
    """The client's request cannot be answered so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Inference:
    """`/v2`: metadata, readiness and inference."""

    models: Models
    executor: Executor | None = None  # where models run, beside the loop that moves bytes
    answered: dict[tuple[str, str], int] = field(default_factory=dict)  # by line and version
    inferring: int = 0

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer a request below `/v2`."""
        try:
            found = await self._answer(request)
        except Wrong as error:
            reply.whole(error.status, orjson.dumps({"error": str(error)}))
            return
        more = b"inference-header-content-length: %d\r\n" % found.head if found.head is not None else b""
        kind = b"application/octet-stream" if found.head is not None else b"application/json"
        reply.whole(200, found.body, kind=kind, more=more)
        if found.spoke is not None:
            self.models.saw(*found.spoke)

    async def _answer(self, request: Request) -> _Answer:
        parts = request.path.partition("?")[0].strip("/").split("/")[1:]
        if request.method == "POST" and parts[:1] == ["models"] and parts[-1:] == ["infer"]:
            return await self._infer(parts, request)
        if request.method != "GET":
            raise Wrong(405, "this path takes GET, and inference POST to /v2/models/NAME/infer")
        if not parts:
            return _json({"name": NAME, "version": VERSION, "extensions": list(EXTENSIONS)})
        if parts == ["health", "live"]:
            return _json({"live": True})
        if parts == ["health", "ready"]:
            return _json({"ready": True})
        if parts == ["models"]:
            return _json({"models": list(self.models.names())})
        if parts[0] == "models" and len(parts) in (2, 3, 4, 5):
            loaded = self._model(parts)
            if parts[-1] == "ready":
                return _json({"name": loaded.name, "ready": True})
            return _json(self._metadata(loaded))
        raise Wrong(404, f"nothing is served at {request.path[:80]}")

    def _model(self, parts: Sequence[str]) -> Loaded:
        version = parts[3] if len(parts) > 3 and parts[2] == "versions" else ""
        if len(parts) > 2 and parts[2] not in ("versions", "ready", "infer"):
            raise Wrong(404, "after a model's name comes versions, ready or infer")
        loaded = self.models.get(parts[1], version)
        if loaded is None:
            which = f" in version {version}" if version else ""
            raise Wrong(404, f"no model {parts[1][:80]!r}{which[:80]} is served. See /v2/models")
        return loaded

    def _metadata(self, loaded: Loaded) -> dict[str, Any]:
        return {
            "name": loaded.name,
            "versions": list(self.models.versions(loaded.name)),
            "platform": "onnx_onnxv1",
            "inputs": _tensors(loaded.model.inputs),
            "outputs": _tensors(loaded.model.outputs),
        }

    async def _infer(self, parts: Sequence[str], request: Request) -> _Answer:
        loaded = self._model(parts)
        asked, binary = _read(request)
        inputs = _inputs(loaded, asked, binary)
        wanted = _wanted(loaded, asked)
        self.inferring += 1
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self.executor, loaded.model.ask, inputs)
        except EngineError as error:
            raise Wrong(400, f"model {loaded.name} cannot answer these inputs: {error}") from None
        finally:
            self.inferring -= 1
        spoke = (loaded.name, loaded.version)
        self.answered[spoke] = self.answered.get(spoke, 0) + 1
        head: dict[str, Any] = {"model_name": loaded.name, "model_version": loaded.version}
        if isinstance(asked.get("id"), str):
            head["id"] = asked["id"]
        body, length = _written(head, {name: outputs[name] for name in wanted}, wanted)
        return _Answer(body, length, (loaded, inputs, outputs))


def _read(request: Request) -> tuple[dict[str, Any], bytes]:
    """(the JSON, the bytes behind it)."""
    length = request.headers.get(_LENGTH)
    if length is not None and (not length.isdigit() or int(length) > len(request.body)):
        raise Wrong(400, "inference-header-content-length must be the length of the JSON before the tensors")
    cut = int(length) if length is not None else len(request.body)
    try:
        asked = orjson.loads(request.body[:cut])
    except orjson.JSONDecodeError:
        raise Wrong(400, "the body is no JSON") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("inputs"), list):
        raise Wrong(400, 'the body must be a JSON object with "inputs"')
    return asked, request.body[cut:]


def _inputs(loaded: Loaded, asked: Mapping[str, Any], binary: bytes) -> Frame:
    found: dict[str, Array] = {}
    for tensor in asked["inputs"]:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise Wrong(400, "each input needs a name, a shape, a datatype and data")
        value, binary = _input(loaded, tensor, binary)
        found[tensor["name"]] = value
    missing = sorted(set(loaded.model.inputs) - set(found))
    if missing:
        raise Wrong(400, f"model {loaded.name} also wants {', '.join(missing)}")
    if len({len(v) for v in found.values()}) > 1:
        raise Wrong(400, "all inputs must have the same first axis, the batch")
    return found


def _input(loaded: Loaded, tensor: Mapping[str, Any], binary: bytes) -> tuple[Array, bytes]:
    name, shape = tensor["name"], tensor.get("shape")
    known = loaded.model.inputs.get(name)
    if known is None:
        raise Wrong(400, f"model {loaded.name} has no input {name[:80]!r}; it wants {', '.join(loaded.model.inputs)}")
    if tensor.get("datatype") != _NAMES.get(known.dtype):
        raise Wrong(400, f"input {name}: datatype must be {_NAMES.get(known.dtype)}, is {tensor.get('datatype')!r}")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise Wrong(400, f"input {name}: shape must be a list of whole numbers, the batch first")
    if len(shape) != 1 + len(known.shape) or not all(b in (-1, a) for a, b in zip(shape[1:], known.shape)):
        raise Wrong(400, f"input {name}: shape {shape} does not fit; after the batch the model wants {known.shape}")
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    try:
        if size is not None:
            if not isinstance(size, int) or size > len(binary):
                raise Wrong(400, f"input {name}: binary_data_size is more than there is")
            return np.frombuffer(binary[:size], known.dtype).reshape(shape), binary[size:]
        return np.asarray(tensor.get("data"), known.dtype).reshape(shape), binary
    except (ValueError, TypeError, OverflowError):
        raise Wrong(400, f"input {name}: its data does not make {known.dtype} of shape {shape}") from None


def _wanted(loaded: Loaded, asked: Mapping[str, Any]) -> dict[str, bool]:
    """Output name -> whether it is wanted in binary."""
    everywhere = bool((asked.get("parameters") or {}).get("binary_data_output"))
    outputs = asked.get("outputs")
    if not outputs:
        return dict.fromkeys(loaded.model.outputs, everywhere)
    found = {}
    for output in outputs if isinstance(outputs, list) else [{}]:
        asked_for = output if isinstance(output, dict) else {}
        name = asked_for.get("name")
        if name not in loaded.model.outputs:
            raise Wrong(400, f"model {loaded.name} has no such output; it gives {', '.join(loaded.model.outputs)}")
        found[str(name)] = bool((asked_for.get("parameters") or {}).get("binary_data", everywhere))
    return found


def _written(
    head: dict[str, Any], outputs: Mapping[str, Array], wanted: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    told: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, value in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": _NAMES[str(value.dtype)], "shape": list(value.shape)}
        if wanted[name]:
            data = np.ascontiguousarray(value).tobytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            entry["data"] = value.reshape(-1).tolist()
        told.append(entry)
    body = orjson.dumps({**head, "outputs": told})
    return body + b"".join(tail), len(body) if tail else None


def _tensors(tensors: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": n, "datatype": _NAMES.get(t.dtype, "BYTES"), "shape": [-1, *t.shape]} for n, t in tensors.items()]


def _json(value: object) -> _Answer:
    return _Answer(orjson.dumps(value))
