"""Convolutions along one axis: brings what follows them up to them, so that it folds and fuses as in 2-D networks.

TensorFlow computes a 1-D convolution as a 2-D one between an Unsqueeze and a Squeeze. The batch normalization and the
activation come behind the Squeeze, where no exporter or runtime finds them, and would be quantized on their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ELEMENTWISE = frozenset({"Add", "Clip", "Div", "Elu", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"})


def squeezes_last(proto: Any) -> None:
    """Moves each Squeeze behind the elementwise ops with constants that follow it; drops Squeeze-Unsqueeze pairs.

    Args:
        proto: opset 13 or later, whose axes are an input; changed in place. It computes the same.
    """
    while _one_moved(proto):
        pass
    _pairs_dropped(proto)
    del proto.graph.value_info[:]  # shapes of tensors that have another rank now


def _one_moved(proto: Any) -> bool:
    from onnx import numpy_helper

    graph = proto.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for squeeze in graph.node:
        axes = _axes(squeeze, "Squeeze", stored)
        if axes is None or squeeze.output[0] in outputs:
            continue
        readers = [node for node in graph.node if squeeze.output[0] in node.input]
        if len(readers) != 1 or not _movable(readers[0], squeeze.output[0], stored):
            continue
        rank = _rank_of_convolved(graph, squeeze.input[0])
        if rank is None or axes[-1] >= rank:
            continue
        _swap(graph, squeeze, readers[0], axes, rank, stored)
        return True
    return False


def _axes(node: Any, kind: str, stored: dict[str, NDArray[Any]]) -> tuple[int, ...] | None:
    """Of a Squeeze or Unsqueeze with constant axes, none of them counted from the end; else None."""
    if node.op_type != kind or len(node.input) < 2 or node.input[1] not in stored:
        return None
    axes = tuple(sorted(int(axis) for axis in np.atleast_1d(stored[node.input[1]])))
    return axes if axes and axes[0] > 0 else None


def _movable(node: Any, data: str, stored: dict[str, NDArray[Any]]) -> bool:
    others = [name for name in node.input if name and name != data]
    return (
        node.op_type in _ELEMENTWISE
        and sum(name == data for name in node.input) == 1
        and all(name in stored for name in others)
    )


def _swap(
    graph: Any, squeeze: Any, node: Any, axes: tuple[int, ...], rank: int, stored: dict[str, NDArray[Any]]
) -> None:
    """Squeeze then node becomes node then Squeeze; the node's constants get the axes that it has now."""
    from onnx import helper, numpy_helper

    wide = f"{node.output[0]}/unsqueezed"
    inputs = []
    for name in node.input:
        if name == squeeze.output[0]:
            inputs.append(squeeze.input[0])
        elif not name or stored[name].ndim == 0:
            inputs.append(name)
        else:
            values = stored[name]
            values = values.reshape((1,) * (rank - len(axes) - values.ndim) + values.shape)
            made = f"{name}/unsqueezed/{node.name}"
            graph.initializer.append(numpy_helper.from_array(np.expand_dims(values, axes), made))
            inputs.append(made)
    moved = helper.make_node(node.op_type, inputs, [wide], name=node.name)
    moved.attribute.extend(node.attribute)
    behind = helper.make_node("Squeeze", [wide, squeeze.input[1]], [node.output[0]], name=squeeze.name)
    nodes = []
    for each in graph.node:
        if each == node:
            nodes += [moved, behind]
        elif each != squeeze:
            nodes.append(each)
    del graph.node[:]
    graph.node.extend(nodes)


def _rank_of_convolved(graph: Any, tensor: str) -> int | None:
    """Rank of what a convolution gives, perhaps through elementwise ops: that of its kernel; None behind other ops."""
    makers = {name: node for node in graph.node for name in node.output}
    ranks = {initializer.name: len(initializer.dims) for initializer in graph.initializer}
    node = makers.get(tensor)
    while node is not None and node.op_type in _ELEMENTWISE:
        node = next((makers[name] for name in node.input if name in makers), None)
    if node is None or node.op_type not in ("Conv", "ConvTranspose"):
        return None
    return ranks.get(node.input[1])


def _pairs_dropped(proto: Any) -> None:
    from onnx import numpy_helper

    graph = proto.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    squeezed = {node.output[0]: node for node in graph.node if _axes(node, "Squeeze", stored)}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        axes = _axes(node, "Unsqueeze", stored)
        before = squeezed.get(node.input[0]) if axes else None
        if before is not None and axes == _axes(before, "Squeeze", stored) and node.output[0] not in outputs:
            renamed[node.output[0]] = before.input[0]
        else:
            kept.append(type(node).FromString(node.SerializeToString()))
    read = {name for node in kept for name in node.input} | outputs
    del graph.node[:]
    graph.node.extend(node for node in kept if node.op_type != "Squeeze" or node.output[0] in read)
