"""What a TensorRT makes of an ONNX graph, roughly: which nodes become one layer, and which layers compute in int8.

Names are built as TensorRT builds them, "weights + weights_QuantizeLinear + conv + relu", so that whoever maps layers
back to nodes has the real task. What is fused here is only what everybody fuses: a kernel with its quantization and its
activation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from targets.qdq_nodes import DEQUANTIZE, QUANTIZE, QdqGraph
from targets.tensorrt_rules import ACTIVATIONS, MOVES, WEIGHTED, violations

_FALLS_BACK = ("half-quantized", "weight-axis")
"""Rules about a node that is computed in float where it breaks them; recorded of NVIDIA's parser."""

_LOOKED_THROUGH = (*MOVES, "Cast")
"""Between DequantizeLinear and the op that it is for. The Cast stands there in float16 files for TensorRT 11; that
NVIDIA's builder looks through it is shown by tests/conformance/test_tensorrt_networks.py."""

_ON_DLA = frozenset(
    {*WEIGHTED, *ACTIVATIONS, "Add", "Mul", "AveragePool", "MaxPool", "GlobalAveragePool", "Concat", "Sigmoid", "Tanh"}
)

_KINDS = {
    "Conv": "CaskConvolution",
    "ConvTranspose": "CaskDeconvolutionV2",
    "Gemm": "CaskGemmMatrixMultiply",
    "MatMul": "CaskGemmMatrixMultiply",
    "MaxPool": "CaskPooling",
    "AveragePool": "CaskPooling",
    "GlobalAveragePool": "CaskPooling",
    QUANTIZE: "Reformat",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: as TensorRT would call it.
        kind: its "LayerType".
        nodes: ONNX nodes in it, by name.
        inputs, outputs: tensors; weights are not among them.
        int8: it computes in int8.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    int8: bool


class Network:
    """A parsed graph.

    Attributes:
        proto: the model.
        graph: who makes, reads and quantizes each tensor.
        asked: types that nodes are to be computed in, by name.
    """

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.graph = QdqGraph(proto)
        self.asked: dict[str, str] = {}

    @cached_property
    def types(self) -> dict[str, np.dtype[Any]]:
        """Of tensors, as far as ONNX can tell; stored ones left out."""
        from onnx import helper, shape_inference

        known = shape_inference.infer_shapes(self.proto).graph
        values = (*known.input, *known.output, *known.value_info)
        kinds = {value.name: value.type.tensor_type.elem_type for value in values}
        return {name: np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for name, kind in kinds.items() if kind}

    @property
    def is_quantized(self) -> bool:
        """It has QuantizeLinear or DequantizeLinear nodes."""
        return bool(self.graph.grids)

    @cached_property
    def halves(self) -> frozenset[str]:
        """Tensors that are float16 in the file."""
        return frozenset(name for name, dtype in self.types.items() if dtype == np.float16)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """In the order of the file."""
        return tuple(self._layers())

    def computes_int8(self, node: Any) -> bool:
        """Whether it is multiplied in int8: both factors quantized, on grids that its kernel has."""
        if node.op_type not in WEIGHTED or node.name in self._in_float:
            return False
        grids = [self._grid(name) for name in node.input[:2]]
        return all(grid is not None and (grid.constant or not grid.vector) for grid in grids)

    def can_run_on_dla(self, node: Any) -> bool:
        """Whether a DLA takes it. None of them read QuantizeLinear before TensorRT 11."""
        return node.op_type in _ON_DLA and not self.is_quantized

    @cached_property
    def _in_float(self) -> set[str]:
        return {each.node for each in violations(self.proto) if each.rule in _FALLS_BACK}

    def _grid(self, tensor: str) -> _Grid | None:
        while (found := self.graph.grid_behind(tensor)) is None:
            maker = self.graph.maker(tensor)
            if maker is None or maker.op_type not in _LOOKED_THROUGH:
                return None
            tensor = maker.input[0]
        return _Grid(constant=found.constant, vector=found.scale is not None and found.scale.ndim > 0)

    def _layers(self) -> Iterator[Layer]:
        done: set[int] = set()
        for node in self.proto.graph.node:
            if id(node) in done or self._is_folded(node):
                continue
            nodes = [node]
            if node.op_type in WEIGHTED and (after := self._activation(node)) is not None:
                nodes.append(after)
                done.add(id(after))
            names = [one.name or f"node_of_{one.output[0]}" for one in nodes]
            yield Layer(
                name=" + ".join([*self._weights(node), *names]),
                kind=_KINDS.get(node.op_type, "PointWiseV2"),
                nodes=tuple(names),
                inputs=tuple(self._sources(node)),
                outputs=tuple(nodes[-1].output),
                int8=self.computes_int8(node),
            )

    def _is_folded(self, node: Any) -> bool:
        """Constants, weights' grids, and every DequantizeLinear: its reader does it."""
        if node.op_type in ("Constant", DEQUANTIZE):
            return True
        return node.op_type == QUANTIZE and self.graph.is_stored(node.input[0])

    def _activation(self, node: Any) -> Any | None:
        readers = self.graph.readers(node.output[0])
        ends = {output.name for output in self.proto.graph.output}
        fits = len(readers) == 1 and readers[0].op_type in ACTIVATIONS and node.output[0] not in ends
        return readers[0] if fits else None

    def _weights(self, node: Any) -> list[str]:
        """The quantized weights' part of a layer's name."""
        grid = self.graph.grid_behind(node.input[1]) if node.op_type in WEIGHTED else None
        if grid is None or not grid.constant:
            return []
        first = next(one for one in self.graph.grids if one.tensor == grid.tensor)
        return [grid.tensor, first.node.name]

    def _sources(self, node: Any) -> Iterator[str]:
        for name in node.input:
            if name and not self.graph.is_stored(name):
                maker = self.graph.maker(name)
                if maker is None or maker.op_type != DEQUANTIZE:
                    yield name
                elif not self._is_weight(maker.input[0]):
                    yield maker.input[0]

    def _is_weight(self, tensor: str) -> bool:
        maker = self.graph.maker(tensor)
        return self.graph.is_stored(tensor) or (maker is not None and self._is_folded(maker))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    constant: bool
    vector: bool
