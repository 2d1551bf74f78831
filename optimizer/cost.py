"""What a net costs on paper: multiply-accumulates, parameters, zeros.

A multiply-accumulate (MAC) is one multiplication of a weight with an activation, added up. Conventions, for one sample:

| layer | MACs |
|---|---|
| Conv, kernel k, groups g | output positions * prod(k) * (input channels / g) * filters |
| DepthwiseConv | output positions * prod(k) * input channels * depth multiplier |
| SeparableConv | its depthwise part plus its 1x1 part, both at the output positions |
| ConvTranspose | **input** positions * prod(k) * input channels * filters; what cropping discards is computed first |
| Dense | inputs * units, times the positions it is applied to |
| EinsumDense | product over all indices of its equation |
| LSTM, GRU, SimpleRNN | steps * gates * units * (inputs + units); gates 4, 3, 1 |
| MultiHeadAttention | its four projections, the scores and the weighted sum |
| Bidirectional, TimeDistributed | both directions, every step |
| everything else | 0: biases, batch norm, activations, pooling, resizing and embedding lookups are no MACs |

"same" padding counts in full, as the usual counters do: a multiplication with a padded zero is one too. A layer called
twice counts twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_onnx
from optimizer import graph

Shape = tuple[int | None, ...]

_KERNELS = frozenset({"kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "embeddings"})
_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_NOT_COUNTED = frozenset(
    {"Attention", "AdditiveAttention", "GroupedQueryAttention", "Dot", "Matmul", "Einsum", "Tensordot", "Inner"}
    | {"Lambda", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Conv", "DepthwiseConv", "SeparableConv"}
)
_ONNX_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_ONNX_NOT_COUNTED = frozenset({"Einsum", "If", "Loop", "Scan", "DeformConv", "Attention"})


def count_macs(keras_model: Any) -> int:
    """Multiply-accumulates for one sample, by the conventions above.

    Args:
        keras_model: a Keras 3 functional or Sequential model.

    Raises:
        ModelError: a dimension that the count needs is open, or there is no convention for a layer; names the layer.
    """
    total = 0
    for layer, inputs, outputs in calls(keras_model):
        total += layer_macs(layer, inputs, outputs)
    return total


def kernels(keras_model: Any) -> Iterator[Any]:
    """The weight kernels, embedding tables included, each once; biases, norms and slopes are none."""
    return (variable for variable in keras_model.weights if variable.name in _KERNELS)


def parameters(keras_model: Any) -> int:
    """Number of weights, trainable or not."""
    return sum(_size(variable) for variable in keras_model.weights)


def nonzero_parameters(keras_model: Any) -> int:
    """Number of weights that are not exactly zero."""
    return sum(int(np.count_nonzero(variable.value.numpy())) for variable in keras_model.weights)


def kernel_sparsity(keras_model: Any) -> float:
    """Exact zeros in the weight kernels / weights in them; 0.0 for a model without kernels."""
    zeros = total = 0
    for variable in kernels(keras_model):
        values = variable.value.numpy()
        zeros += int(values.size - np.count_nonzero(values))
        total += int(values.size)
    return zeros / total if total else 0.0


def onnx_macs(path: Path) -> int | None:
    """Multiply-accumulates of an ONNX model for one sample, by the same conventions; quantized operators included.

    The first dimension of the inputs is the batch: an open one counts as 1, a fixed one is divided out. Where an input
    goes straight into a recurrent operator it is the steps instead, and has to be fixed.

    Returns:
        None where a shape stays open, or the graph holds control flow or an operator without convention.
    """
    onnx = import_onnx()
    model = onnx.load_model(str(path))
    batch = 1 if _steps_first(model) else _close_batch(model)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    inside = inferred.graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in inside.initializer}
    for value in (*inside.input, *inside.value_info, *inside.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in dims)
    total = 0
    for node in inside.node:
        macs = _node_macs(node, shapes)
        if macs is None:
            return None
        total += macs
    return total // batch if total % batch == 0 else total


def calls(model: Any) -> Iterator[tuple[Any, list[Shape], list[Shape]]]:
    """(layer, input shapes, output shapes) of every call in the graph, nested models opened."""
    for node in graph.nodes(graph.functional(model, "its cost cannot be counted")):
        layer = node.operation
        if graph.is_model(layer):
            yield from calls(layer)
        else:
            yield layer, [tuple(t.shape) for t in node.input_tensors], [tuple(t.shape) for t in node.output_tensors]


def layer_macs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    """Multiply-accumulates of one call of a layer, for one sample.

    Args:
        layer: a Keras layer.
        inputs: shapes of its tensors, batch axis included.
        outputs: the same.

    Raises:
        ModelError: as `count_macs`.
    """
    kind = type(layer).__name__
    if kind in ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"):
        return positions(layer, outputs[0]) * _size(layer.kernel)
    if kind in ("SeparableConv1D", "SeparableConv2D"):
        taps = _size(layer.depthwise_kernel) + _size(layer.pointwise_kernel)
        return positions(layer, outputs[0]) * taps
    if kind in ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
        return positions(layer, inputs[0]) * _size(layer.kernel)
    if kind == "Dense":
        return product(layer, inputs[0][1:-1]) * _size(layer.kernel)
    if kind == "EinsumDense":
        return _einsum(layer, inputs[0])
    if kind in _GATES:
        steps, features = inputs[0][1:]
        per_step = product(layer, (features,)) + layer.units
        return product(layer, (steps, _GATES[kind], layer.units, per_step))
    if kind == "MultiHeadAttention":
        return _attention(layer, inputs, outputs)
    if kind == "Bidirectional":
        inner = [(part, inputs, outputs) for part in (layer.forward_layer, layer.backward_layer)]
        return sum(layer_macs(*part) for part in inner)
    if kind == "TimeDistributed":
        return product(layer, (inputs[0][1],)) * _one_step(layer.layer, inputs[0], outputs[0])
    if kind in _NOT_COUNTED or kind.startswith("Quantized"):
        raise ModelError(f"Layer {layer.name} is {kind}, for which no count of multiply-accumulates is defined.")
    unknown = [v.name for v in getattr(layer, "weights", ()) if v.name.endswith("kernel") and len(v.shape) > 1]
    if unknown:
        raise ModelError(f"Layer {layer.name} ({kind}) has {unknown[0]}, and no count is defined for that class.")
    return 0


def _size(variable: Any) -> int:
    return math.prod(int(dim) for dim in variable.shape)


def _one_step(inner: Any, inputs: Shape, outputs: Shape) -> int:
    if hasattr(inner, "layers"):
        return count_macs(inner)
    return layer_macs(inner, [(inputs[0], *inputs[2:])], [(outputs[0], *outputs[2:])])


def positions(layer: Any, shape: Shape) -> int:
    """Spatial positions of a convolution's tensor."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return product(layer, shape[2:] if first else shape[1:-1])


def product(layer: Any, dims: Shape) -> int:
    """Product of some dimensions of a layer's tensor.

    Raises:
        ModelError: one of them is open; names the layer.
    """
    total = 1
    for dim in dims:
        if dim is None:
            raise ModelError(
                f"Layer {layer.name}: a dimension is open, so its multiply-accumulates cannot be counted.",
                next_step="Give every input dimension but the batch a fixed size.",
            )
        total *= int(dim)
    return total


def _einsum(layer: Any, shape: Shape) -> int:
    """Product over the distinct indices of e.g. "abc,cd->abd"; "..." stands for leading dimensions."""
    left, _, _ = layer.equation.replace(" ", "").partition("->")
    data, _, kernel = left.partition(",")
    sizes: dict[str, int | None] = dict(zip(kernel, layer.kernel.shape, strict=True))
    named = data.replace("...", "")
    if "..." in data:
        spare = len(shape) - len(named)
        sizes |= {f"...{n}": dim for n, dim in enumerate(shape[:spare]) if n}
        shape = shape[spare:]
    for position, (index, dim) in enumerate(zip(named, shape, strict=True)):
        if position or "..." in data:  # the first index is the batch
            sizes.setdefault(index, dim)
    return product(layer, tuple(sizes.values()))


def _attention(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    query, value = inputs[0], inputs[1] if len(inputs) > 1 else inputs[0]
    key = inputs[2] if len(inputs) > 2 else value
    config = layer.get_config()
    heads, width = config["num_heads"], config["key_dim"]
    value_width = config["value_dim"] or width
    if len(query) != 3:
        raise ModelError(f"Layer {layer.name}: attention over more than one axis has no count defined.")
    (_, steps, q), (_, memory, k), (_, _, v) = query, key, value
    total = product(layer, (steps, q, heads, width)) + product(layer, (memory, k, heads, width))
    total += product(layer, (memory, v, heads, value_width)) + product(layer, (steps, memory, heads, width))
    total += product(layer, (steps, memory, heads, value_width))
    return total + product(layer, (steps, heads, value_width, outputs[0][-1]))


def _steps_first(model: Any) -> bool:
    inputs = {value.name for value in model.graph.input}
    return any(node.op_type in _ONNX_RECURRENT and node.input[0] in inputs for node in model.graph.node)


def _close_batch(model: Any) -> int:
    """Sets an open first dimension of every input to 1; returns the fixed batch, or 1."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    batches = set()
    symbols = set()
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in initialized or not dims:
            continue
        if not dims[0].HasField("dim_value"):
            symbols.add(dims[0].dim_param)
            dims[0].dim_value = 1
        batches.add(int(dims[0].dim_value))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in symbols:
                dim.dim_value = 1
    del model.graph.value_info[:]  # stale where an open batch was written into it
    firsts = {
        int(value.type.tensor_type.shape.dim[0].dim_value)
        for value in model.graph.output
        if value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].HasField("dim_value")
    }
    return batches.pop() if len(batches) == 1 and firsts <= batches and 0 not in batches else 1


def _node_macs(node: Any, shapes: dict[str, Shape]) -> int | None:
    kind = node.op_type
    if kind in _ONNX_NOT_COUNTED:
        return None
    if kind == "ConvTranspose":
        return _times(
            shapes, (node.input[0], slice(0, 1)), (node.input[0], slice(2, None)), (node.input[1], slice(None))
        )
    if kind in ("Conv", "ConvInteger", "QLinearConv"):
        weight = node.input[3] if kind == "QLinearConv" else node.input[1]
        return _times(shapes, (node.output[0], slice(0, 1)), (node.output[0], slice(2, None)), (weight, slice(None)))
    if kind == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        inner = slice(0, 1) if transposed else slice(1, 2)
        return _times(shapes, (node.output[0], slice(None)), (node.input[0], inner))
    if kind in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return _times(shapes, (node.output[0], slice(None)), (node.input[0], slice(-1, None)))
    if kind in _ONNX_RECURRENT:
        # ONNX stacks gates and directions in W and R, so their sizes are the MACs of a step; X is [steps, batch, ...].
        steps = _times(shapes, (node.input[0], slice(0, 2)))
        both = [_times(shapes, (name, slice(None))) for name in node.input[1:3]]
        return None if steps is None or None in both else steps * sum(size or 0 for size in both)
    return 0


def _times(shapes: dict[str, Shape], *parts: tuple[str, slice]) -> int | None:
    total = 1
    for name, which in parts:
        shape = shapes.get(name)
        if shape is None or None in shape:
            return None
        total *= math.prod(int(dim) for dim in shape[which] if dim is not None)
    return total
