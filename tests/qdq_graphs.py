"""Small Q/DQ graphs by hand, sound ones and each with one thing wrong, and what NVIDIA's parser says to them.

`targets.tensorrt_rules` is held to them, and the parser itself is asked again (tests/conformance/test_tensorrt_rtx.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from targets.tensorrt_rules import Rule

C = 32
"""Channels everywhere."""

SCALE, ZERO = np.float32(0.02), np.int8(0)


class Graph:
    """Collects nodes and constants; every method answers with the name of the tensor it made."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.stored: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def pair(
        self,
        x: str,
        *,
        scale: Any = SCALE,
        zero: Any = ZERO,
        axis: int | None = None,
        domain: str = "",
    ) -> str:
        """x -> QuantizeLinear -> DequantizeLinear. `zero` None leaves that input out."""
        more = {} if axis is None else {"axis": axis}
        scale_and_zero = [self.constant(f"{x}_scale", scale)]
        if zero is not None:
            scale_and_zero.append(self.constant(f"{x}_zero", np.broadcast_to(zero, np.shape(scale))))
        q = self.node("QuantizeLinear", [x, *scale_and_zero], f"{x}_Q", domain=domain, **more)
        return self.node("DequantizeLinear", [q, *scale_and_zero], f"{x}_DQ", domain=domain, **more)

    def weight(self, name: str, shape: Sequence[int], axis: int | None, **changes: Any) -> str:
        """Float weights behind a pair, with one scale for each index of `axis`."""
        values = self.values(name, shape)
        others = tuple(i for i in range(len(shape)) if i != axis)
        scale = (np.abs(values).max(axis=others if axis is not None else None) / 127).astype(np.float32)
        return self.pair(name, **{"scale": scale, "axis": axis, **changes})

    def values(self, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        """A float constant of that name."""
        made: NDArray[np.float32] = (self.random.normal(size=shape) * 0.1).astype(np.float32)
        self.constant(name, made)
        return made

    def integers(self, name: str, shape: Sequence[int], *, dtype: Any = np.int8, scale: Any, zero: Any) -> str:
        """Integer weights behind a DequantizeLinear."""
        low, high = (1, 200) if dtype == np.uint8 else (-99, 99)
        stored = self.constant(name, self.random.integers(low, high, size=shape).astype(dtype))
        inputs = [stored, self.constant(f"{name}_scale", scale)]
        inputs += [] if zero is None else [self.constant(f"{name}_zero", np.broadcast_to(dtype(zero), np.shape(scale)))]
        return self.node("DequantizeLinear", inputs, f"{name}_DQ", **({"axis": 0} if np.ndim(scale) else {}))

    def bias(self, name: str) -> str:
        self.values(name, (C,))
        return name

    def conv(self, x: str, name: str, weight: str | None = None, bias: str | None = None, kernel: int = 3) -> str:
        weight = weight or self.weight(f"{name}_w", (C, C, kernel, kernel), 0)
        pads = [kernel // 2] * 4
        return self.node("Conv", [x, weight, bias or self.bias(f"{name}_b")], name, pads=pads)

    def model(self, output: str, *, opset: int = 17, batch: int | str = 1, shape: Sequence[int] = (C, 8, 8)) -> Any:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.stored)
        domains = sorted({node.domain for node in self.nodes} - {""})
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def conv(
    *,
    activation: dict[str, Any] | None = None,
    weight: dict[str, Any] | None = None,
    opset: int = 17,
    batch: int | str = 1,
) -> Any:
    """x -> Q/DQ -> Conv "conv" with quantized weights -> Relu; its two pairs may be told otherwise."""
    g = Graph()
    w = g.weight("w", (C, C, 3, 3), **{"axis": 0, **(weight or {})})
    g.conv(g.pair("x", **(activation or {})), "conv", w)
    return g.model(g.node("Relu", ["conv"], "relu"), opset=opset, batch=batch)


def int8_weights(dtype: Any = np.int8, zero: int | None = 0) -> Any:
    g = Graph()
    w = g.integers("w", (C, C, 3, 3), dtype=dtype, scale=np.full(C, 0.01, np.float32), zero=zero)
    return g.model(g.conv(g.pair("x"), "conv", w))


def int32_bias(*, quantized: bool) -> Any:
    g = Graph()
    b = g.integers("b", (C,), dtype=np.int32, scale=np.full(C, 2e-4, np.float32), zero=0) if quantized else None
    return g.model(g.conv(g.pair("x"), "conv", bias=b))


def transposed(axis: int) -> Any:
    """ConvTranspose: weights are [in, out, h, w]."""
    g = Graph()
    w = g.weight("w", (C, C, 2, 2), axis)
    return g.model(g.node("ConvTranspose", [g.pair("x"), w, g.bias("b")], "conv", strides=[2, 2]))


def gemm(axis: int, *, transposed: bool) -> Any:
    """Gemm: weights are [out, in] where they are transposed, else [in, out]."""
    g = Graph()
    w = g.weight("w", (C, C), axis)
    return g.model(g.node("Gemm", [g.pair("x"), w, g.bias("b")], "conv", transB=int(transposed)), shape=(C,))


def matmul(axis: int | None) -> Any:
    """MatMul over [1, 8, C]."""
    g = Graph()
    return g.model(g.node("MatMul", [g.pair("x"), g.weight("w", (C, C), axis)], "conv"), shape=(8, C))


def attention(*, both: bool) -> Any:
    """MatMul of two activations."""
    g = Graph()
    y = g.node("Tanh", ["x"], "y")
    y = g.node("Transpose", [y], "yt", perm=[0, 2, 1])
    return g.model(g.node("MatMul", [g.pair("x"), g.pair(y) if both else y], "conv"), shape=(8, C))


def half_quantized(which: Literal["x", "w", "both"]) -> Any:
    g = Graph()
    x = g.pair("x") if which != "w" else "x"
    if which == "x":
        g.values("w", (C, C, 3, 3))
    w = g.weight("w", (C, C, 3, 3), 0) if which != "x" else "w"
    return g.model(g.conv(x, "conv", w))


def before_relu(*, between: bool) -> Any:
    """Two convolutions; the pair between them is before or after the Relu."""
    g = Graph()
    x = g.conv(g.pair("x"), "conv")
    x = g.node("Relu", [g.pair(x)], "relu") if between else g.pair(g.node("Relu", [x], "relu"))
    return g.model(g.conv(g.pair(x) if between else x, "conv2"))


def residual(*, both: bool) -> Any:
    """x -> conv -> Relu -> (conv2 + identity) -> Relu -> conv3."""
    g = Graph()
    x = g.pair(g.node("Relu", [g.conv(g.pair("x"), "conv")], "relu"))
    y = g.conv(x, "conv2")
    y = g.node("Add", [g.pair(y) if both else y, x], "add")
    return g.model(g.conv(g.pair(g.node("Relu", [y], "relu2")), "conv3"))


def output(*, quantized: bool) -> Any:
    g = Graph()
    y = g.conv(g.pair("x"), "conv")
    return g.model(g.node("Sigmoid", [g.pair(y) if quantized else y], "sigmoid"))


def integer_op() -> Any:
    g = Graph()
    tensors = [g.constant("one", np.float32(0.02)), g.constant("zero", np.int8(0))]
    x = g.node("QuantizeLinear", ["x", *tensors], "q")
    w = g.constant("w", g.random.integers(-99, 99, size=(C, C, 3, 3)).astype(np.int8))
    y = g.node("QLinearConv", [x, *tensors, w, *tensors, *tensors], "conv", pads=[1] * 4)
    return g.model(g.node("DequantizeLinear", [y, *tensors], "dq"))


def computed_scale() -> Any:
    g = Graph()
    scale = g.node("ReduceMax", ["x"], "scale", keepdims=0)
    zero = g.constant("zero", np.int8(0))
    x = g.node("QuantizeLinear", ["x", scale, zero], "q")
    x = g.node("DequantizeLinear", [x, scale, zero], "dq")
    return g.model(g.conv(x, "conv"))


def float16(opset: int) -> Any:
    """A network in float16 between casts."""
    g = Graph()
    x = g.pair(g.node("Cast", ["x"], "x16", to=TensorProto.FLOAT16), scale=np.float16(0.02))
    g.constant("w", (g.random.normal(size=(C, C, 3, 3)) * 0.1).astype(np.float16))
    w = g.pair("w", scale=np.full(C, 0.003, np.float16), axis=0)
    y = g.conv(x, "conv", w, g.constant("b", np.zeros(C, np.float16)))
    return g.model(g.node("Cast", [y], "y", to=TensorProto.FLOAT), opset=opset)


Says = Literal["int8", "int8, with a warning", "float", "refused", "not built", "crash"]
"""What becomes of node "conv" in TensorRT-RTX 1.7.1: its types in the engine, or what the parser or builder did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A graph with one thing wrong and its twin without.

    Attributes:
        rule: that it breaks.
        says: NVIDIA's parser and builder, to the broken one; recorded.
        says_to_twin: to the other.
        options: of `violations`.
    """

    name: str
    rule: Rule
    broken: Callable[[], Any]
    twin: Callable[[], Any]
    says: Says
    says_to_twin: Says = "int8"
    options: Mapping[str, Any] = field(default_factory=dict)


def _case(name: str, rule: Rule, says: Says, broken: Any, twin: Any = conv, **more: Any) -> Case:
    return Case(name=name, rule=rule, says=says, broken=broken, twin=twin, **more)


_VECTOR = np.full(C, 0.02, np.float32)
_ONE_BAD = [np.r_[np.float32(value), _VECTOR[1:]] for value in (0.0, np.nan)]

CASES: tuple[Case, ...] = (
    _case("opset 18", "opset", "int8", lambda: conv(opset=18)),
    _case("opset 17 on a Nano", "opset", "int8", conv, lambda: conv(opset=13), options={"max_opset": 13}),
    _case("open batch", "open-dimension", "not built", lambda: conv(batch="N")),
    _case("QLinearConv", "integer-op", "refused", integer_op),
    _case("com.microsoft", "foreign-domain", "int8", lambda: conv(activation={"domain": "com.microsoft"})),
    _case("uint8 activations", "uint8", "int8, with a warning", lambda: conv(activation={"zero": np.uint8(0)})),
    _case("uint8 weights, Q+DQ", "uint8", "int8, with a warning", lambda: conv(weight={"zero": np.uint8(0)})),
    _case("uint8 weights", "uint8", "refused", lambda: int8_weights(np.uint8), int8_weights),
    _case("uint8 around 128", "uint8", "refused", lambda: conv(activation={"zero": np.uint8(128)})),
    _case("int32 bias", "int32", "refused", lambda: int32_bias(quantized=True), lambda: int32_bias(quantized=False)),
    _case("int16 activations", "integer-type", "refused", lambda: conv(activation={"zero": np.int16(0)})),
    _case("int16 weights", "integer-type", "refused", lambda: conv(weight={"zero": np.int16(0)})),
    _case("asymmetric activations", "zero-point", "refused", lambda: conv(activation={"zero": np.int8(5)})),
    _case("asymmetric weights", "zero-point", "refused", lambda: conv(weight={"zero": np.int8(1)})),
    _case("asymmetric int8 weights", "zero-point", "refused", lambda: int8_weights(zero=3), int8_weights),
    _case("two inputs", "missing-zero-point", "int8", lambda: conv(activation={"zero": None})),
    _case("two inputs, weights", "missing-zero-point", "int8", lambda: int8_weights(zero=None), int8_weights),
    _case("computed scale", "computed", "crash", computed_scale),
    _case("scale 0", "scale-value", "refused", lambda: conv(activation={"scale": np.float32(0)})),
    _case("scale below 0", "scale-value", "refused", lambda: conv(activation={"scale": np.float32(-0.02)})),
    _case("scale NaN", "scale-value", "refused", lambda: conv(activation={"scale": np.float32(np.nan)})),
    _case("scale infinite", "scale-value", "int8", lambda: conv(activation={"scale": np.float32(np.inf)})),
    _case("one weight scale 0", "scale-value", "refused", lambda: conv(weight={"scale": _ONE_BAD[0]})),
    _case("one weight scale NaN", "scale-value", "refused", lambda: conv(weight={"scale": _ONE_BAD[1]})),
    _case("too few scales", "scale-count", "refused", lambda: conv(weight={"scale": _VECTOR[: C // 2]})),
    _case(
        "float16 scales",
        "float16-scale",
        "int8, with a warning",
        lambda: float16(17),
        lambda: float16(19),
        says_to_twin="int8, with a warning",
        options={"max_opset": 19},
    ),
    _case(
        "per-channel activations", "activation-scales", "float", lambda: conv(activation={"scale": _VECTOR, "axis": 1})
    ),
    _case("vector of one", "activation-scales", "float", lambda: conv(activation={"scale": _VECTOR[:1]})),
    _case("weights in float", "half-quantized", "float", lambda: half_quantized("x"), lambda: half_quantized("both")),
    _case(
        "activations in float", "half-quantized", "float", lambda: half_quantized("w"), lambda: half_quantized("both")
    ),
    _case(
        "one of two activations", "half-quantized", "float", lambda: attention(both=False), lambda: attention(both=True)
    ),
    _case("Conv along inputs", "weight-axis", "float", lambda: conv(weight={"axis": 1})),
    # Its ConvTranspose is never int8, whatever the axis; that of other TensorRTs is (developer guide).
    _case(
        "ConvTranspose along inputs",
        "weight-axis",
        "float",
        lambda: transposed(0),
        lambda: transposed(1),
        says_to_twin="float",
    ),
    _case(
        "Gemm along inputs",
        "weight-axis",
        "float",
        lambda: gemm(0, transposed=False),
        lambda: gemm(1, transposed=False),
    ),
    _case(
        "Gemm along inputs, transposed",
        "weight-axis",
        "float",
        lambda: gemm(1, transposed=True),
        lambda: gemm(0, transposed=True),
    ),
    _case("MatMul along inputs", "weight-axis", "float", lambda: matmul(0), lambda: matmul(1)),
    _case(
        "between Conv and Relu",
        "before-activation",
        "int8",
        lambda: before_relu(between=True),
        lambda: before_relu(between=False),
    ),
    _case(
        "output for a Sigmoid",
        "quantized-output",
        "int8",
        lambda: output(quantized=True),
        lambda: output(quantized=False),
    ),
    _case("both inputs of an Add", "both-branches", "int8", lambda: residual(both=True), lambda: residual(both=False)),
)
