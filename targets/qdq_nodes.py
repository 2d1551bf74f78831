"""Q/DQ in ONNX graphs: writes pairs of nodes, and reads who quantizes what.

QuantizeLinear and DequantizeLinear: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; scale and zero point are
scalars for one grid of the tensor, or [C] along the attribute `axis`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

QUANTIZED, DEQUANTIZED = "_QuantizeLinear_Output", "_DequantizeLinear_Output"
"""Ends of tensor names, as ONNX Runtime's quantizer has them: `targets.onnx_file.tensors` knows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """Nodes and constants to put into a graph, and the tensor that the rest reads from now on."""

    nodes: tuple[Any, ...]
    constants: tuple[Any, ...]
    output: str


def pair(tensor: str, scale: NDArray[np.float32], dtype: type[np.signedinteger[Any]], axis: int | None = None) -> Added:
    """QuantizeLinear and DequantizeLinear of a float tensor, symmetric: zero points are 0 and written out.

    Args:
        tensor: activation or stored weight.
        scale: [] or, along `axis`, [C]; > 0.
        dtype: of the integers.
        axis: None for one scale.
    """
    from onnx import helper

    names, constants = _grid(tensor, scale, dtype)
    along = {} if axis is None else {"axis": axis}
    quantized, output = f"{tensor}{QUANTIZED}", f"{tensor}{DEQUANTIZED}"
    nodes = (
        helper.make_node(QUANTIZE, [tensor, *names], [quantized], name=f"{tensor}_{QUANTIZE}", **along),
        helper.make_node(DEQUANTIZE, [quantized, *names], [output], name=f"{tensor}_{DEQUANTIZE}", **along),
    )
    return Added(nodes=nodes, constants=constants, output=output)


def stored(name: str, integers: NDArray[Any], scale: NDArray[np.float32], axis: int | None = None) -> Added:
    """Integer weights and their DequantizeLinear, symmetric."""
    from onnx import helper, numpy_helper

    names, constants = _grid(name, scale, integers.dtype.type)
    along = {} if axis is None else {"axis": axis}
    quantized, output = f"{name}{QUANTIZED}", f"{name}{DEQUANTIZED}"
    node = helper.make_node(DEQUANTIZE, [quantized, *names], [output], name=f"{name}_{DEQUANTIZE}", **along)
    return Added(nodes=(node,), constants=(numpy_helper.from_array(integers, quantized), *constants), output=output)


def _grid(name: str, scale: NDArray[np.float32], dtype: type[Any]) -> tuple[list[str], tuple[Any, ...]]:
    from onnx import numpy_helper

    names = [f"{name}_{QUANTIZE}_Scale", f"{name}_{QUANTIZE}_ZeroPoint"]
    values = (np.asarray(scale, dtype=np.float32), np.zeros(np.shape(scale), dtype=dtype))
    return names, tuple(numpy_helper.from_array(value, each) for value, each in zip(values, names, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What one QuantizeLinear or DequantizeLinear node says.

    Attributes:
        node: the node itself.
        tensor: whose numbers are quantized: the float tensor before the QuantizeLinear, or the stored integers.
        constant: that tensor is stored in the file: a weight or a bias.
        integers: numpy name of the integers' type; "" where nothing in the file tells it.
        scale: its values; None where they are computed.
        zero_point: its values; None where the input is left out, or computed.
        has_zero_point: the input is there.
        axis: as the node says it, 1 by default.
    """

    node: Any
    tensor: str
    constant: bool
    integers: str
    scale: NDArray[Any] | None
    zero_point: NDArray[Any] | None
    has_zero_point: bool
    axis: int


class QdqGraph:
    """Who makes, who reads and who quantizes each tensor of a graph; graphs inside nodes are not looked into.

    Attributes:
        proto: the model.
        grids: of every QuantizeLinear and DequantizeLinear, in order.
    """

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self._stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._makers: dict[str, Any] = {}
        self._readers: dict[str, list[Any]] = {}
        for node in proto.graph.node:
            if node.op_type == "Constant":
                self._stored.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
            self._makers.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self.grids = tuple(self._read(node) for node in self.nodes(QUANTIZE, DEQUANTIZE))

    def nodes(self, *kinds: str) -> Iterator[Any]:
        """Those of these op types, in order."""
        return (node for node in self.proto.graph.node if node.op_type in kinds)

    def is_stored(self, tensor: str) -> bool:
        """Whether a tensor is a constant of the file."""
        return tensor in self._stored

    def values(self, tensor: str) -> NDArray[Any] | None:
        """Of a stored tensor."""
        from onnx import numpy_helper

        found = self._stored.get(tensor)
        return None if found is None else np.asarray(numpy_helper.to_array(found))

    def maker(self, tensor: str) -> Any | None:
        """The node that computes it."""
        return self._makers.get(tensor)

    def readers(self, tensor: str) -> Sequence[Any]:
        """The nodes that read it."""
        return self._readers.get(tensor, [])

    def grid_behind(self, tensor: str) -> Grid | None:
        """The grid a tensor was just dequantized from; None where it was not."""
        maker = self.maker(tensor)
        if maker is None or maker.op_type != DEQUANTIZE:
            return None
        return next(grid for grid in self.grids if grid.node.output[0] == tensor)

    def _read(self, node: Any) -> Grid:
        inputs = [*node.input, "", ""][:3]
        source = inputs[0]
        before = self.maker(source)
        quantizes = node if node.op_type == QUANTIZE else before
        if quantizes is not None and quantizes.op_type == QUANTIZE:
            source = quantizes.input[0]
        zero_point = self.values(inputs[2])
        return Grid(
            node=node,
            tensor=str(source),
            constant=self.is_stored(source),
            integers=self._integers(node, inputs),
            scale=self.values(inputs[1]),
            zero_point=zero_point,
            has_zero_point=bool(inputs[2]),
            axis=next((int(each.i) for each in node.attribute if each.name == "axis"), 1),
        )

    def _integers(self, node: Any, inputs: Sequence[str]) -> str:
        """The zero point has the integers' type; without one, DequantizeLinear has that of what it reads."""
        from onnx import helper

        for name in (inputs[2], inputs[0] if node.op_type == DEQUANTIZE else ""):
            if name in self._stored:
                return str(helper.tensor_dtype_to_np_dtype(self._stored[name].data_type).name)
        return ""
