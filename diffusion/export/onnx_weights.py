"""The weights of an ONNX graph in half or a quarter of the bytes, and the graph without traces of this machine.

A matrix, a kernel or a table W is stored as fp16 behind a `Cast`, or as int8 with one scale for each of its rows (its
output channels, or the rows of a table) behind a `DequantizeLinear`:

    W ≈ scale · round(W / scale),    scale = max |W| / 127 of the row.

What is computed stays fp32: a runtime undoes both once, when it loads the file.
"""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from diffusion.export.page_weights import LEAST_ROUNDED

HOLD_WEIGHTS = ("Conv", "Gemm", "MatMul", "Gather", "Transpose")
LEAST = {"fp16": 64, "int8": LEAST_ROUNDED}  # numbers below which a tensor stays as it is


def store(graph: Any, weights: str) -> None:
    """Store the large tensors of `onnx.GraphProto` as "fp32", "fp16" or "int8"; changed in place."""
    if weights == "fp32":
        return
    users = {name: node for node in reversed(graph.node) for name in node.input}
    kept, nodes = [], []
    for tensor in graph.initializer:
        user = users.get(tensor.name)
        large = (
            tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2 and np.prod(tensor.dims) >= LEAST[weights]
        )
        if not large or user is None or user.op_type not in HOLD_WEIGHTS:
            kept.append(tensor)
            continue
        made, node = (halved if weights == "fp16" else rounded)(tensor, user)
        kept += made
        nodes.append(node)
    former = list(graph.node)
    for field, content in ((graph.initializer, kept), (graph.node, [*nodes, *former])):
        del field[:]
        field.extend(content)


def halved(tensor: Any, user: Any) -> tuple[list, Any]:
    """A tensor as fp16, and the node that makes fp32 of it."""
    name = f"{tensor.name}_fp16"
    values = numpy_helper.to_array(tensor).astype(np.float16)
    return [numpy_helper.from_array(values, name)], helper.make_node(
        "Cast", [name], [tensor.name], to=TensorProto.FLOAT
    )


def rounded(tensor: Any, user: Any) -> tuple[list, Any]:
    """A tensor as int8 with its scales, and the node that multiplies them; `user` says which axis its rows are."""
    values, axis = numpy_helper.to_array(tensor), rows(tensor, user)
    others = tuple(k for k in range(values.ndim) if k != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    names = [f"{tensor.name}_int8", f"{tensor.name}_scale"]
    made = [np.round(values / scale).astype(np.int8), scale.reshape(-1).astype(np.float32)]
    node = helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis)
    return [numpy_helper.from_array(each, name) for each, name in zip(made, names, strict=True)], node


def rows(tensor: Any, user: Any) -> int:
    """The axis of a weight along which its rows lie."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in user.attribute)
    last = user.op_type == "MatMul" or (user.op_type == "Gemm" and not transposed)
    return len(tensor.dims) - 1 if last else 0


def forget_the_machine(model: Any) -> None:
    """Remove what the exporter notes of its own code from `onnx.ModelProto`: paths of files and lines in them."""
    owners = [model, model.graph, *model.functions]
    for graph in (model.graph, *model.functions):
        owners += [*graph.node, *graph.value_info]
    owners += [*model.graph.initializer, *model.graph.input, *model.graph.output]
    for owner in owners:
        owner.doc_string = ""
        if hasattr(owner, "metadata_props"):
            del owner.metadata_props[:]
