"""What TensorRT asks of an explicitly quantized ONNX graph, checked without TensorRT.

ONNX's checker and ONNX Runtime accept nearly all of what is refused here. What NVIDIA's parser says to each case was
asked of the parser itself: tests/qdq_graphs.py holds the cases, tests/conformance/test_tensorrt_rtx.py asks again.
Placement: NVIDIA's TensorRT developer guide, "Explicit quantization", recommendations on Q/DQ placement; three inputs
and float32 scales: onnx-tensorrt 8.2-GA, importer of QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from targets.onnx_file import STANDARD_DOMAINS, opset
from targets.qdq_nodes import DEQUANTIZE, QUANTIZE, Grid, QdqGraph

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Ops whose two first inputs are multiplied: the ones that int8 is for."""

ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")
"""Fused into the convolution before them."""

MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity", "MaxPool")
"""Ops that only move numbers: TensorRT puts them before the DequantizeLinear that they follow."""

_PASS_ON = (*MOVES, "Pad", "Concat", "Resize")
"""Ops that a grid may go through unchanged."""

_GAIN = (*WEIGHTED, "Add", "AveragePool", "GlobalAveragePool", "ReduceMean", QUANTIZE)
"""Readers for which a tensor is worth quantizing: they compute in int8, or quantize anew what reached them."""

_INTEGER_OPS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")

_FP16_SCALES_SINCE = 19
"""Opset: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html, version history."""

Rule = Literal[
    "opset",
    "open-dimension",
    "integer-op",
    "foreign-domain",
    "uint8",
    "int32",
    "integer-type",
    "zero-point",
    "missing-zero-point",
    "computed",
    "scale-value",
    "scale-count",
    "float16-scale",
    "activation-scales",
    "half-quantized",
    "weight-axis",
    "before-activation",
    "quantized-output",
    "both-branches",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleViolation:
    """One place where a graph breaks a rule.

    Attributes:
        rule: its name.
        node: where; "" where it is about the whole graph.
        tensor: about which.
        text: what is wrong and what to do.
        severity: "error" where TensorRT refuses the graph, computes other numbers, or leaves int8; "warning" where it
            only computes more than it must, or needs something else besides.
    """

    rule: Rule
    node: str
    tensor: str
    text: str
    severity: Literal["error", "warning"] = "error"


def violations(proto: Any, *, max_opset: int = 17, needs_zero_point: bool = True) -> tuple[RuleViolation, ...]:
    """Checks a graph against every rule.

    Args:
        proto: onnx.ModelProto.
        max_opset: the newest that the target's parser reads: 13 for TensorRT 8.0 and 8.2, 17 for 8.4 to 8.6
            (onnx-tensorrt, docs/operators.md of each branch).
        needs_zero_point: its parser insists on the third input of Q and DQ, as that of 8.2 does.

    Returns:
        in the order of the rules; empty where the graph is sound.
    """
    graph = QdqGraph(_without_casts(proto))
    found = [*_opset(proto, max_opset), *_open_batch(proto), *_integer_ops(graph)]
    for grid in graph.grids:
        for rule in _GRID_RULES:
            found += rule(graph, grid)
        if needs_zero_point:
            found += _missing_zero_point(grid)
    for node in graph.nodes(*WEIGHTED):
        found += [*_half_quantized(graph, node), *_weight_axis(graph, node)]
    return (*found, *_placement(graph))


def _without_casts(proto: Any) -> Any:
    """The graph as if float16 and float32 were one type: nobody reads a Cast to either, but what was cast."""
    sources = {node.output[0]: node.input[0] for node in proto.graph.node if _to_float(node)}
    if not sources:
        return proto
    twin = type(proto)()
    twin.CopyFrom(proto)
    for node in twin.graph.node:
        for index, name in enumerate(node.input):
            while name in sources:
                name = sources[name]  # noqa: PLW2901 - to the end of the chain
            node.input[index] = name
    return twin


def _to_float(node: Any) -> bool:
    return node.op_type == "Cast" and any(each.name == "to" and each.i in (1, 10) for each in node.attribute)


def _opset(proto: Any, newest: int) -> Iterator[RuleViolation]:
    if (have := opset(proto)) > newest:
        text = f"opset {have} is newer than the target's parser, which reads {newest}: export with opset {newest}."
        yield RuleViolation(rule="opset", node="", tensor="", text=text)


def _open_batch(proto: Any) -> Iterator[RuleViolation]:
    stored = {tensor.name for tensor in proto.graph.initializer}
    for value in (value for value in proto.graph.input if value.name not in stored):
        if any(dim.WhichOneof("value") != "dim_value" for dim in value.type.tensor_type.shape.dim):
            text = "has an open dimension: the builder needs an optimization profile, or fix the dimension."
            yield RuleViolation(rule="open-dimension", node="", tensor=value.name, text=text, severity="warning")


def _integer_ops(graph: QdqGraph) -> Iterator[RuleViolation]:
    for node in graph.nodes(*_INTEGER_OPS):
        text = f"{node.op_type} is not read: say it as float ops between QuantizeLinear and DequantizeLinear."
        yield RuleViolation(rule="integer-op", node=node.name, tensor=node.output[0], text=text)


def _at(grid: Grid, rule: Rule, text: str) -> RuleViolation:
    return RuleViolation(rule=rule, node=grid.node.name, tensor=grid.tensor, text=text)


def _domain(_: QdqGraph, grid: Grid) -> Iterator[RuleViolation]:
    if grid.node.domain not in STANDARD_DOMAINS:
        text = f"is of domain {grid.node.domain}: write the node of the ONNX standard, which every parser reads."
        yield _at(grid, "foreign-domain", text)


def _integers(_: QdqGraph, grid: Grid) -> Iterator[RuleViolation]:
    kind = "weights" if grid.constant else "activations"
    if grid.integers == "uint8":
        text = f"uint8 {kind}: read as int8 with a mere warning, -128..127 instead of 0..255: write int8."
        yield _at(grid, "uint8", text)
    elif grid.integers == "int32":
        yield _at(grid, "int32", "int32 has no DequantizeLinear: leave the bias in float.")
    elif grid.integers not in ("int8", ""):
        yield _at(grid, "integer-type", f"{grid.integers} {kind}: write int8, or leave the op in float.")


def _zero_point(_: QdqGraph, grid: Grid) -> Iterator[RuleViolation]:
    if grid.zero_point is not None and np.any(grid.zero_point.astype(np.int64)):
        found = grid.zero_point.astype(np.int64).ravel()
        text = f"zero point {found[found != 0][0]}: only symmetric grids are read; quantize with zero point 0."
        yield _at(grid, "zero-point", text)
    elif grid.has_zero_point and grid.zero_point is None:
        yield _at(grid, "computed", "its zero point is computed: store it.")


def _missing_zero_point(grid: Grid) -> Iterator[RuleViolation]:
    if not grid.has_zero_point:
        text = (
            "has no zero point: parsers of TensorRT 8 need three inputs, and ONNX means uint8 without: store 0, int8."
        )
        yield _at(grid, "missing-zero-point", text)


def _scale(graph: QdqGraph, grid: Grid) -> Iterator[RuleViolation]:
    if grid.scale is None:
        yield _at(grid, "computed", "its scale is computed: the parser crashes on it; store it.")
        return
    scale = grid.scale.astype(np.float64).ravel()
    if not (np.isfinite(scale) & (scale > 0)).all():
        worst = scale[~(np.isfinite(scale) & (scale > 0))][0]
        yield _at(grid, "scale-value", f"scale {worst}: every scale must be finite and above 0.")
    if grid.scale.dtype == np.float16 and opset(graph.proto) < _FP16_SCALES_SINCE:
        text = f"float16 scale: ONNX has them since opset {_FP16_SCALES_SINCE}, TensorRT 8 never: write float32."
        yield _at(grid, "float16-scale", text)


def _scale_shape(graph: QdqGraph, grid: Grid) -> Iterator[RuleViolation]:
    if grid.scale is None or grid.scale.ndim == 0:
        return
    if not grid.constant:
        text = (
            "activations must have one scale, a scalar: with a vector, even of one number, the op falls back to float."
        )
        yield _at(grid, "activation-scales", text)
        return
    values = graph.values(grid.tensor)
    channels = None if values is None or not -values.ndim <= grid.axis < values.ndim else values.shape[grid.axis]
    if grid.scale.size not in (1, channels):
        text = f"{grid.scale.size} scales for {channels} channels along axis {grid.axis}: one, or one per channel."
        yield _at(grid, "scale-count", text)


_GRID_RULES: tuple[Callable[[QdqGraph, Grid], Iterator[RuleViolation]], ...] = (
    *(_domain, _integers, _zero_point, _scale, _scale_shape),
)


def _half_quantized(graph: QdqGraph, node: Any) -> Iterator[RuleViolation]:
    factors = list(node.input[:2])
    quantized = [_reaches(graph, name) for name in factors]
    if any(graph.grid_behind(name) is not None for name in factors) and not all(quantized):
        name = factors[quantized.index(False)]
        text = f"{node.op_type} has one quantized input and one in float, so it falls back to float: quantize both."
        yield RuleViolation(rule="half-quantized", node=node.name, tensor=name, text=text)


def _reaches(graph: QdqGraph, tensor: str) -> bool:
    """Whether a tensor is a dequantized one, or one that was only moved about since."""
    while graph.grid_behind(tensor) is None:
        maker = graph.maker(tensor)
        if maker is None or maker.op_type not in MOVES:
            return False
        tensor = maker.input[0]
    return True


def _weight_axis(graph: QdqGraph, node: Any) -> Iterator[RuleViolation]:
    grid = graph.grid_behind(node.input[1])
    if grid is None or not grid.constant or grid.scale is None or grid.scale.size == 1:
        return
    values = graph.values(grid.tensor)
    if values is None:
        return
    wanted, have = _output_axis(node, values.ndim), grid.axis % values.ndim
    if have != wanted:
        text = f"weights of {node.op_type} have scales along axis {have}, so it falls back to float: axis {wanted}."
        yield RuleViolation(rule="weight-axis", node=node.name, tensor=grid.tensor, text=text)


def _output_axis(node: Any, dimensions: int) -> int:
    """Of the weight, output channels."""
    if node.op_type == "Gemm":
        return 0 if any(each.name == "transB" and each.i for each in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": dimensions - 1}[node.op_type]


def _placement(graph: QdqGraph) -> Iterator[RuleViolation]:
    for grid in (grid for grid in graph.grids if grid.node.op_type == QUANTIZE and not grid.constant):
        yield from _after_weighted(graph, grid)
    for node in graph.nodes("Add"):
        yield from _both_branches(graph, node)


def _after_weighted(graph: QdqGraph, grid: Grid) -> Iterator[RuleViolation]:
    maker = graph.maker(grid.tensor)
    readers = _readers_of_pair(graph, grid)
    if maker is not None and maker.op_type in WEIGHTED and any(reader.op_type in ACTIVATIONS for reader in readers):
        text = f"quantized between {maker.op_type} and its activation, which keeps them from fusing: quantize after it."
        yield _warning(grid, "before-activation", text)
        return
    if maker is not None and maker.op_type in ACTIVATIONS:
        maker = graph.maker(maker.input[0])
    if maker is not None and maker.op_type in WEIGHTED and not any(_gains(graph, reader) for reader in readers):
        text = f"output of {maker.op_type} quantized although nothing after it computes in int8: leave it in float."
        yield _warning(grid, "quantized-output", text)


def _both_branches(graph: QdqGraph, node: Any) -> Iterator[RuleViolation]:
    grids = [graph.grid_behind(name) for name in node.input]
    if any(grid is None or grid.constant for grid in grids):
        return
    for grid in (grid for grid in grids if grid is not None):
        maker = graph.maker(grid.tensor)
        if maker is not None and maker.op_type in WEIGHTED:
            text = f"both inputs of {node.name or 'an Add'} quantized: leave that of {maker.op_type} in float to fuse."
            yield _warning(grid, "both-branches", text)
            return


def _warning(grid: Grid, rule: Rule, text: str) -> RuleViolation:
    return RuleViolation(rule=rule, node=grid.node.name, tensor=grid.tensor, text=text, severity="warning")


def _readers_of_pair(graph: QdqGraph, grid: Grid) -> list[Any]:
    """Who reads what a QuantizeLinear quantized, past the DequantizeLinear."""
    after = [node for node in graph.readers(grid.node.output[0]) if node.op_type == DEQUANTIZE]
    return [reader for node in after for reader in graph.readers(node.output[0])]


def _gains(graph: QdqGraph, node: Any) -> bool:
    if node.op_type in _GAIN:
        return True
    return node.op_type in _PASS_ON and any(_gains(graph, reader) for reader in graph.readers(node.output[0]))
