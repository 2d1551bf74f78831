"""Rewrites of a float ONNX graph that leave what it computes, so that lowering meets few spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def constants_to_initializers(proto: Any) -> None:
    """Constant nodes become initializers."""
    kept = []
    for node in proto.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            proto.graph.initializer.append(value)
        else:
            kept.append(node)
    _replace_nodes(proto, kept)


def skip_identities(proto: Any) -> None:
    """Identity and inference-time Dropout go, unless they name an output of the network."""
    outputs = {value.name for value in proto.graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type in ("Identity", "Dropout") and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace_nodes(proto, kept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerNorm:
    """A layer normalization over the last axis, and the nodes it is spelt out in.

    Attributes:
        layer: its name.
        nodes: in the order they are computed.
        gamma: float32 [C].
        beta: float32 [C].
    """

    layer: str
    nodes: list[Any]
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    epsilon: float


def layer_norm(layer: Any, nodes: list[Any]) -> LayerNorm:
    """From a Keras LayerNormalization."""
    features = int(layer.output.shape[-1])
    gamma = np.array(layer.gamma, np.float32) if layer.scale else np.ones(features, np.float32)
    beta = np.array(layer.beta, np.float32) if layer.center else np.zeros(features, np.float32)
    return LayerNorm(layer=layer.name, nodes=nodes, gamma=gamma, beta=beta, epsilon=float(layer.epsilon))


def layer_normalizations(proto: Any, found: Sequence[LayerNorm]) -> None:
    """Spelt-out layer normalizations become LayerNormalization nodes, where one tensor goes in and one comes out."""
    from onnx import helper, numpy_helper

    stored = {tensor.name for tensor in proto.graph.initializer}
    for norm in found:
        names = {node.name for node in norm.nodes}
        inside = {name for node in norm.nodes for name in node.output}
        entry = {name for node in norm.nodes for name in node.input if name and name not in inside | stored}
        read = {name for node in proto.graph.node if node.name not in names for name in node.input}
        read |= {value.name for value in proto.graph.output}
        leaves = sorted(inside & read)
        if len(entry) != 1 or len(leaves) != 1:
            continue
        numbers = {f"{norm.layer}/gamma": norm.gamma, f"{norm.layer}/beta": norm.beta}
        proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in numbers.items())
        last = norm.nodes[-1].name
        made = helper.make_node(
            "LayerNormalization", [entry.pop(), *numbers], leaves, name=last, axis=-1, epsilon=norm.epsilon
        )
        kept = [made if node.name == last else node for node in proto.graph.node]
        _replace_nodes(proto, [node for node in kept if node is made or node.name not in names])


def dense_layers(proto: Any) -> None:
    """Dense layers on more than two axes: Reshape, MatMul, Reshape (and Add) become one MatMul (and Add)."""
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers = _readers(proto)
    outputs = {value.name for value in proto.graph.output}
    gone: list[Any] = []
    for node in proto.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in stored or stored[node.input[1]].ndim != 2:
            continue
        before = makers.get(node.input[0])
        after = readers.get(node.output[0], [])
        if before is None or before.op_type != "Reshape" or len(after) != 1 or after[0].op_type != "Reshape":
            continue
        flat, full = stored.get(before.input[1]), stored.get(after[0].input[1])
        if flat is None or full is None or flat.size != 2 or int(flat[1]) != stored[node.input[1]].shape[0]:
            continue
        if int(full[-1]) != stored[node.input[1]].shape[1] or node.output[0] in outputs:
            continue
        node.input[0] = before.input[0]
        node.output[0] = after[0].output[0]
        gone.append(after[0])
        if len(readers[before.output[0]]) == 1 and before.output[0] not in outputs:
            gone.append(before)
    _replace_nodes(proto, [node for node in proto.graph.node if node not in gone])


def biases_behind_reshapes(proto: Any) -> None:
    """Attention adds its biases after the heads were split: MatMul, Reshape, Add becomes MatMul, Add, Reshape."""
    from onnx import helper, numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    readers = _readers(proto)
    outputs = {value.name for value in proto.graph.output}

    def only_reader(node: Any, kind: str) -> Any | None:
        after = readers.get(node.output[0], [])
        return after[0] if len(after) == 1 and after[0].op_type == kind and node.output[0] not in outputs else None

    nodes: list[Any] = []
    gone: list[str] = []
    for node in proto.graph.node:
        if node.name in gone:
            continue
        nodes.append(node)
        weight = stored.get(node.input[1]) if node.op_type == "MatMul" else None
        split = None if weight is None or weight.ndim != 2 else only_reader(node, "Reshape")
        add = None if split is None else only_reader(split, "Add")
        if weight is None or split is None or add is None:
            continue
        name = next((name for name in add.input if name in stored), None)
        shape = stored.get(split.input[1])
        if name is None or shape is None or stored[name].size != weight.shape[1]:
            continue
        wide = stored[name].shape
        heads = wide[next((i for i, dim in enumerate(wide) if dim != 1), -1) :]
        if tuple(int(dim) for dim in shape[len(shape) - len(heads) :]) != heads:
            continue
        bias = f"{name}/behind/{node.name}"
        proto.graph.initializer.append(numpy_helper.from_array(stored[name].reshape(-1).copy(), bias))
        nodes.append(helper.make_node("Add", [node.output[0], bias], [f"{node.output[0]}/sum"], name=add.name))
        split.input[0] = f"{node.output[0]}/sum"
        split.output[0] = add.output[0]
        gone.append(add.name)
    _replace_nodes(proto, nodes)


def biases(proto: Any) -> None:
    """Every convolution and matrix product with a constant kernel gets a bias; products of matrices become Gemm."""
    from onnx import helper, numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    ranks = _ranks(proto)
    readers = _readers(proto)
    outputs = {value.name for value in proto.graph.output}
    nodes: list[Any] = []
    gone: list[str] = []
    for node in proto.graph.node:
        if node.name in gone:
            continue
        nodes.append(node)
        weight = stored.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        after = readers.get(node.output[0], [])
        added = _added_bias(node, after, stored, _channels(node, weight)) if node.output[0] not in outputs else None
        if node.op_type == "MatMul" and (ranks.get(node.input[0]) != 2 or weight.ndim != 2):
            if added is None and weight.ndim == 2:
                nodes.append(_with_added_zeros(proto, node, weight))
            continue
        if len(node.input) > 2:
            continue
        if added is not None:
            add, bias = added
            values = stored[bias].reshape(-1)
            node.output[0] = add.output[0]
            gone.append(add.name)
        else:
            values = np.zeros(_channels(node, weight), np.float32)
        name = f"{node.name}/bias"
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        if node.op_type == "MatMul":
            nodes[-1] = helper.make_node(
                "Gemm", [node.input[0], node.input[1], name], list(node.output), name=node.name
            )
        else:
            node.input.append(name)
    _replace_nodes(proto, nodes)


def _channels(node: Any, weight: Any) -> int:
    group = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * group
    if node.op_type == "Conv":
        return int(weight.shape[0])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return int(weight.shape[0] if transposed else weight.shape[-1])


def _added_bias(node: Any, after: list[Any], stored: Mapping[str, Any], channels: int) -> tuple[Any, str] | None:
    """The Add that follows alone and adds one constant to each channel."""
    if len(after) != 1 or after[0].op_type != "Add":
        return None
    name = next((name for name in after[0].input if name in stored), None)
    if name is None or stored[name].size != channels:
        return None
    shape = stored[name].shape
    if node.op_type in ("Conv", "ConvTranspose"):
        # [1, C, 1, 1] or [C, 1, 1]; a plain [C] would be added along the last axis.
        spatial = sum(1 for dim in shape[shape.index(channels) + 1 :] if dim == 1) if channels in shape else 0
        rank = next((len(a.ints) for a in node.attribute if a.name == "kernel_shape"), 2)
        return (after[0], name) if spatial == rank else None
    return (after[0], name) if shape[-1] == channels else None


def _with_added_zeros(proto: Any, node: Any, weight: Any) -> Any:
    """A matrix product without a bias gets one of zeros, so that errors of rounding have where to be corrected."""
    from onnx import helper, numpy_helper

    name = f"{node.name}/bias"
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(weight.shape[-1], np.float32), name))
    output = node.output[0]
    node.output[0] = f"{output}/product"
    return helper.make_node("Add", [node.output[0], name], [output], name=f"{node.name}/add_bias")


def _readers(proto: Any) -> dict[str, list[Any]]:
    """Tensor name -> the nodes that read it."""
    readers: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _ranks(proto: Any) -> dict[str, int]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def _replace_nodes(proto: Any, nodes: list[Any]) -> None:
    copies = []
    for node in nodes:
        twin = type(node)()
        twin.CopyFrom(node)
        copies.append(twin)
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
