"""The `.onnx` that a plan is written into: what each tensor is called there, its nodes, its constants.

What the plan calls tensor `t` is the integer tensor `t_QuantizeLinear_Output`, or `t` itself where it is an input or
output of integers; float readers see `t_DequantizeLinear_Output`, or the output `t`.
Op semantics: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ModelError
from edgesmith.types import QuantParams
from targets import onnx_file, onnx_order, plan_normalise
from targets.onnx_qdq_rules import Activations, stored
from targets.plan_files import Planned
from targets.plan_ops import PlanOp

QUANTIZED = "_QuantizeLinear_Output"
DEQUANTIZED = "_DequantizeLinear_Output"
_UNQUANTIZED = "_QuantizeLinear_Input"
"""As ONNX Runtime's own quantizer names the three, so that whoever reads both kinds of file knows one rule."""

WIDE_OPSET = 21
"""The first whose QuantizeLinear knows int16 and whose Cast knows int4; ONNX Runtime runs the first since 1.21 at
latest, the second since 1.23."""

_WIDE_IR = 10
"""The file format that goes with it."""


class QdqFile:
    """A file being written. Nodes come in any order: `finished` sorts them, and drops what nobody reads.

    Attributes:
        grids: of the plan's quantized tensors, by name.
        constants: the float network's own, by name.
        shapes: of its tensors whose rank is known; None for an open dimension.
    """

    def __init__(self, planned: Planned, activations: Activations, *, float_io: bool) -> None:
        from onnx import numpy_helper

        self._graph, self._float_io = planned.graph, float_io
        self._quantized_ops = {op.name for op in planned.plan.ops if op.precision != "float32"}
        self.grids = {t.name: stored(t.params, activations) for t in planned.plan.tensors if t.params is not None}
        wide = any(op.precision in ("int16", "int4") for op in planned.plan.ops)
        self._proto = _at_opset(self._graph.proto, WIDE_OPSET) if wide else _copy(self._graph.proto)
        self._source = {node.name: _copy(node) for node in self._proto.graph.node}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._proto.graph.initializer}
        self.shapes = _shapes(self._proto)
        self._taken = set(self.constants)
        self._nodes: list[Any] = []
        self._integers: dict[str, str] = {}
        self._floats: dict[str, str] = {}

    def finished(self) -> Any:
        """The `onnx.ModelProto`: equal bytes for equal plans."""
        from onnx import helper

        for name in self._graph.outputs:
            if self._float_io and self._made_of_integers(name):
                self.add("DequantizeLinear", [self.integer(name), *self.grid(name)], name)
        for value in () if self._float_io else (*self._proto.graph.input, *self._proto.graph.output):
            if self._made_of_integers(value.name):
                dtype = self.grids[value.name].zero_point.dtype
                value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtype)
        del self._proto.graph.node[:]
        self._proto.graph.node.extend(self._nodes)
        onnx_order.normalise(self._proto)
        onnx_file.tidy(self._proto)
        return self._proto

    # What a tensor is called, by who reads it.

    def is_quantized(self, op: PlanOp | None) -> bool:
        """Whether an op is planned to compute with integers; not for a network input, which is no op."""
        return op is not None and op.name in self._quantized_ops

    def _made_of_integers(self, name: str) -> bool:
        """Whether the integers come first, and the float values are made from them."""
        if name not in self.grids:
            return False
        return self.is_quantized(self._graph.producer(name)) or (name in self._graph.inputs and not self._float_io)

    def raw(self, name: str) -> str:
        """The float tensor before it is quantized."""
        return f"{name}{_UNQUANTIZED}" if name in self._graph.outputs and self._made_of_integers(name) else name

    def seen_by_float(self, name: str) -> str:
        """What a float op reads: float values as they are, where a float op or the outside made them."""
        return self.dequantized(name) if self._made_of_integers(name) else name

    def seen_by_quantized(self, name: str) -> str:
        """What a quantized op reads."""
        return self.dequantized(name) if name in self.grids else name

    def integer_name(self, name: str) -> str:
        """What the integer tensor is called."""
        outside = name in self._graph.inputs or (name in self._graph.outputs and self._made_of_integers(name))
        return name if outside and not self._float_io else f"{name}{QUANTIZED}"

    def integer(self, name: str) -> str:
        """The integer tensor; quantized here, unless `made_integer` was told of it."""
        if name not in self._integers:
            self._integers[name] = made = self.integer_name(name)
            if made != name:
                self.add("QuantizeLinear", [self.raw(name), *self.grid(name)], made)
        return self._integers[name]

    def made_integer(self, name: str) -> str:
        """Says that the caller writes the integer tensor, and gives its name."""
        self._integers[name] = self.integer_name(name)
        return self._integers[name]

    def dequantized(self, name: str) -> str:
        """The float values of the integers; one DequantizeLinear for all readers, which the runtime multiplies."""
        if name not in self._floats:
            self._floats[name] = f"{name}{DEQUANTIZED}"
            self.add("DequantizeLinear", [self.integer(name), *self.grid(name)], self._floats[name])
        return self._floats[name]

    # Nodes and constants.

    def node(self, name: str) -> Any:
        """A node of the float network, to be changed and given to `keep`."""
        return self._source[name]

    def others(self, names: set[str]) -> list[Any]:
        """Nodes of the float network besides these: what computes shapes."""
        return [node for name, node in self._source.items() if name not in names]

    def keep(self, *nodes: Any) -> None:
        """Puts nodes into the file."""
        self._nodes.extend(nodes)

    def add(self, kind: str, inputs: Sequence[str], output: str, *, name: str = "", **attributes: Any) -> None:
        """Makes a node."""
        from onnx import helper

        self.keep(helper.make_node(kind, inputs, [output], name=name or f"{output}/{kind}", **attributes))

    def constant(self, name: str, values: NDArray[Any], *, four_bits: bool = False) -> str:
        """Stores a tensor under a name, or one like it where that is taken; tells which. Equal ones are merged."""
        from onnx import TensorProto, helper, numpy_helper

        while name in self._taken:
            name += "~"
        self._taken.add(name)
        if four_bits:
            made = helper.make_tensor(name, TensorProto.INT4, values.shape, values.ravel().tolist())
        else:
            made = numpy_helper.from_array(np.asarray(values, order="C"), name)
        self._proto.graph.initializer.append(made)
        return name

    def grid(self, name: str) -> tuple[str, str]:
        """Scale and zero point of an activation."""
        grid = self.grids[name]
        return self.constant(f"{name}_scale", grid.scale), self.constant(f"{name}_zero_point", grid.zero_point)

    def dequantized_constant(self, name: str, integers: NDArray[Any], grid: QuantParams) -> str:
        """Integer weights or biases with their DequantizeLinear; the float tensor.

        Int4 is stored in 4 bits and cast once, when the file is loaded: the runtime's kernels take int8, and an int4
        DequantizeLinear in front of a Conv would make a float Conv of it.
        """
        from onnx import TensorProto

        four_bits = grid.dtype == "int4"
        given = self.constant(f"{name}_quantized", integers, four_bits=four_bits)
        if four_bits:
            self.add("Cast", [given], f"{given}/int8", to=TensorProto.INT8)
            given = f"{given}/int8"
        shape = () if grid.axis is None else (-1,)
        scale = self.constant(f"{name}_scale", np.array(grid.scale, np.float32).reshape(shape))
        zero = self.constant(f"{name}_zero_point", np.array(grid.zero_point, integers.dtype).reshape(shape))
        axis: dict[str, Any] = {} if grid.axis is None else {"axis": grid.axis}
        self.add("DequantizeLinear", [given, scale, zero], f"{given}{DEQUANTIZED}", **axis)
        return f"{given}{DEQUANTIZED}"


def _copy(message: Any) -> Any:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def _shapes(proto: Any) -> dict[str, tuple[int | None, ...]]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto).graph
    shapes = {
        value.name: value.type.tensor_type.shape
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
    return {
        name: tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in shape.dim)
        for name, shape in shapes.items()
    }


def _at_opset(proto: Any, wanted: int) -> Any:
    """A copy in a later operator set; the names of its nodes stay."""
    import onnx

    current = onnx_file.opset(proto)
    if current >= wanted:
        return _copy(proto)
    try:
        converted = onnx.version_converter.convert_version(proto, wanted)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:
        raise _stuck(current, wanted, " ".join(str(error).split())[:300]) from error
    converted.ir_version = max(proto.ir_version, _WIDE_IR)
    plan_normalise.constants_to_initializers(converted)
    names = [node.name for node in proto.graph.node]
    if missing := set(names) - {node.name for node in converted.graph.node}:
        raise _stuck(current, wanted, f"{', '.join(sorted(missing))} would be spelt in other nodes")
    return converted


def _stuck(current: int, wanted: int, why: str) -> ModelError:
    return ModelError(
        f"the network has opset {current} and cannot be brought to {wanted}, which int16 and int4 need: {why}.",
        next_step="Choose scheme 'int8', or export the network again with a later opset.",
    )
