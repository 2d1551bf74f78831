"""What ONNX Runtime's CPU provider computes on integers, and how a plan's grids are stored in `.onnx`.

The list is that of ONNX Runtime's selectors (core/optimizer/qdq_transformer/selectors_actions), each tried on release
1.31: DequantizeLinear -> op -> QuantizeLinear becomes one integer kernel for these, and is computed in float32 between
the two for all others. The integers that it reads and writes are the planned ones either way.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration import affine
from edgesmith.errors import InternalError
from edgesmith.types import OpPlan, QuantParams
from targets.plan_ops import PlanOp

Activations = Literal["uint8", "int8"]
"""How 8-bit activations are stored. The grid is the same: uint8 has its zero point 128 higher."""

INTEGER_KERNELS = frozenset(
    {
        *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat"),
        *("AveragePool", "GlobalAveragePool", "MaxPool", "Softmax", "Sigmoid", "LeakyRelu"),
    }
)
"""Kinds of ops with an integer kernel for 8-bit activations, whatever their attributes."""

MOVES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"})
"""Kinds that copy integers of 8 or 16 bits: they need no numbers."""

REDUCED_MAX = 63
"""Weights of 7 bits: two products of uint8 and int7 fit the int16 that x86-64 without VNNI adds them in."""

_ONE_VALUE = 1e-3
"""Steps: how far weights that are one value may be apart in float32."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """The grid of an activation as `.onnx` has it.

    Attributes:
        params: of the plan.
        scale: float32 [].
        zero_point: [], of the integers' own type.
    """

    params: QuantParams
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]

    @property
    def bits(self) -> int:
        """Of one integer."""
        return int(self.zero_point.dtype.itemsize) * 8

    def integer(self, value: float) -> NDArray[Any]:
        """The integer nearest to a real value, [], of the integers' own type."""
        nearest = affine.quantize(np.array(value, np.float32), self.params)
        shift = int(self.zero_point) - self.params.zero_point[0]
        return (nearest.astype(np.int32) + shift).astype(self.zero_point.dtype)


def stored(params: QuantParams, activations: Activations) -> Stored:
    """The grid of an activation.

    Args:
        params: per tensor; int8 or int16.
        activations: the type that int8 becomes.
    """
    if params.dtype not in ("int8", "int16") or params.axis is not None:
        raise InternalError(f"an activation cannot have a grid of {params.dtype} along axis {params.axis}.")
    unsigned = params.dtype == "int8" and activations == "uint8"
    (zero_point,) = affine.uint8_zero_point(params) if unsigned else params.zero_point
    return Stored(
        params=params,
        scale=np.array(params.scale[0], np.float32),
        zero_point=np.array(zero_point, "uint8" if unsigned else params.dtype),
    )


def saturates_as(activation: str, grid: Stored) -> bool:
    """Whether storing on a grid does what a ReLU or ReLU6 does, so that the node can go.

    The grid has to end at 0 below, and at 6 or less above; one float32 rounding is allowed for the 6.
    """
    info = np.iinfo(grid.zero_point.dtype)
    if int(grid.zero_point) != info.min:
        return False
    return activation == "relu" or float(grid.scale) * (info.max - info.min) <= 6.0 * (1 + 1e-6)


def why_in_float(op: PlanOp, plan: OpPlan, node: Any, bits: Set[int]) -> str:
    """Why the runtime computes a quantized op in float32 between its planned integers; empty where it does not.

    Args:
        op: the op.
        plan: of it.
        node: its main node.
        bits: of the activations that it reads and writes.
    """
    if op.kind in MOVES and len(bits) == 1:
        return ""
    if plan.precision == "int16" or bits != {8}:
        return "ONNX Runtime's CPU provider has no kernels with 16-bit activations"
    if op.kind == "Resize":
        nearest = all(a.s == b"nearest" for a in node.attribute if a.name == "mode")
        return "" if nearest else "ONNX Runtime's CPU provider resizes integers only to the nearest"
    if op.kind not in INTEGER_KERNELS:
        return f"ONNX Runtime's CPU provider has no integer kernel for {op.kind}"
    if op.kind in ("Add", "Mul", "Concat", "MatMul") and op.weight is None and len(op.inputs) < len(set(node.input)):
        return f"{op.kind} with a constant that the plan has no grid for"
    return ""


def seven_bits(
    weight: NDArray[np.float32], integers: NDArray[np.int8], grid: QuantParams
) -> tuple[NDArray[np.int8], QuantParams]:
    """Weights rounded to -63..63 from the float values; the range of each scale stays.

    Zeros stay zeros. Where all weights of one integer of the plan are one value, but for the rounding of float32, they
    become one integer here as well.

    Args:
        weight: float32, plan graph's layout.
        integers: the plan's -127..127, same shape.
        grid: symmetric int8, of the plan.

    Returns:
        int8 of the same shape, and their grid.
    """
    scale = np.array(grid.scale, np.float32) * np.float32(127 / REDUCED_MAX)
    params = QuantParams(
        scale=tuple(scale.tolist()), zero_point=grid.zero_point, axis=grid.axis, dtype="int8", symmetric=True
    )
    shape = [1] * weight.ndim
    if grid.axis is not None:
        shape[grid.axis] = -1
    steps = weight / scale.reshape(shape)
    sizes, groups = np.abs(steps).ravel(), np.abs(integers.ravel().astype(np.int64))
    low, high = np.full(128, np.inf, np.float32), np.full(128, -np.inf, np.float32)
    np.minimum.at(low, groups, sizes)
    np.maximum.at(high, groups, sizes)
    with np.errstate(invalid="ignore"):  # integers that the plan does not use
        middle, one = (low + high) / 2, high - low <= _ONE_VALUE
    sizes = np.where(one[groups], middle[groups], sizes)
    reduced = np.copysign(np.minimum(np.rint(sizes), REDUCED_MAX), steps.ravel())
    return reduced.reshape(weight.shape).astype(np.int8), params
