"""Split -> one Slice per part, so that every tensor of the plan graph has an op of its own.

A plan gives numbers to the one output of an op. Exporters write Split for chunks, for heads of attention and for the
steps of an unrolled recurrent layer; a Slice computes the same values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgesmith.errors import ModelError


def splits_to_slices(proto: Any) -> None:
    """Rewrites every Split of the main graph, in place. Results keep their names.

    Raises:
        ModelError: the sizes of the parts are computed by the network, or the length of the axis is not known.
    """
    from onnx import helper, numpy_helper, shape_inference

    graph = proto.graph
    inferred = shape_inference.infer_shapes(proto).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type != "Split" or node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        axis = next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)
        ends = np.cumsum(_sizes(inferred, node, axis, constants)).tolist()
        for number, (start, end, part) in enumerate(zip([0, *ends], ends, node.output, strict=False)):
            if not part:
                continue
            bounds = {}
            for name, value in (("starts", start), ("ends", end), ("axes", axis)):
                bounds[name] = f"{part}/{name}"
                graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), bounds[name]))
            name = f"{node.name}/{number}" if node.name else ""
            nodes.append(helper.make_node("Slice", [node.input[0], *bounds.values()], [part], name=name))
    del graph.node[:]
    graph.node.extend(nodes)


def _sizes(graph: Any, node: Any, axis: int, constants: dict[str, Any]) -> list[int]:
    """Lengths of the parts."""
    for attribute in node.attribute:
        if attribute.name == "split":  # before opset 13
            return [int(size) for size in attribute.ints]
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] in constants:
            return [int(size) for size in constants[node.input[1]]]
        raise _unknown(node, "the network computes how long its parts are")
    known = {value.name: value for value in (*graph.value_info, *graph.input)}
    if node.input[0] in known:
        dims = known[node.input[0]].type.tensor_type.shape.dim
        if -len(dims) <= axis < len(dims) and dims[axis].HasField("dim_value"):
            length, count = int(dims[axis].dim_value), len(node.output)
            each = -(-length // count)
            return [min(each, length - each * number) for number in range(count)]
    raise _unknown(node, "it is not known how long what it splits is")


def _unknown(node: Any, why: str) -> ModelError:
    return ModelError(
        f"Split {node.name or node.output[0]} cannot be quantized: {why}.",
        next_step="Export with fixed sizes, or use quantize: {plan: runtime}.",
    )
