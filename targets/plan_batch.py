"""Opens a graph that was exported with a batch of 1, which gives plainer shapes than an open one."""

from __future__ import annotations

from typing import Any

import numpy as np


def open_batch(proto: Any) -> None:
    """Opens a graph exported with batch 1: reshapes to [1, ...] take the batch as it comes.

    Sound where every reshape keeps the samples apart, which the caller checks by comparing outputs.
    """
    from onnx import numpy_helper

    _moved_batches(proto)
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = "N"
    del proto.graph.value_info[:]
    shapes = {node.input[1] for node in proto.graph.node if node.op_type == "Reshape"}
    for tensor in proto.graph.initializer:
        if tensor.name in shapes:
            dims = numpy_helper.to_array(tensor).copy()
            if dims.size and not np.any(dims == -1):
                dims[0] = -1
                tensor.CopyFrom(numpy_helper.from_array(dims, tensor.name))


def _moved_batches(proto: Any) -> None:
    """Undoes what an exporter may do where the batch is 1, and recurrent layers bring about.

    Transposes that move the batch past other axes were written as reshapes. A Squeeze without axes, of what a cell's
    kernel gives, would take the batch away.
    """
    from onnx import helper, numpy_helper, shape_inference

    graph = shape_inference.infer_shapes(proto).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Squeeze" and len(node.input) == 1 and shapes.get(node.input[0], []).count(1) == 1:
            if shapes[node.input[0]][0] == 1:
                node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output), name=node.name))
            continue
        if node.op_type != "Reshape" or node.input[0] not in shapes or node.input[1] not in constants:
            continue
        before, after = shapes[node.input[0]], numpy_helper.to_array(constants[node.input[1]]).tolist()
        if (order := _order_of_one(before, after)) is not None:
            made = helper.make_node("Transpose", [node.input[0]], list(node.output), name=node.name, perm=order)
            node.CopyFrom(made)


def _order_of_one(before: list[int], after: list[int]) -> list[int] | None:
    """The permutation that takes a leading axis of length 1 to another place, or back; None where it is none."""
    axes = list(range(len(before)))
    for place in axes[1:]:
        away = [*axes[1 : place + 1], 0, *axes[place + 1 :]]
        back = [place, *axes[:place], *axes[place + 1 :]]
        for order, leading in ((away, before), (back, after)):
            if leading[:1] == [1] and before != after and [before[axis] for axis in order] == after:
                return order
    return None
