"""A torch module becomes the bytes of an ONNX file that say nothing about the machine that wrote them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import onnx
import torch

from fleetmill.core.line import ModelSpec, Port

_OPSET = 17


def export(module: torch.nn.Module, spec: ModelSpec) -> bytes:
    """ONNX of `module`, whose forward takes one tensor per input port in order and gives one per output port.

    The batch axis is free. Stack traces, paths and the producer's version are stripped, so the same weights give the
    same bytes on every machine.
    """
    examples = tuple(torch.zeros(_example(port), dtype=getattr(torch, port.dtype)) for port in spec.inputs)
    inputs, outputs = [port.name for port in spec.inputs], [port.name for port in spec.outputs]
    return traced(module, examples, inputs, outputs, {name: {0: "batch"} for name in (*inputs, *outputs)})


def traced(
    module: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> bytes:
    """ONNX of `module` as it runs on `examples`. `axes`: those that are free, by input or output, with their names."""
    buffer = io.BytesIO()
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor, which takes 15 times as long
        torch.onnx.export(
            module,
            examples,
            cast("Any", buffer),  # takes a file too, its stub does not say so
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(free) for name, free in axes.items()},
        )
    return strip(buffer.getvalue())


def strip(model: bytes) -> bytes:
    """The same graph without producer, documentation strings and metadata."""
    proto = onnx.load_from_string(model)
    proto.producer_name, proto.producer_version, proto.doc_string = "", "", ""
    del proto.metadata_props[:]
    proto.graph.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))


def _example(port: Port) -> tuple[int, ...]:
    history = (port.history,) if port.history > 1 else ()
    return (1, *history, *(max(n, 1) for n in port.shape))
