"""A part of the plan graph as a model of its own: what computes one tensor from others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from targets import onnx_file
from targets.plan_graph import PlanGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A part of the network.

    Attributes:
        proto: the `onnx.ModelProto`.
        inputs: tensors of the network that it reads, in the order of its inputs.
        output: what it computes.
    """

    proto: Any
    inputs: tuple[str, ...]
    output: str


def cut(graph: PlanGraph, output: str, known: Collection[str], shapes: Mapping[str, Sequence[int]]) -> Cut | None:
    """The smallest part that computes a tensor from tensors that are known.

    Args:
        graph: the float network.
        output: the tensor.
        known: where to cut; the network's inputs are known, too.
        shapes: of float tensors for one sample: batch 1 first.

    Returns:
        None where it needs a tensor whose shape is not given, where a node holds a graph of its own (a loop), or
        where the output itself is an input.
    """
    from onnx import TensorProto, helper

    makers = {name: node for node in graph.proto.graph.node for name in node.output}
    given = {value.name: value for value in graph.proto.graph.input}
    if output not in makers:
        return None
    needed: set[str] = set()
    edges: dict[str, None] = {}
    stack, seen = [output], {output}
    while stack:
        name = stack.pop()
        if name in graph.constants or not name:
            continue
        if name != output and (name in known or name in given or name not in makers):
            edges[name] = None
            continue
        needed.add(makers[name].name)
        fresh = [source for source in reversed(makers[name].input) if source not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    if any(name not in given and name not in shapes for name in edges):
        return None
    nodes = [node for node in graph.proto.graph.node if node.name in needed]
    if any(onnx_file.subgraphs(node) for node in nodes):
        return None
    used = {name for node in nodes for name in node.input}
    proto = type(graph.proto)()
    proto.ir_version = graph.proto.ir_version
    proto.opset_import.extend(graph.proto.opset_import)
    proto.graph.name = "part"
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(tensor for tensor in graph.proto.graph.initializer if tensor.name in used)
    for name in edges:
        declared = given.get(name) or helper.make_tensor_value_info(
            name, TensorProto.FLOAT, _dims(shapes[name]) if name in shapes else None
        )
        proto.graph.input.append(declared)
    proto.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return Cut(proto=proto, inputs=tuple(edges), output=output)


def _dims(shape: Sequence[int]) -> list[Any]:
    """One sample is no promise of a batch: where the first dimension is 1 it is open."""
    return ["N" if index == 0 and dim == 1 else int(dim) for index, dim in enumerate(shape)]
