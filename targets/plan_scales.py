"""A number that multiplies what a convolution reads goes into its kernel, as the LiteRT converter does it.

So a network that scales its own pixels (Keras' Rescaling) is quantized from the pixels on, in every artifact alike, and
no op spends eight bits on a multiplication.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_PASSES_ON = frozenset({"Identity", "Reshape", "Transpose", "Unsqueeze"})
"""Ops that only rearrange what they read."""


def multipliers_folded(proto: Any) -> None:
    """Folds each Mul by one number into the convolution that alone reads it, perhaps through rearrangements.

    Padding stays right: zero times the number is zero.

    Args:
        proto: constants are initializers; changed in place. It computes the same but for the rounding of float32.
    """
    from onnx import numpy_helper

    graph = proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Mul" or node.output[0] in outputs:
            continue
        factors = [name for name in node.input if name in stored]
        if len(factors) != 1 or (factor := numpy_helper.to_array(stored[factors[0]])).size != 1 or factor.ndim > 1:
            continue
        convolution = _reader(graph, node.output[0], outputs)
        kernel = stored.get(convolution.input[1]) if convolution is not None else None
        if convolution is None or kernel is None:
            continue
        values = numpy_helper.to_array(kernel)
        made = f"{kernel.name}/{node.name}"
        scaled = (values * factor.ravel()[0]).astype(values.dtype)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scaled), made))
        convolution.input[1] = made
        renamed[node.output[0]] = next(name for name in node.input if name != factors[0])
    for node in graph.node:
        node.input[:] = [_first(renamed, name) for name in node.input]
    kept = [type(node).FromString(node.SerializeToString()) for node in graph.node if node.output[0] not in renamed]
    del graph.node[:]
    graph.node.extend(kept)


def _reader(graph: Any, tensor: str, outputs: set[str]) -> Any:
    """The convolution that alone reads a tensor as its data; None where others read it, too."""
    while True:
        readers = [node for node in graph.node if tensor in node.input]
        if len(readers) != 1 or readers[0].input[0] != tensor or tensor in outputs:
            return None
        if readers[0].op_type in ("Conv", "ConvTranspose"):
            return readers[0] if list(readers[0].input).count(tensor) == 1 else None
        if readers[0].op_type not in _PASSES_ON:
            return None
        tensor = readers[0].output[0]


def _first(renamed: dict[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name
