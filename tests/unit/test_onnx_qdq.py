"""A plan as `.onnx`: the plan's numbers in the file, integer kernels in the runtime, and what cannot be followed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from calibration import affine
from edgesmith.errors import InternalError
from edgesmith.progress import Silent
from edgesmith.types import OpPlan, QuantParams, QuantPlan, TensorPlan
from targets import onnx_emulator, onnx_file, onnx_qdq, onnx_qdq_read, onnx_qdq_rules
from targets.divergence import sqnr_db
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from tests import quant_reference, tiny_networks

ON_ARM = {"session.qdqisint8allowed": "1"}
"""What ONNX Runtime sets by itself on ARM: int8 activations have kernels of their own."""

node = helper.make_node


def grid(scale: float, zero_point: int, dtype: Any = "int8") -> QuantParams:
    return QuantParams(scale=(scale,), zero_point=(zero_point,), axis=None, dtype=dtype, symmetric=dtype == "int16")


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lowered(planned: Planned, activations: Any = "uint8", **options: Any) -> Any:
    proto, _ = onnx_qdq.lower(planned, activations=activations, **options)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def computed(planned: Planned, x: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Every tensor of the plan."""
    parts = list(onnx_emulator.run(planned, x, planned.graph.tensors))
    return {name: np.concatenate([part[name] for part in parts]) for name in planned.graph.tensors}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PlanGraph:
    live = tiny_networks.network()
    return make_plan_graph(tiny_networks.record(live, tmp_path_factory.mktemp("tiny") / "net.keras"), Silent())


def by_hand(*, zero_point: int = -128, activation: str = "") -> Planned:
    """A 1x1 convolution, 2 channels to 2: x on 0.5 * (q - 10), weights [[2, -3], [0, 127]] on 0.25 and 0.125."""
    nodes = [node("Conv", ["x", "w", "b"], ["conv" if activation else "y"])]
    if activation:
        nodes.append(node(activation, ["conv", *(["zero", "six"] if activation == "Clip" else [])], ["y"]))
    constants = {
        "w": np.array([[0.5, -0.75], [0.0, 15.875]], np.float32).reshape(2, 2, 1, 1),
        "b": np.array([1.0, -2.0], np.float32),
    }
    if activation == "Clip":
        constants |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    weights = QuantParams(scale=(0.25, 0.125), zero_point=(0, 0), axis=0, dtype="int8", symmetric=True)
    return Planned(
        plan=QuantPlan(
            model_sha256="",
            calibration_sha256="",
            ops=(OpPlan(name="y", layer="conv", kind="Conv", precision="int8", weights=weights),),
            tensors=(
                TensorPlan(name="x", layer="x", params=grid(0.5, 10)),
                TensorPlan(name="y", layer="conv", params=grid(2.0, zero_point)),
            ),
        ),
        graph=quant_reference.graph(nodes, ["N", 2, 1, 1], constants),
        integers={"y": np.array([[2, -3], [0, 127]], np.int8).reshape(2, 2, 1, 1)},
    )


X_BY_HAND = np.array([[14, 6], [8, 11], [10, 60]], np.int8)
"""Less the zero point: [4, -4], [-2, 1], [0, 50]. Biases are 1 / (0.5 * 0.25) = 8 and -2 / (0.5 * 0.125) = -32.
Sums: 2*4 - 3*-4 + 8 = 28 and 127*-4 - 32 = -540; -4 - 3 + 8 = 1 and 127 - 32 = 95; -150 + 8 = -142 and
6350 - 32 = 6318.
In real numbers, times 0.125 and 0.0625: [3.5, -33.75], [0.125, 5.9375], [-17.75, 394.875]; in steps of 2, rounded:
[2, -17], [0, 3], [-9, 197]. (3.5 / 2 = 1.75.)"""
STEPS_BY_HAND = np.array([[2, -17], [0, 3], [-9, 197]])


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("activation", ["", "Relu", "Clip"])
@pytest.mark.parametrize("zero_point", [-128, -100])
def test_a_convolution_gives_the_integers_computed_by_hand(activations: str, activation: str, zero_point: int):
    """-128: storing clips as ReLU does, not at 6; -100: neither."""
    planned = by_hand(zero_point=zero_point, activation=activation)
    session = onnx_file.session(lowered(planned, activations, float_io=False).SerializeToString())
    shift = 128 if activations == "uint8" else 0
    x = (X_BY_HAND.astype(np.int16) + shift).astype(activations).reshape(3, 2, 1, 1)
    (y,) = session.run(None, {"x": x})
    least, most = (0, 3) if activation == "Clip" else (0 if activation else -1000, 1000)
    wanted = np.clip(np.clip(STEPS_BY_HAND, least, most) + zero_point, -128, 127)
    assert y.dtype == activations
    assert (y.reshape(3, 2).astype(np.int16) - shift).tolist() == wanted.tolist()


def test_what_lies_in_the_file_is_what_the_plan_says():
    proto = lowered(by_hand())
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert stored["x_zero_point"].dtype == np.uint8
    assert (float(stored["x_scale"]), int(stored["x_zero_point"])) == (0.5, 138)
    assert stored["w_quantized"].tolist() == [[[[2]], [[-3]]], [[[0]], [[127]]]]
    assert stored["b_quantized"].dtype == np.int32
    assert stored["b_quantized"].tolist() == [8, -32]
    assert stored["b_scale"].tolist() == [0.125, 0.0625]
    assert onnx_qdq_read.tensors_of(proto) == {"x": grid(0.5, 10), "y": grid(2.0, -128)}
    assert set(lowered(by_hand()).graph.node[0].input) == {"x", "x_scale", "x_zero_point"}


@pytest.mark.parametrize(("activations", "entries"), [("uint8", {}), ("int8", ON_ARM)])
def test_a_real_network_is_computed_by_integer_kernels_alone(
    tiny: PlanGraph, tmp_path: Path, activations: str, entries: dict[str, str]
):
    planned = quant_reference.plan(tiny, tiny_networks.pictures())
    proto, deviations = onnx_qdq.lower(planned, activations=activations)
    onnx.checker.check_model(proto, full_check=True)
    kernels = quant_reference.kernels_used(proto.SerializeToString(), tmp_path, entries)
    kinds = [op.kind for op in tiny.ops]
    assert kernels.count("QLinearConv") == kinds.count("Conv") == 5
    assert kernels.count("QGemm") == kinds.count("Gemm") == 2
    assert kernels.count("QLinearAdd") == kernels.count("QLinearSoftmax") == 1
    assert (kernels[0], kernels[-1]) == ("QuantizeLinear", "DequantizeLinear")
    assert kernels.count("QuantizeLinear") == kernels.count("DequantizeLinear") == 1
    assert not {"Conv", "Gemm", "Add", "Relu", "Clip", "Softmax"} & set(kernels)
    assert deviations == ()


@pytest.mark.parametrize("scheme", ["int8", "int16x8", "int4-weights"])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_scales_and_integers_read_back_from_the_file_are_the_plans(
    tiny: PlanGraph, tmp_path: Path, scheme: str, activations: str
):
    planned = quant_reference.plan(tiny, tiny_networks.pictures(), scheme=scheme)
    path = tmp_path / "net.onnx"
    path.write_bytes(lowered(planned, activations).SerializeToString())
    wanted = {tensor.name: tensor.params for tensor in planned.plan.tensors if tensor.params is not None}
    assert onnx_qdq_read.quantized_tensors(path) == wanted
    assert len(wanted) == len(tiny.tensors)
    found = onnx_qdq_read.quantized_weights(path)
    assert found.keys() == planned.integers.keys()
    for name, (integers, params) in found.items():
        assert params == planned.plan.op(name).weights
        assert integers.dtype == np.int8
        assert np.array_equal(integers, planned.integers[name])


def test_equal_plans_become_equal_bytes(tiny: PlanGraph):
    x = tiny_networks.pictures()
    first, second = (lowered(quant_reference.plan(tiny, x)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_integers_in_and_out(tiny: PlanGraph):
    planned = quant_reference.plan(tiny, tiny_networks.pictures())
    for activations in ("uint8", "int8"):
        proto = lowered(planned, activations, float_io=False)
        signature = onnx_file.signature(proto)
        assert [str(spec.dtype) for spec in (*signature.inputs, *signature.outputs)] == [activations] * 2
        assert [spec.name for spec in (*signature.inputs, *signature.outputs)] == ["image", "head"]
        assert onnx_qdq_read.tensors_of(proto).keys() == set(tiny.tensors)
    assert [spec.dtype for spec in onnx_file.signature(lowered(planned)).inputs] == ["float32"]


def test_layers_kept_float_get_float_values_and_the_rest_stays_on_integers(tiny: PlanGraph, tmp_path: Path):
    planned = quant_reference.plan(tiny, tiny_networks.pictures(), keep_float=("depthwise*", "head"))
    floats = [op for op in tiny.ops if planned.plan.op(op.name).precision == "float32"]
    assert sorted(op.kind for op in floats) == ["Conv", "Gemm", "Softmax"]
    proto = lowered(planned)
    kernels = quant_reference.kernels_used(proto.SerializeToString(), tmp_path)
    assert kernels.count("QLinearConv") == 4
    assert kernels.count("Conv") + kernels.count("FusedConv") == 1
    assert kernels.count("QGemm") == 1
    assert kernels.count("Gemm") + kernels.count("FusedGemm") == 1
    assert "QLinearSoftmax" not in kernels
    assert len(onnx_qdq_read.weights_of(proto)) == 5
    x = tiny_networks.pictures(16, seed=3)
    assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1
    everything = quant_reference.plan(tiny, tiny_networks.pictures())
    (wanted,), (part,), (all_of_it,) = (
        [each["head"] for each in run]
        for run in (tiny.run(x), onnx_emulator.run(planned, x), onnx_emulator.run(everything, x))
    )
    assert sqnr_db(wanted, part) > sqnr_db(wanted, all_of_it) + 1


def test_a_tensor_that_float_and_quantized_ops_read_is_quantized_only_for_those():
    """The float op takes the input as it comes, the convolution what is left of it."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["conv"]),
        node("Exp", ["x"], ["exp"]),
        node("Add", ["conv", "exp"], ["y"]),
    ]
    constants = {"w": np.ones((1, 1, 1, 1), np.float32), "b": np.zeros(1, np.float32)}
    network = quant_reference.graph(nodes, ["N", 1, 2, 2], constants)
    x = np.array([[0.3, 0.7], [1.0, 1.7]], np.float32).reshape(1, 1, 2, 2)
    planned = quant_reference.plan(
        network, np.array([0.0, 100.0], np.float32).reshape(2, 1, 1, 1).repeat(2, 2).repeat(2, 3) / 25
    )
    found = computed(planned, x)
    assert np.array_equal(found["exp"], quant_reference.affine.fake_quantize(np.exp(x), planned.plan.tensors[2].params))
    assert not np.array_equal(found["x"], x)


def test_int16_activations_are_stored_as_int16_and_told_to_be_computed_in_float32(tiny: PlanGraph):
    x = tiny_networks.pictures()
    wide, narrow = (quant_reference.plan(tiny, x, scheme=scheme) for scheme in ("int16x8", "int8"))
    proto, deviations = onnx_qdq.lower(wide, activations="uint8")
    assert onnx_file.opset(proto) == 21
    zero_points = {t.data_type for t in proto.graph.initializer if t.name.endswith("zero_point")}
    assert zero_points == {TensorProto.INT16, TensorProto.INT8, TensorProto.INT32}
    assert {d.tensor for d in deviations} == {op.output for op in tiny.ops if op.kind not in ("Transpose", "Reshape")}
    assert {d.why for d in deviations} == {"ONNX Runtime's CPU provider has no kernels with 16-bit activations"}
    (reference,) = [part["head"] for part in tiny.run(x)]
    sqnr = [sqnr_db(reference, part["head"]) for planned in (wide, narrow) for part in onnx_emulator.run(planned, x)]
    assert sqnr[0] > sqnr[1] + 3
    assert max(off for _, off in quant_reference.steps_off(wide, computed(wide, x))) <= 1


def test_int4_weights_lie_in_4_bits_and_run_in_integer_kernels(tiny: PlanGraph, tmp_path: Path):
    x = tiny_networks.pictures()
    planned = quant_reference.plan(tiny, x, scheme="int4-weights")
    proto, deviations = onnx_qdq.lower(planned, activations="uint8")
    four = [tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.INT4]
    assert len(four) == len(planned.integers) == 7
    assert sum(len(t.raw_data) or len(t.int32_data) for t in four) <= sum(
        v.size / 2 + 1 for v in planned.integers.values()
    )
    kernels = quant_reference.kernels_used(proto.SerializeToString(), tmp_path)
    assert (kernels.count("QLinearConv"), kernels.count("QGemm")) == (5, 2)
    assert not {"Conv", "Gemm", "Cast"} & set(kernels)
    assert deviations == ()
    assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1


def test_seven_bit_weights_are_rounded_anew_and_told(tiny: PlanGraph):
    planned = quant_reference.plan(tiny, tiny_networks.pictures())
    proto, deviations = onnx_qdq.lower(planned, activations="uint8", reduce_range=True)
    assert [d.tensor for d in deviations] == [op.weight for op in tiny.ops if op.weight is not None]
    assert all(d.what == "weights -63..63 instead of -127..127, scales 2.016 times as large" for d in deviations)
    for name, (integers, params) in onnx_qdq_read.weights_of(proto).items():
        weights = planned.plan.op(name).weights
        assert weights is not None
        assert np.abs(integers).max() == 63
        assert np.allclose(params.scale, np.array(weights.scale) * 127 / 63, rtol=1e-6)
        kernel = tiny.constants[tiny.op(name).weight or ""]
        step = np.array(params.scale).reshape([-1 if axis == params.axis else 1 for axis in range(kernel.ndim)])
        assert np.all(np.abs(integers * step - kernel) <= step * 0.5001)
    assert onnx_qdq_read.tensors_of(proto) == onnx_qdq_read.tensors_of(lowered(planned))


def test_seven_bits_by_hand():
    weights = QuantParams(scale=(1.0,), zero_point=(0,), axis=None, dtype="int8", symmetric=True)
    kernel, planned = np.array([127.0, -127.0, 2.0, 3.1, 0.0, 200.0], np.float32), [127, -127, 2, 3, 0, 127]
    integers, params = onnx_qdq_rules.seven_bits(kernel, np.array(planned, np.int8), weights)
    assert params.scale == (float(np.float32(127 / 63)),)
    assert integers.tolist() == [63, -63, 1, 2, 0, 63]  # 2 / 2.016 = 0.99, 3.1 / 2.016 = 1.54


def test_one_value_with_two_roundings_of_float32_is_one_value_in_seven_bits():
    """21.5 * 127 / 63 = 43.34 lies on a half: a step of float32 to either side parts the two channels."""
    value = 21.5 * 127 / 63
    kernel = np.array([[127, value * (1 - 1e-6), 5], [254, -2 * value * (1 + 1e-6), 5]], np.float32)
    grid = QuantParams(scale=(1.0, 2.0), zero_point=(0, 0), axis=0, dtype="int8", symmetric=True)
    planned = np.array([[127, 43, 5], [127, -43, 2]], np.int8)
    integers, params = onnx_qdq_rules.seven_bits(kernel, planned, grid)
    assert integers.tolist() == [[63, 22, 2], [63, -22, 1]]
    assert affine.quantize(kernel, params).tolist() == [[63, 21, 2], [63, -22, 1]]


@pytest.mark.parametrize(
    ("activation", "scale", "zero_point", "goes"),
    [
        ("relu", 0.1, -128, True),
        ("relu", 0.1, -127, False),
        ("relu6", 6 / 255, -128, True),
        ("relu6", 5 / 255, -128, True),
        ("relu6", 6.1 / 255, -128, False),
        ("relu6", 6 / 255, -127, False),
    ],
)
def test_an_activation_goes_where_the_grid_ends_as_it_does(activation: str, scale: float, zero_point: int, goes: bool):
    params = grid(float(np.float32(scale)), zero_point)
    for stored_as in ("uint8", "int8"):
        assert onnx_qdq_rules.saturates_as(activation, onnx_qdq_rules.stored(params, stored_as)) is goes
    wide = onnx_qdq_rules.stored(grid(0.1, 0, "int16"), "uint8")
    assert not onnx_qdq_rules.saturates_as("relu", wide)


def test_a_relu_on_a_grid_that_reaches_below_zero_keeps_clipping_and_its_convolution_its_kernel(tmp_path: Path):
    """Concat gives its inputs one grid: that of the tensor without ReLU has room below zero."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["conv"]),
        node("Relu", ["conv"], ["relu"]),
        node("Conv", ["x", "w", "c"], ["other"]),
        node("Concat", ["relu", "other"], ["y"], axis=1),
    ]
    constants = {"w": normal(4, 3, 3, 3), "b": normal(4), "c": normal(4, seed=1)}
    network = quant_reference.graph(nodes, ["N", 3, 8, 8], constants)
    x = normal(8, 3, 8, 8, seed=2)
    planned = quant_reference.plan(network, x)
    found = computed(planned, x)
    assert found["relu"].min() == 0
    assert found["other"].min() < -1
    assert max(off for _, off in quant_reference.steps_off(planned, found)) <= 1
    kernels = quant_reference.kernels_used(lowered(planned).SerializeToString(), tmp_path)
    assert sorted(kernels) == [
        "Clip",
        "DequantizeLinear",
        "QLinearConcat",
        "QLinearConv",
        "QLinearConv",
        "QuantizeLinear",
    ]


def test_dense_layers_on_tokens_run_as_integer_products(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["product"]),
        node("Add", ["product", "b"], ["sum"]),
        node("Relu", ["sum"], ["hidden"]),
        node("Transpose", ["hidden"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["hidden", "turned"], ["scores"]),
        node("Softmax", ["scores"], ["y"], axis=-1),
    ]
    network = quant_reference.graph(nodes, ["N", 5, 6], {"w": normal(6, 7), "b": normal(7)}, output_rank=3)
    x = normal(16, 5, 6)
    planned = quant_reference.plan(network, x)
    proto, deviations = onnx_qdq.lower(planned, activations="uint8")
    kernels = quant_reference.kernels_used(proto.SerializeToString(), tmp_path)
    assert {"QGemm", "QLinearMatMul", "QLinearSoftmax"} < set(kernels)
    assert not {"MatMul", "Gemm", "MatMulIntegerToFloat", "Add"} & set(kernels)
    assert deviations == ()
    assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1
    assert onnx_qdq_read.weights_of(proto).keys() == {"hidden"}
    assert onnx_qdq_read.tensors_of(proto) == {t.name: t.params for t in planned.plan.tensors}


def test_a_product_whose_shape_is_open_stays_a_product():
    nodes = [node("MatMul", ["x", "w"], ["product"]), node("Add", ["product", "b"], ["y"])]
    network = quant_reference.graph(nodes, ["N", "T", 6], {"w": normal(6, 7), "b": normal(7)}, output_rank=3)
    for length in (3, 9):
        x = normal(4, length, 6, seed=length)
        planned = quant_reference.plan(network, x)
        assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [17, 18])
def test_a_spatial_mean_and_a_padding_run_on_integers(tmp_path: Path, keepdims: int, opset: int):
    axes: dict[str, Any] = {"axes": [2, 3]} if opset == 17 else {}
    nodes = [
        node("Pad", ["x", "pads"], ["padded"]),
        node("MaxPool", ["padded"], ["pooled"], kernel_shape=[2, 2]),
        node("ReduceMean", ["pooled", *([] if axes else ["axes"])], ["y"], keepdims=keepdims, **axes),
    ]
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 0, 2]), "axes": np.array([2, 3])}
    network = quant_reference.graph(nodes, ["N", 3, 8, 8], constants, output_rank=4 if keepdims else 2, opset=opset)
    x = normal(8, 3, 8, 8) + 1
    planned = quant_reference.plan(network, x)
    proto, deviations = onnx_qdq.lower(planned, activations="uint8")
    kernels = quant_reference.kernels_used(proto.SerializeToString(), tmp_path)
    wanted = ["QuantizeLinear", "Pad", "MaxPool", "QLinearGlobalAveragePool", "DequantizeLinear"]
    assert kernels == (wanted if keepdims else [*wanted[:-1], "Flatten", wanted[-1]])
    assert deviations == ()
    assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1


def test_ops_without_an_integer_kernel_are_computed_between_their_integers_and_told():
    nodes = [
        node("ConvTranspose", ["x", "w", "b"], ["wide"], name="up", strides=[2, 2]),
        node("Tanh", ["wide"], ["tanh"]),
        node("Mul", ["tanh", "half"], ["y"]),
    ]
    constants = {"w": normal(3, 4, 2, 2), "b": normal(4), "half": np.array([0.5], np.float32)}
    network = quant_reference.graph(nodes, ["N", 3, 4, 4], constants)
    x = normal(8, 3, 4, 4)
    planned = quant_reference.plan(network, x)
    _, deviations = onnx_qdq.lower(planned, activations="uint8")
    assert [(d.layer, d.tensor, d.why) for d in deviations] == [
        ("up", "wide", "ONNX Runtime's CPU provider has no integer kernel for ConvTranspose"),
        ("tanh", "tanh", "ONNX Runtime's CPU provider has no integer kernel for Tanh"),
        ("y", "y", "Mul with a constant that the plan has no grid for"),
    ]
    assert {d.what for d in deviations} == {"computed in float32 between its planned integers"}
    assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("Reshape", [np.array([0, -1])], {}),
        ("Flatten", [], {}),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Unsqueeze", [np.array([2])], {}),
        ("Slice", [np.array([0]), np.array([2]), np.array([2])], {}),
        ("Gather", [np.array([1])], {"axis": 1}),
        ("Resize", [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
        ("Resize", [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
        ("MaxPool", [], {"kernel_shape": [2, 2]}),
        ("AveragePool", [], {"kernel_shape": [2, 2]}),
        ("GlobalAveragePool", [], {}),
        ("ReduceMean", [], {"axes": [1]}),
        ("Softmax", [], {"axis": -1}),
        ("Sigmoid", [], {}),
        ("LeakyRelu", [], {"alpha": 0.1}),
        ("Tanh", [], {}),
        ("HardSigmoid", [], {}),
        ("PRelu", [np.full((3, 1, 1), 0.2, np.float32)], {}),
        ("Add", ["x"], {}),
        ("Mul", ["x"], {}),
        ("Sub", ["x"], {}),
        ("Concat", ["x"], {"axis": 1}),
    ],
)
def test_the_list_of_integer_kernels_is_the_runtimes(
    kind: str, inputs: list[Any], attributes: dict[str, Any], tmp_path: Path
):
    """What is told to be computed in float32 is, and nothing else."""
    constants = {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "b": np.zeros(3, np.float32)}
    constants |= {f"c{i}": value for i, value in enumerate(inputs) if isinstance(value, np.ndarray)}
    names = [value if isinstance(value, str) else f"c{i}" for i, value in enumerate(inputs)]
    nodes = [node("Conv", ["x", "w", "b"], ["t"]), node(kind, ["t", *names], ["y"], name="op", **attributes)]
    ranks = {"Reshape": 2, "Flatten": 2, "Unsqueeze": 5}
    network = quant_reference.graph(nodes, ["N", 3, 8, 8], constants, output_rank=ranks.get(kind, 4))
    x = normal(6, 3, 8, 8)
    planned = quant_reference.plan(network, x)
    proto, deviations = onnx_qdq.lower(planned, activations="uint8")
    kernels = quant_reference.kernels_used(proto.SerializeToString(), tmp_path)
    on_integers = kernels.count("DequantizeLinear") == 1
    assert [d.layer for d in deviations] == ([] if on_integers else ["op"])
    assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1


def test_a_mean_is_pooled_also_in_the_opset_that_int4_needs(tmp_path: Path):
    nodes = [node("Conv", ["x", "w", "b"], ["t"]), node("ReduceMean", ["t"], ["y"], axes=[-1, -2], keepdims=0)]
    constants = {"w": normal(5, 3, 3, 3), "b": normal(5)}
    network = quant_reference.graph(nodes, ["N", 3, 8, 8], constants, output_rank=2)
    x = normal(6, 3, 8, 8)
    planned = quant_reference.plan(network, x, scheme="int4-weights")
    kernels = quant_reference.kernels_used(lowered(planned).SerializeToString(), tmp_path)
    assert kernels == ["QuantizeLinear", "QLinearConv", "QLinearGlobalAveragePool", "Flatten", "DequantizeLinear"]
    assert max(off for _, off in quant_reference.steps_off(planned, computed(planned, x))) <= 1


def test_a_plan_that_forgets_a_grid_is_a_defect():
    planned = by_hand()
    half = dataclasses.replace(planned.plan, tensors=planned.plan.tensors[:1])
    with pytest.raises(InternalError, match="op y is planned as integers, and y has no grid"):
        onnx_qdq.lower(dataclasses.replace(planned, plan=half), activations="uint8")


def test_the_emulator_shows_tensors_of_the_plan_without_changing_what_is_computed(tiny: PlanGraph):
    planned = quant_reference.plan(tiny, tiny_networks.pictures())
    x = tiny_networks.pictures(70, seed=5)
    shown = computed(planned, x)
    assert list(shown) == list(tiny.tensors)
    (file,) = onnx_file.session(lowered(planned).SerializeToString()).run(None, {"image": x})
    plain = list(onnx_emulator.Emulator(planned).run(x))
    assert [len(part["head"]) for part in plain] == [64, 6]
    assert np.array_equal(np.concatenate([part["head"] for part in plain]), file)
    assert np.array_equal(shown["head"], file)
    for tensor in planned.plan.tensors:
        assert tensor.params is not None
        again = quant_reference.affine.fake_quantize(shown[tensor.name], tensor.params)
        assert np.allclose(again, shown[tensor.name], rtol=1e-6)


def test_the_emulator_is_as_exact_where_the_processor_saturates(tiny: PlanGraph, monkeypatch: pytest.MonkeyPatch):
    """The other kernels run here, too: they give the same numbers."""
    planned = quant_reference.plan(tiny, tiny_networks.pictures())
    x = tiny_networks.pictures(8, seed=5)
    exact = [part["head"] for part in onnx_emulator.run(planned, x)]
    monkeypatch.setattr(onnx_emulator, "saturates_here", lambda: True)
    assert np.array_equal(exact, [part["head"] for part in onnx_emulator.run(planned, x)])


@st.composite
def networks(draw: st.DrawFn) -> tuple[PlanGraph, int]:
    """A chain of small layers with a branch that may be added, multiplied or concatenated."""
    seed = draw(st.integers(0, 2**16))
    random = np.random.default_rng(seed)
    channels, nodes, constants, current, skip = 3, [], {}, "x", ""
    kinds = draw(st.lists(st.sampled_from(_LAYERS), min_size=1, max_size=5))
    for index, kind in enumerate(kinds):
        name = f"t{index}"
        if kind in ("Conv", "depthwise"):
            groups = channels if kind == "depthwise" else 1
            made = channels if kind == "depthwise" else draw(st.integers(1, 5))
            spread = np.exp2(random.uniform(-2, 2, size=(made, 1, 1, 1)))
            constants[f"{name}/w"] = (random.normal(size=(made, channels // groups, 3, 3)) * spread).astype(np.float32)
            constants[f"{name}/b"] = random.normal(size=made).astype(np.float32)
            pads = {"pads": [1, 1, 1, 1], "group": groups}
            nodes.append(node("Conv", [current, f"{name}/w", f"{name}/b"], [f"{name}/c"], **pads))
            channels = made
            activation = draw(st.sampled_from(["", "Relu", "Clip"]))
            if activation == "Clip":
                constants |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
            if activation:
                ends = ["zero", "six"] if activation == "Clip" else []
                nodes.append(node(activation, [f"{name}/c", *ends], [name]))
            else:
                nodes[-1].output[0] = name
            skip = "" if skip and made != channels else name
        elif kind in ("Add", "Mul"):
            nodes.append(node(kind, [current, current], [name]))
        elif kind == "Concat":
            nodes.append(node("Concat", [current, skip or current], [name], axis=1))
        elif kind == "MaxPool":
            nodes.append(node("MaxPool", [current], [name], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        else:
            nodes.append(node(kind, [current], [name]))
        current = name
        if kind in ("Concat", "GlobalAveragePool"):
            break
    return quant_reference.graph(nodes, ["N", 3, 6, 6], constants, output=current), seed


_LAYERS = (
    "Conv",
    "Conv",
    "depthwise",
    "Add",
    "Mul",
    "Concat",
    "MaxPool",
    "Sigmoid",
    "Relu",
    "GlobalAveragePool",
    "Tanh",
)


@settings(max_examples=40, deadline=None)
@given(made=networks(), precision=st.sampled_from(["int8", "int8", "int16x8", "int4-weights"]))
def test_every_op_is_within_one_step_of_numpy(made: tuple[PlanGraph, int], precision: str):
    network, seed = made
    planned = quant_reference.plan(network, normal(6, 3, 6, 6, seed=seed), scheme=precision)
    found = computed(planned, normal(4, 3, 6, 6, seed=seed + 1))
    off = dict(quant_reference.steps_off(planned, found))
    assert off or all(op.precision == "float32" for op in planned.plan.ops)
    assert max(off.values(), default=0) <= 1, off
