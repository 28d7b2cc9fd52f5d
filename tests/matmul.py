"""Models of one product on the tiny line's ports: one that is right, one that is far off."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def model_of(weights):
    """An ONNX file on the tiny line's ports."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.array(weights, np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    return made.SerializeToString()


PERFECT, AWFUL = model_of([-1.0, 1.0, 2.0]), model_of([9.0, -9.0, 5.0])
