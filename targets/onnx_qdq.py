"""A plan as `.onnx` for ONNX Runtime's CPU provider: QuantizeLinear/DequantizeLinear pairs with the plan's numbers.

ONNX Runtime turns DequantizeLinear -> op -> QuantizeLinear into integer kernels when it loads the file; which, says
`targets.onnx_qdq_rules`; what tensors are called, `targets.onnx_qdq_file`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calibration import affine
from edgesmith.errors import InternalError
from edgesmith.types import Deviation, QuantParams
from targets import onnx_qdq_rules as rules
from targets.onnx_qdq_file import DEQUANTIZED, QUANTIZED, QdqFile
from targets.onnx_qdq_rules import Activations
from targets.plan_files import Planned
from targets.plan_ops import PlanOp


def lower(
    planned: Planned, *, activations: Activations, reduce_range: bool = False, float_io: bool = True
) -> tuple[Any, tuple[Deviation, ...]]:
    """Writes a plan down for ONNX Runtime's CPU provider.

    Args:
        planned: the plan.
        activations: type of 8-bit activations: uint8 for x86-64, int8 for ARM. The grids are the same.
        reduce_range: weights of 7 bits, for x86-64 without VNNI, where products of 8 bits saturate.
        float_io: inputs and outputs stay float32; else those that the plan quantizes are integers.

    Returns:
        The `onnx.ModelProto`, equal bytes for equal plans, and where it does not follow the plan.

    Raises:
        ModelError: int16 or int4 is planned, and the graph cannot be brought to the opset that has them.
    """
    writer = _Writer(planned, activations, reduce_range=reduce_range, float_io=float_io)
    return writer.write(), tuple(writer.deviations)


class _Writer:
    """Writes op by op."""

    def __init__(self, planned: Planned, activations: Activations, *, reduce_range: bool, float_io: bool) -> None:
        self._planned, self._graph, self._reduce_range = planned, planned.graph, reduce_range
        self._plans = {op.name: op for op in planned.plan.ops}
        self._file = QdqFile(planned, activations, float_io=float_io)
        self._rows: dict[str, str] = {}
        self.deviations: list[Deviation] = []

    def write(self) -> Any:
        """The finished file."""
        file = self._file
        for op in self._graph.ops:
            if file.is_quantized(op):
                self._write(op)
            else:
                self._keep_weight_float(op)
                self._write_float([file.node(name) for name in op.nodes])
        self._write_float(file.others({name for op in self._graph.ops for name in op.nodes}))
        return file.finished()

    def _write_float(self, nodes: list[Any]) -> None:
        for node in nodes:
            node.input[:] = [self._file.seen_by_float(name) for name in node.input]
        self._file.keep(*nodes)

    def _keep_weight_float(self, op: PlanOp) -> None:
        """Puts the bias of a float op behind a DequantizeLinear: 1 or -1 on scales |bias|, which is exactly itself.

        ONNX Runtime's WeightBiasQuantization otherwise rounds the kernel of a float Conv, ConvTranspose or Gemm to int8
        by itself, with one scale for all channels: since 1.22 where it stands between DequantizeLinear and
        QuantizeLinear, in 1.21 wherever it reads dequantized values. An op whose bias is no initializer it leaves
        alone (tried: 1.21, 1.22, 1.23, 1.26, 1.31).
        """
        file, node = self._file, self._file.node(op.main)
        if op.kind not in ("Conv", "ConvTranspose", "Gemm") or op.weight is None or op.bias is None:
            return
        if file.seen_by_float(op.inputs[0]) == op.inputs[0]:
            return
        bias = file.constants[op.bias]
        scale = np.where(bias == 0, np.float32(1), np.abs(bias))
        params = QuantParams(
            scale=tuple(scale.tolist()), zero_point=(0,) * bias.size, axis=0, dtype="int8", symmetric=True
        )
        node.input[2] = file.dequantized_constant(op.bias, np.sign(bias).astype(np.int8), params)

    def _write(self, op: PlanOp) -> None:
        file = self._file
        if missing := [name for name in (*op.inputs, op.output) if name not in file.grids]:
            raise InternalError(f"op {op.name} is planned as integers, and {', '.join(missing)} has no grid.")
        nodes = [file.node(name) for name in op.nodes]
        grid = file.grids[op.output]
        bits = {file.grids[name].bits for name in (*op.inputs, op.output)}
        clamp = ""
        if op.activation and grid.bits == 8:
            nodes = nodes[:-1]
            clamp = "" if rules.saturates_as(op.activation, grid) else op.activation
        if bits == {8} and self._write_otherwise(op, clamp):
            return
        if why := rules.why_in_float(op, self._plans[op.name], file.node(op.main), bits):
            self._deviate(op, op.output, "computed in float32 between its planned integers", why)
        if op.kind == "Relu" and rules.saturates_as("relu", grid):
            self._quantize(op, file.seen_by_quantized(op.inputs[0]), clamp)
            return
        weight = self._weight(op)
        inside = {name for node in nodes for name in node.output}
        for node in nodes:
            node.input[:] = [
                weight.get(name) or (name if name in inside else file.seen_by_quantized(name)) for name in node.input
            ]
        nodes[-1].output[0] = file.raw(op.output)
        file.keep(*nodes)
        self._quantize(op, file.raw(op.output), clamp)

    def _deviate(self, op: PlanOp, tensor: str, what: str, why: str) -> None:
        self.deviations.append(Deviation(layer=op.layer, tensor=tensor, what=what, why=why))

    def _quantize(
        self, op: PlanOp, source: str, clamp: str, then: str = "", second: str = "", **attributes: Any
    ) -> None:
        """QuantizeLinear, then what is done on the integers: the clamp of a ReLU that the grid does not do, a reshape.

        A ReLU in front of QuantizeLinear would keep the runtime from computing the op before it on integers. Rounding
        is monotone, so that clamping the integers gives the same.

        Args:
            op: the op.
            source: its float output.
            clamp: "relu", "relu6" or "".
            then: kind of a node that only moves integers: "Reshape", "Flatten".
            second: its second input.
            attributes: of it.
        """
        file, grid = self._file, self._file.grids[op.output]
        steps = [step for step in ("Clip" if clamp else "", then) if step]
        names = [*(f"{op.output}{QUANTIZED}/before_{step}" for step in steps), file.made_integer(op.output)]
        file.add("QuantizeLinear", [source, *file.grid(op.output)], names[0])
        for step, before, after in zip(steps, names[:-1], names[1:], strict=True):
            if step == "Clip":
                ends = [file.constant(f"{op.output}_low", grid.integer(0.0))]
                if clamp == "relu6":
                    ends.append(file.constant(f"{op.output}_high", grid.integer(6.0)))
                file.add("Clip", [before, *ends], after)
            else:
                file.add(step, [before, *([second] if second else [])], after, **attributes)

    def _weight(self, op: PlanOp) -> dict[str, str]:
        """Writes kernel and bias; by what their float tensors were called, what they are called now."""
        if op.weight is None:
            return {}
        grid = self._plans[op.name].weights
        if grid is None:
            raise InternalError(f"op {op.name} is planned as integers, and its weight has no grid.")
        integers = self._planned.integers[op.name]
        if self._reduce_range and grid.dtype == "int8":
            integers, grid = rules.seven_bits(self._graph.constants[op.weight], integers, grid)
            what = f"weights -63..63 instead of -127..127, scales {127 / rules.REDUCED_MAX:.3f} times as large"
            self._deviate(op, op.weight, what, "x86-64 without VNNI adds two products in 16 bits, which saturate")
        names = {op.weight: self._file.dequantized_constant(op.weight, integers, grid)}
        if op.bias is not None:
            bias = self._graph.constants[op.bias]
            x_scale = float(self._file.grids[op.inputs[0]].scale) * self._alpha(op)
            steps = affine.int32_bias(bias, x_scale, grid.scale)
            scale = np.broadcast_to(affine.bias_scale(x_scale, grid.scale), bias.shape)
            params = QuantParams(
                scale=tuple(scale.tolist()), zero_point=(0,) * scale.size, axis=0, dtype="int32", symmetric=True
            )
            names[op.bias] = self._file.dequantized_constant(op.bias, steps, params)
        return names

    def _alpha(self, op: PlanOp) -> float:
        """ONNX Runtime's QGemm takes its bias on the scale of alpha * input * weight."""
        attributes = self._file.node(op.main).attribute if op.kind == "Gemm" else ()
        return next((float(a.f) for a in attributes if a.name == "alpha"), 1.0)

    # Spellings that have an integer kernel, for some that have none. All activations have 8 bits here.

    def _write_otherwise(self, op: PlanOp, clamp: str) -> bool:
        """Writes an op in a spelling of its own; False where it has none."""
        if op.kind == "MatMul" and op.bias is not None:
            return self._product_of_rows(op, clamp)
        if op.kind == "ReduceMean":
            return self._pooled_mean(op)
        return op.kind == "Pad" and self._padded(op)

    def _product_of_rows(self, op: PlanOp, clamp: str) -> bool:
        """[..., K] x [K, C] + bias as one Gemm between two reshapes: MatMul has no integer kernel with a bias."""
        file, (source,) = self._file, op.inputs
        shape = file.shapes.get(op.output)
        kernel, bias = op.weight or "", op.bias or ""
        if shape is None or sum(dim is None for dim in shape) > 1 or file.constants[kernel].ndim != 2:
            return False
        if source not in self._rows:
            self._rows[source] = f"{source}{DEQUANTIZED}/rows"
            rows = file.constant(f"{source}_rows", np.array([-1, len(file.constants[kernel])], np.int64))
            file.add("Reshape", [file.integer(source), rows], f"{source}{QUANTIZED}/rows")
            file.add("DequantizeLinear", [f"{source}{QUANTIZED}/rows", *file.grid(source)], self._rows[source])
        names = self._weight(op)
        file.add("Gemm", [self._rows[source], names[kernel], names[bias]], f"{op.output}/rows", name=op.main)
        full = file.constant(f"{op.output}_shape", np.array([-1 if dim is None else dim for dim in shape], np.int64))
        self._quantize(op, f"{op.output}/rows", clamp, "Reshape", full)
        return True

    def _pooled_mean(self, op: PlanOp) -> bool:
        """The mean over all spatial axes as GlobalAveragePool."""
        file, node = self._file, self._file.node(op.main)
        shape = file.shapes.get(op.inputs[0])
        attributes = {a.name: a for a in node.attribute}
        axes = list(attributes["axes"].ints) if "axes" in attributes else []
        if len(node.input) > 1 and node.input[1] in file.constants:
            axes = file.constants[node.input[1]].tolist()
        if shape is None or len(shape) < 3 or sorted(axis % len(shape) for axis in axes) != list(range(2, len(shape))):
            return False
        keeps = "keepdims" not in attributes or bool(attributes["keepdims"].i)
        file.add("GlobalAveragePool", [file.dequantized(op.inputs[0])], f"{op.output}/pooled", name=op.main)
        if keeps:
            self._quantize(op, f"{op.output}/pooled", "")
        else:
            self._quantize(op, f"{op.output}/pooled", "", "Flatten", axis=1)
        return True

    def _padded(self, op: PlanOp) -> bool:
        """Padding with zeros on the integers, whose zero is the zero point."""
        file, node, (source,) = self._file, self._file.node(op.main), op.inputs
        constant = all(a.s == b"constant" for a in node.attribute if a.name == "mode")
        filler = file.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
        if not constant or filler is None or np.any(filler):
            return False
        if file.grids[source].params != file.grids[op.output].params:
            return False
        _, zero_point = file.grid(op.output)
        inputs = [file.integer(source), node.input[1], zero_point, *node.input[3:]]
        file.add("Pad", inputs, file.made_integer(op.output), name=op.main)
        return True
