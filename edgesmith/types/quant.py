"""The plan of a quantization: decided once, lowered to every runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["int8", "int16", "int4", "float32"]
"""Of an op: int8 is int8 activations and weights; int16 is int16 activations and int8 weights; int4 is int8 activations
and int4 weights; float32 is an op that is not quantized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantParams:
    """An affine grid: real = scale * (integer - zero_point). LiteRT quantization spec; ONNX QuantizeLinear.

    Attributes:
        scale: float32 values, one per tensor or one per index of `axis`; each > 0 and finite.
        zero_point: as many; all 0 where symmetric.
        axis: of the tensor in the plan graph's layout; None: one scale for the tensor.
        dtype: numpy name, or "int4".
        symmetric: integers are restricted to -max..max (weights: -127..127), zero_point 0.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None
    dtype: Literal["int4", "int8", "int16", "int32"]
    symmetric: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """What becomes of one activation: an input of the network, or the output of an op after its fused activation.

    Attributes:
        name: in the plan graph.
        layer: the user's own layer that computes it, or the input's name.
        params: None where it stays float32.
        low: lower end of the range that was decided; None where it stays float32.
        high: upper end.
        observer: that decided it: "minmax", "percentile-99.99", "entropy", "mse", "moving-average", "fixed" (softmax),
            "shared" (it must have the scale of another tensor).
        reason: why it stays float32, or whose scale it shares; empty where there is nothing to explain.
    """

    name: str
    layer: str
    params: QuantParams | None
    low: float | None = None
    high: float | None = None
    observer: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpPlan:
    """What becomes of one op.

    Attributes:
        name: in the plan graph.
        layer: the user's own layer it belongs to.
        kind: ONNX op type of its main node: "Conv", "MatMul", "Add", ...
        precision: "float32" where it is not quantized.
        weights: grid of its constant weight; None where it has none or stays float32.
        reason: why it is not of the scheme's own precision: "the user's keep_float", "no int8 kernel for Erf",
            "costs 1.8 pp of accuracy"; else empty.
    """

    name: str
    layer: str
    kind: str
    precision: Precision
    weights: QuantParams | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantPlan:
    """Ranges, integers and exceptions, decided once; every artifact of a model follows it.

    The numbers that are too many for a record lie beside it in the plan's folder: `graph.onnx`, the float network
    after the repairs, and `integers.npz`, the integer weights of each quantized op by op name.

    Attributes:
        model_sha256: of the `Model` it was made for.
        calibration_sha256: of the samples.
        ops: in the order they are computed.
        tensors: activations, in the order they are computed; network inputs first.
        repairs: what was done to the float network before rounding, one sentence each.
        settings: the technique's parameters it was made with, as plain JSON values.
        figures: what was measured while making it: {"output_sqnr_db": ...}, plain JSON values.
    """

    model_sha256: str
    calibration_sha256: str
    ops: tuple[OpPlan, ...]
    tensors: tuple[TensorPlan, ...]
    repairs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def tensor(self, name: str) -> TensorPlan | None:
        """The plan of a tensor; None where it has none."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def op(self, name: str) -> OpPlan:
        """The plan of an op, by its name in the plan graph."""
        return next(op for op in self.ops if op.name == name)

    @property
    def kept_float(self) -> tuple[str, ...]:
        """The user's layers with an op that could have been quantized and was not, in order, once each."""
        return tuple(dict.fromkeys(op.layer for op in self.ops if op.precision == "float32" and op.reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Where an artifact does not follow the plan.

    Attributes:
        layer: the user's own layer.
        tensor: in the plan graph.
        what: what the artifact has instead: "symmetric, scale 0.031 instead of 0.0157".
        why: the runtime's rule.
    """

    layer: str
    tensor: str
    what: str
    why: str
