"""Gives every tensor of a float graph its type, float16 or float32, for builders that compute what the file says.

TensorRT 11 has no flags for precisions: what is to be computed in float16 must be float16 in the file, with a Cast at
every border. Inputs and outputs of the network stay float32. Which op takes which type is asked of ONNX's own op
schemas; the ops that need the range or the digits of float32 stay there: the list is that of PyTorch's autocast
(https://docs.pytorch.org/docs/stable/amp.html, "Ops that can autocast to float32"), in ONNX's words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesmith.errors import ModelError
from targets import onnx_file, onnx_order
from targets.qdq_nodes import DEQUANTIZE, QUANTIZE

KEPT = frozenset(
    {
        *("LayerNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization"),
        *("LpNormalization", "MeanVarianceNormalization", "LRN", "Softmax", "LogSoftmax", "Softplus"),
        *("Exp", "Log", "Pow", "Sqrt", "Reciprocal", "CumSum", "Cast"),
        *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
        *("ReduceLogSum", "ReduceLogSumExp"),
        *(QUANTIZE, DEQUANTIZE),
    }
)
"""Sums over many numbers, powers and exponentials; and grids, whose scales would lose digits. TensorRT looks through a
Cast between DequantizeLinear and the op that it is for: tests/conformance/test_tensorrt_networks.py."""

_EITHER = ("Shape", "Size")
"""Read no numbers."""

LARGEST = 65504.0
"""Of float16."""

_FLOAT, _HALF = 1, 10
"""TensorProto element types."""


def typed(proto: Any, *, floats: Collection[str] = ()) -> Any:
    """A copy of a graph that says float16 wherever that is safe.

    Args:
        proto: onnx.ModelProto in float32; QuantizeLinear and DequantizeLinear may be in it.
        floats: names of further nodes that stay float32.

    Raises:
        ModelError: a name that a converted tensor would need is taken.
    """
    import onnx

    made = _Typing(proto, floats).graph()
    onnx_order.normalise(made)
    onnx_file.tidy(made)
    onnx.checker.check_model(made, full_check=True)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ports:
    """Which inputs and outputs of a node become float16, by position."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


class _Typing:
    def __init__(self, proto: Any, floats: Collection[str]) -> None:
        self._proto, self._floats = proto, floats
        self._opset = onnx_file.opset(proto)
        self._stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._types = _element_types(proto)
        self._ported = [(node, self._halved(node)) for node in proto.graph.node]
        # Tensors whose own name is float16; outputs and what graphs inside nodes read keep their name for float32.
        fixed = {value.name for value in proto.graph.output} | set(_captured(proto))
        computed = {node.output[i] for node, ports in self._ported for i in ports.outputs}
        self._half, self._both = computed - fixed, computed & fixed
        self._taken = {*self._types, *self._stored, *(name for node in proto.graph.node for name in node.output)}
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def graph(self) -> Any:
        """The converted graph, its nodes in no order."""
        made = type(self._proto)()
        made.CopyFrom(self._proto)
        for old, ports in self._ported:
            node = type(old)()
            node.CopyFrom(old)
            for index, name in enumerate(old.input):
                if self._types.get(name) == _FLOAT and old.op_type not in _EITHER:
                    node.input[index] = self._as(name, _HALF if index in ports.inputs else _FLOAT)
            for index in ports.outputs:
                if old.output[index] in self._both:
                    node.output[index] = self._name(old.output[index], _HALF)
            self._nodes.append(node)
        for name in sorted(self._both):
            self._nodes.append(_cast(self._name(name, _HALF), name, _FLOAT))
        del made.graph.node[:]
        made.graph.node.extend(self._nodes)
        made.graph.initializer.extend(self._constants)
        return made

    def _as(self, name: str, wanted: int) -> str:
        """The tensor in the wanted type: itself, its twin, or a Cast of it."""
        if name in self._stored:
            return name if wanted == _FLOAT else self._stored_half(name)
        if wanted == _HALF and name in self._both:
            return self._name(name, _HALF)
        if (wanted == _HALF) == (name in self._half):
            return name
        if (name, wanted) not in self._casts:
            self._casts[name, wanted] = self._name(name, wanted)
            self._nodes.append(_cast(name, self._name(name, wanted), wanted))
        return self._casts[name, wanted]

    def _stored_half(self, name: str) -> str:
        from onnx import numpy_helper

        if (name, _HALF) not in self._casts:
            twin = self._casts[name, _HALF] = self._name(name, _HALF)
            values = numpy_helper.to_array(self._stored[name]).astype(np.float16)
            self._constants.append(numpy_helper.from_array(values, twin))
        return self._casts[name, _HALF]

    def _name(self, tensor: str, kind: int) -> str:
        made = f"{tensor}/{'half' if kind == _HALF else 'float'}"
        if made in self._taken:
            raise ModelError(
                f"the network has a tensor '{made}', the name of the float16 twin of another.",
                next_step="Rename it, and export the network again.",
            )
        return made

    def _halved(self, node: Any) -> _Ports:
        """What of a node becomes float16: all that ONNX allows to be, or nothing."""
        kept = node.op_type in KEPT or node.name in self._floats
        if kept or node.domain not in onnx_file.STANDARD_DOMAINS or onnx_file.subgraphs(node):
            return _Ports()
        schema = _schema(node, self._opset)
        inputs = [i for i, name in enumerate(node.input) if name and self._may(schema, schema.inputs, i, name)]
        outputs = [i for i, name in enumerate(node.output) if name and self._may(schema, schema.outputs, i, name)]
        # What makes no floats, as a comparison, needs all digits that there are.
        if not inputs or not outputs or not all(self._fits(node.input[i]) for i in inputs):
            return _Ports()
        return _Ports(inputs=tuple(inputs), outputs=tuple(outputs))

    def _may(self, schema: Any, formals: Any, index: int, name: str) -> bool:
        """Whether ONNX allows float16 at this place of an op, and float32 is there now."""
        if self._types.get(name) != _FLOAT:
            return False
        formal = formals[min(index, len(formals) - 1)]  # the last one may stand for many
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        return "tensor(float16)" in allowed.get(formal.type_str, ())

    def _fits(self, name: str) -> bool:
        """Whether a stored tensor has no number that float16 lacks; one that is computed is taken to."""
        from onnx import numpy_helper

        if name not in self._stored:
            return True
        values = numpy_helper.to_array(self._stored[name])
        return bool(np.all(np.abs(values[np.isfinite(values)]) <= LARGEST))


def _schema(node: Any, opset: int) -> Any:
    import onnx

    return onnx.defs.get_schema(node.op_type, max_inclusive_version=opset, domain="")


def _element_types(proto: Any) -> dict[str, int]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    found.update((tensor.name, int(tensor.data_type)) for tensor in proto.graph.initializer)
    return found


def _captured(proto: Any) -> Iterator[str]:
    """Names that graphs inside nodes read, their own among them."""
    waiting = [graph for node in proto.graph.node for graph in onnx_file.subgraphs(node)]
    while waiting:
        graph = waiting.pop()
        yield from (value.name for value in graph.output)
        for node in graph.node:
            yield from node.input
            waiting += onnx_file.subgraphs(node)


def _cast(source: str, made: str, kind: int) -> Any:
    from onnx import helper

    return helper.make_node("Cast", [source], [made], name=f"{made}/cast", to=kind)
