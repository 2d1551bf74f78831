"""Groups the nodes of a float ONNX graph into the ops that runtimes compute in one go."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TAKES_ACTIVATION = (*_WEIGHTED, "Add", "Sub", "Mul")
_FLOATS = (1,)
"""TensorProto element types of tensors that a plan speaks of: float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOp:
    """One op of the network, with what fuses into it.

    Attributes:
        name: unique: that of its output.
        kind: ONNX op type of its main node; "Gelu" for one that is spelt out.
        layer: the user's own layer; for ONNX models the main node's name.
        inputs: float tensors that it reads, in order, constants left out.
        output: the tensor after bias and fused activation.
        weight: initializer that is the kernel of a Conv, ConvTranspose, Gemm or MatMul; None for other ops, and for
            products of two computed tensors.
        bias: initializer, float32 [C]; every op with a weight has one.
        weight_axis: of the weight, output channels.
        input_axis: of the weight, input channels; None where each channel has its own (depthwise, grouped).
        groups: of a convolution, else 1.
        activation: fused into the output: "relu", "relu6", or "".
        nodes: names of the nodes it stands for, in the order they are computed.
        main: name of the node that gives it its kind.
    """

    name: str
    kind: str
    layer: str
    inputs: tuple[str, ...]
    output: str
    nodes: tuple[str, ...]
    main: str
    weight: str | None = None
    bias: str | None = None
    weight_axis: int | None = None
    input_axis: int | None = None
    groups: int = 1
    activation: str = ""


def ops_of(proto: Any, constants: Mapping[str, NDArray[Any]], layers: Mapping[str, str]) -> Iterator[PlanOp]:
    """The ops, in the order they are computed.

    Args:
        proto: in topological order, with unique node names, every constant an initializer.
        constants: its initializers.
        layers: node name -> the user's layer.
    """
    graph = _Wiring(proto, constants)
    composites = _composites(graph, proto)
    taken: set[str] = set()
    for node in proto.graph.node:
        if node.name in taken or not graph.is_float(node.output[0]):
            continue
        members = composites.get(node.name) or _fused(graph, node)
        taken.update(member.name for member in members)
        yield _op(graph, members, layers)


class _Wiring:
    """Who makes and who reads each tensor."""

    def __init__(self, proto: Any, constants: Mapping[str, NDArray[Any]]) -> None:
        self.constants = constants
        self.outputs = {value.name for value in proto.graph.output}
        self.readers: dict[str, list[Any]] = {}
        self.makers: dict[str, Any] = {}
        for node in proto.graph.node:
            self.makers.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self._types = _element_types(proto)

    def is_float(self, name: str) -> bool:
        """Whether a tensor holds activations, and not shapes or indices."""
        return self._types.get(name) in _FLOATS

    def computed(self, node: Any) -> list[str]:
        """The float inputs of a node that are no constants."""
        return [name for name in node.input if name and name not in self.constants and self.is_float(name)]

    def only_reader(self, name: str) -> Any | None:
        """The one node that reads a tensor that nobody else sees."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def _element_types(proto: Any) -> dict[str, int]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {value.name: int(value.type.tensor_type.elem_type) for value in values}


def _fused(graph: _Wiring, node: Any) -> list[Any]:
    """A node, its bias and its activation."""
    members = [node]
    if node.op_type == "MatMul" and node.input[1] in graph.constants:
        after = graph.only_reader(node.output[0])
        if after is not None and after.op_type == "Add" and (name := _constant_input(graph, after)):
            columns = graph.constants[node.input[1]].shape[-1]
            if graph.constants[name].shape == (columns,):
                members.append(after)
    if node.op_type in _TAKES_ACTIVATION:
        after = graph.only_reader(members[-1].output[0])
        if after is not None and activation_of(after, graph.constants):
            members.append(after)
    return members


def activation_of(node: Any, constants: Mapping[str, NDArray[Any]]) -> str:
    """What a node is to the op before it: "relu" or "relu6", which runtimes fuse; or ""."""
    if node.op_type == "Relu":
        return "relu"
    if node.op_type == "Clip" and len(node.input) == 3:
        low, high = (constants.get(name) for name in node.input[1:])
        if low is not None and high is not None and float(low) == 0.0 and float(high) == 6.0:
            return "relu6"
    return ""


def _constant_input(graph: _Wiring, node: Any) -> str | None:
    return next((name for name in node.input if name in graph.constants), None)


def _op(graph: _Wiring, members: list[Any], layers: Mapping[str, str]) -> PlanOp:
    inside = {name for member in members for name in member.output}
    reads = [name for member in members for name in graph.computed(member) if name not in inside]
    main = next((member for member in members if member.op_type in _COMPOSITES), members[0])
    composite = main.op_type in _COMPOSITES and len(members) > 1
    kind = _COMPOSITES[main.op_type] if composite else main.op_type
    weighted = kind in _WEIGHTED and main.input[1] in graph.constants
    details: dict[str, Any] = {}
    if weighted:
        details = _weight(graph, main, members)
    return PlanOp(
        name=members[-1].output[0],
        kind=kind,
        layer=layers.get(main.name, main.name),
        inputs=tuple(dict.fromkeys(reads)) if len(members) > 1 else tuple(reads),
        output=members[-1].output[0],
        nodes=tuple(member.name for member in members),
        main=main.name,
        activation=activation_of(members[-1], graph.constants) if len(members) > 1 and not composite else "",
        **details,
    )


def _weight(graph: _Wiring, main: Any, members: list[Any]) -> dict[str, Any]:
    attributes = {a.name: a for a in main.attribute}
    weight = graph.constants[main.input[1]]
    groups = int(attributes["group"].i) if "group" in attributes else 1
    output_axis, input_axis = 0, 1
    if main.op_type == "ConvTranspose":
        output_axis, input_axis = 1, 0
    elif main.op_type == "MatMul":
        output_axis, input_axis = weight.ndim - 1, weight.ndim - 2
    elif main.op_type == "Gemm" and not ("transB" in attributes and attributes["transB"].i):
        output_axis, input_axis = 1, 0
    bias = main.input[2] if main.op_type != "MatMul" and len(main.input) > 2 else None
    if main.op_type == "MatMul" and len(members) > 1 and members[1].op_type == "Add":
        bias = _constant_input(graph, members[1])
    return {
        "weight": main.input[1],
        "bias": bias if bias in graph.constants else None,
        "weight_axis": output_axis,
        "input_axis": input_axis if groups == 1 else None,
        "groups": groups,
    }


_COMPOSITES = {"Erf": "Gelu", "Sqrt": "LayerNorm"}
"""Op type at the heart of a function that is spelt out in several nodes -> what it is."""


def _composites(graph: _Wiring, proto: Any) -> dict[str, list[Any]]:
    """The nodes of each function that is spelt out, by the name of each of them."""
    found: dict[str, list[Any]] = {}
    place = {node.name: index for index, node in enumerate(proto.graph.node)}
    for node in proto.graph.node:
        members = _gelu(graph, node) if node.op_type == "Erf" else []
        members = _layer_norm(graph, node) if node.op_type == "Sqrt" else members
        ordered = sorted(members, key=lambda member: place[member.name])
        found.update((member.name, ordered) for member in members)
    return found


def _layer_norm(graph: _Wiring, sqrt: Any) -> list[Any]:
    """The nodes of (x - mean) / sqrt(mean((x - mean)^2) + epsilon), as exporters before opset 17 write it; else [].

    Its inner values span more than 8 bits can tell apart, so that it must be recognised and left in float32.
    """
    epsilon = graph.makers.get(sqrt.input[0])
    variance = _maker(graph, epsilon, "Add")
    square = _maker(graph, variance, "ReduceMean")
    centred = _maker(graph, square, "Pow", "Mul")
    if centred is None or centred.op_type != "Sub":
        return []
    mean = graph.makers.get(centred.input[1])
    divided = graph.only_reader(sqrt.output[0])
    if mean is None or mean.op_type != "ReduceMean" or divided is None or divided.op_type != "Div":
        return []
    numerator = graph.makers.get(divided.input[0])
    if numerator is None or numerator.op_type != "Sub" or numerator.input[0] != centred.input[0]:
        return []
    spelt = (mean, centred, square, variance, epsilon, sqrt, numerator, divided)
    members = {node.name: node for node in spelt if node is not None}
    return list(members.values())


def _maker(graph: _Wiring, node: Any | None, *kinds: str) -> Any | None:
    """What makes the first computed input of a node, where the node is one of these kinds."""
    if node is None or node.op_type not in kinds:
        return None
    return next((graph.makers.get(name) for name in graph.computed(node)), None)


def _gelu(graph: _Wiring, erf: Any) -> list[Any]:
    """The Erf, what scales its input, and what follows until x itself was multiplied in; [] where x never is."""
    members, source = [erf], str(erf.input[0])
    while (maker := graph.makers.get(source)) is not None and _scales(graph, maker):
        members.append(maker)
        (source,) = graph.computed(maker)
    current, multiplied = erf, False
    while (after := graph.only_reader(current.output[0])) is not None and after.op_type in ("Add", "Sub", "Mul", "Div"):
        other = next((name for name in after.input if name != current.output[0]), "")
        half = graph.makers.get(other)
        if half is not None and _scales(graph, half) and graph.computed(half) == [source]:
            members.append(half)
        elif other != source and other not in graph.constants:
            break
        if other not in graph.constants:
            if multiplied or after.op_type != "Mul":
                break
            multiplied = True
        members.append(after)
        current = after
    return members if multiplied else []


def _scales(graph: _Wiring, node: Any) -> bool:
    """Whether a node only multiplies by a constant, for one reader."""
    return (
        node.op_type in ("Mul", "Div", "Neg")
        and len(graph.computed(node)) == 1
        and graph.only_reader(node.output[0]) is not None
    )


def unique_node_names(proto: Any) -> None:
    """Names every node, no name twice."""
    seen: set[str] = set()
    for index, node in enumerate(proto.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        while name in seen:
            name = re.sub(r"(~\d+)?$", f"~{index}", name, count=1)
        node.name = name
        seen.add(name)
