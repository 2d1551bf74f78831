"""One plan as TensorRT's explicit Q/DQ: which tensors, which scales, the plan's own integers, what deviates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration import affine
from edgesmith.errors import InternalError, ModelError
from edgesmith.types import Deviation, QuantParams
from targets import onnx_file, onnx_kernels, tensorrt_onnx
from targets.divergence import sqnr_db
from targets.plan_files import Planned
from targets.qdq_nodes import DEQUANTIZE, QUANTIZE, QdqGraph
from targets.tensorrt_rules import violations
from tests import tiny_plans
from tests.tiny_plans import Floats, images

X = images()


@pytest.fixture(scope="module")
def planned() -> Planned:
    return tiny_plans.plan(tiny_plans.network(), X)


@pytest.fixture(scope="module")
def lowered(planned: Planned) -> tuple[Any, tuple[Deviation, ...]]:
    return tensorrt_onnx.lower(planned)


def quantized(proto: Any) -> set[str]:
    """Activations with a QuantizeLinear."""
    grids = QdqGraph(proto).grids
    return {grid.tensor for grid in grids if grid.node.op_type == QUANTIZE and not grid.constant}


def run(proto: Any, names: list[str], x: NDArray[Any] = X) -> list[NDArray[Any]]:
    """As written: every Q and DQ computed where it stands."""
    twin = type(proto)()
    twin.CopyFrom(proto)
    twin.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    live = onnx_file.session(twin.SerializeToString(), as_written=True)
    parts = [live.run(names, {"image": x[start : start + 2]}) for start in range(0, len(x), 2)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def floats(planned: Planned, name: str) -> NDArray[np.float32]:
    return np.concatenate([found[name] for found in planned.graph.run(X, [name])])


# Where the pairs are.


def test_only_what_is_computed_in_int8_is_quantized(lowered: Any):
    proto, _ = lowered
    weighted = {"image", "pool", "depth", "sum", "deep1", "flat"}
    pools = {"stem", "join"}  # MaxPool and GlobalAveragePool, whose outputs are int8 as well
    residual = {"short"}  # deep2 is at the end of more ops: its convolution does the addition
    assert quantized(proto) == weighted | pools | residual
    assert violations(proto) == ()


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_no_rule_is_broken_whatever_is_asked(weights: Any):
    for precision in ("int8", "int16", "int4"):
        planned = tiny_plans.plan(tiny_plans.network(), X, precision=precision)
        assert violations(tensorrt_onnx.lower(planned, weights=weights)[0]) == ()


def test_relus_stay_and_biases_are_float(lowered: Any, planned: Planned):
    proto, _ = lowered
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Relu") == 5
    assert kinds.count("Clip") == 1
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for op in planned.graph.ops:
        if op.bias is not None:
            np.testing.assert_array_equal(stored[op.bias], planned.graph.constants[op.bias])


def test_an_addition_without_a_convolution_of_its_own_is_left_alone():
    g = Floats()
    left = g.weighted("Conv", "image", "left", (16, 3, 3, 3), "Relu")
    right = g.weighted("Conv", "image", "right", (16, 3, 3, 3), "Relu")
    graph = g.graph(g.node("Add", [left, right], "sum"), (2, 3, 16, 16))
    assert quantized(tensorrt_onnx.lower(tiny_plans.plan(graph, X))[0]) == {"image"}


def test_a_sum_that_others_read_as_well_cannot_be_fused():
    g = Floats()
    left = g.weighted("Conv", "image", "left", (16, 3, 3, 3))
    right = g.weighted("Conv", "image", "right", (16, 3, 3, 3))
    summed = g.node("Add", [left, right], "sum")
    graph = g.graph(g.node("Mul", [summed, left], "product"), (2, 3, 16, 16))
    assert quantized(tensorrt_onnx.lower(tiny_plans.plan(graph, X))[0]) == {"image", "left"}


def test_doubling_a_tensor_quantizes_nothing():
    g = Floats()
    left = g.weighted("Conv", "image", "left", (16, 3, 3, 3))
    graph = g.graph(g.node("Add", [left, left], "sum"), (2, 3, 16, 16))
    assert quantized(tensorrt_onnx.lower(tiny_plans.plan(graph, X))[0]) == {"image"}


def test_a_pool_before_a_float_op_stays_float():
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (16, 3, 3, 3), "Relu")
    graph = g.graph(g.node("Sigmoid", [g.node("GlobalAveragePool", [x], "mean")], "out"), (2, 3, 16, 16))
    assert quantized(tensorrt_onnx.lower(tiny_plans.plan(graph, X))[0]) == {"image"}


def test_products_of_two_activations_read_both_in_int8():
    g = Floats()
    x = g.node("Reshape", ["image", g.constant("shape", np.array([2, 48, 16]))], "rows")
    graph = g.graph(g.node("MatMul", [x, g.node("Transpose", [x], "columns", perm=[0, 2, 1])], "out"), (2, 3, 16, 16))
    proto, _ = tensorrt_onnx.lower(tiny_plans.plan(graph, X))
    assert quantized(proto) == {"rows", "columns"}
    assert violations(proto) == ()


@pytest.mark.parametrize(("inputs", "outputs", "int8"), [(16, 16, True), (15, 16, False), (16, 15, False)])
def test_small_dense_layers_are_left_in_float(inputs: int, outputs: int, int8: bool):
    g = Floats()
    x = g.node("Flatten", ["image"], "flat")
    x = g.node("Slice", [x, *(g.constant(f"s{v}", np.array([v])) for v in (0, inputs, 1))], "some")
    graph = g.graph(g.weighted("Gemm", x, "dense", (inputs, outputs)), (2, 3, 16, 16))
    proto, deviations = tensorrt_onnx.lower(tiny_plans.plan(graph, X))
    assert quantized(proto) == ({"some"} if int8 else set())
    found = [each for each in deviations if each.tensor == "dense_w"]
    assert [each.why for each in found] == (
        [] if int8 else [f"a product of {inputs} inputs and {outputs} outputs is slower in int8"]
    )


# The numbers.


def test_scales_by_hand(planned: Planned, lowered: Any):
    """low -2, high 1 -> 2 / 127; a ReLU's 0..3 -> 3 / 127, where the plan has 3 / 255."""
    proto, _ = lowered
    ranges = {tensor.name: (tensor.low, tensor.high) for tensor in planned.plan.tensors}
    found = {grid.tensor: grid.scale for grid in QdqGraph(proto).grids if not grid.constant}
    for name, scale in found.items():
        low, high = ranges[name]
        # The planned grid reaches at most half of its own step beyond the range.
        assert scale == pytest.approx(max(-low, high) / 127, abs=(high - low) / 255 / 2 / 127 + 1e-9)
        assert scale.shape == ()
    assert found["sum"] == pytest.approx(ranges["sum"][1] / 127, rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero", "wanted"),
    [
        ("int8", 0.01, -128, np.float32(2.55 / 127)),
        ("int8", 0.01, 0, np.float32(0.01)),
        ("int8", 0.01, 27, np.float32(1.55 / 127)),
        ("int8", 0.01, 127, np.float32(2.55 / 127)),
        ("int16", 1e-4, 0, np.float32(3.2767 / 127)),
    ],
)
def test_symmetric_scales_of_known_grids(dtype: Any, scale: float, zero: int, wanted: np.float32):
    params = QuantParams(scale=(scale,), zero_point=(zero,), axis=None, dtype=dtype, symmetric=dtype == "int16")
    np.testing.assert_allclose(tensorrt_onnx.symmetric_scale(params), wanted, rtol=1e-6)


@given(
    scale=st.floats(2**-100, 2**100, width=32),
    integers=st.lists(st.integers(-127, 127), min_size=1, max_size=20),
)
def test_stored_floats_give_the_integers_again(scale: float, integers: list[int]):
    """Divided by the scale, as ONNX says, or multiplied by its reciprocal, as GPUs do."""
    step = np.float32(scale)
    stored = step * np.array(integers, np.float32)
    np.testing.assert_array_equal(np.rint(stored / step), integers)
    np.testing.assert_array_equal(np.rint(stored * (np.float32(1) / step)), integers)


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_kernels_are_the_plans_integers(planned: Planned, weights: Any):
    proto, _ = tensorrt_onnx.lower(planned, weights=weights)
    graph = QdqGraph(proto)
    for op in planned.graph.ops:
        if op.weight is None or op.name == "head":
            continue
        main = next(node for node in proto.graph.node if node.name == op.main)
        grid = graph.grid_behind(main.input[1])
        assert grid is not None
        assert grid.constant
        np.testing.assert_array_equal(grid.scale, np.array(planned.plan.op(op.name).weights.scale, np.float32))
        stored = graph.values(grid.tensor)
        integers = stored if weights == "int8" else np.rint(stored / along(grid.scale, grid.axis, stored.ndim))
        np.testing.assert_array_equal(integers, planned.integers[op.name])


def along(scale: NDArray[Any], axis: int, ndim: int) -> NDArray[Any]:
    return scale.reshape([-1 if a == axis else 1 for a in range(ndim)])


def test_both_ways_to_store_kernels_compute_the_same(planned: Planned):
    one, other = (tensorrt_onnx.lower(planned, weights=weights)[0] for weights in ("float", "int8"))
    np.testing.assert_array_equal(run(one, ["head"]), run(other, ["head"]))
    assert other.ByteSize() < one.ByteSize() / 2


def test_a_kernel_of_two_ops_is_rounded_for_each():
    g = Floats()
    x = g.weighted("Conv", "image", "first", (3, 3, 3, 3), "Relu")
    graph = g.graph(g.node("Conv", [x, "first_w", "first_b"], "second"), (2, 3, 16, 16))
    planned = tiny_plans.plan(graph, X)
    planned.integers["second"][:] //= 2  # type: ignore[index]
    proto, _ = tensorrt_onnx.lower(planned)
    first, second = (op for op in graph.ops if op.weight)
    kernels = onnx_kernels.kernels_of(proto)
    assert set(kernels) == {f"first_w/{first.name}", f"first_w/{second.name}"}
    weights = planned.plan.op("second").weights
    np.testing.assert_array_equal(kernels["first_w/second"], affine.dequantize(planned.integers["second"], weights))


def test_zeros_stay_zeros(planned: Planned, tmp_path: Path):
    pruned = {name: np.where(np.abs(values) < 40, 0, values) for name, values in planned.integers.items()}
    (tmp_path / "net.onnx").write_bytes(tensorrt_onnx.lower(replace(planned, integers=pruned))[0].SerializeToString())
    kernels = onnx_kernels.kernels(tmp_path / "net.onnx")
    for op in planned.graph.ops:
        if op.weight:
            np.testing.assert_array_equal(kernels[op.weight] == 0, pruned[op.name] == 0)


def test_it_computes_what_the_network_does(planned: Planned, lowered: Any):
    """CPU emulation of Q/DQ: no TensorRT is asked here."""
    proto, _ = lowered
    (found,) = run(proto, ["head"])
    wanted = floats(planned, "head")
    assert sqnr_db(wanted, found) > 30
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.9
    # Every part of it, under the names of the plan.
    names = [op.output for op in planned.graph.ops]
    for name, values in zip(names, run(proto, names), strict=True):
        assert sqnr_db(floats(planned, name), values) > 28, name


# Exceptions of the plan.


def test_float_layers_stay_as_they_are():
    planned = tiny_plans.plan(tiny_plans.network(), X, floats={"deep1", "depth"})
    proto, deviations = tensorrt_onnx.lower(planned)
    # `pool` is still the residual branch; nothing reads `sum` in int8 but `short`.
    assert quantized(proto) == {"image", "stem", "pool", "depth", "sum", "deep1", "short", "join", "flat"}
    kernels = onnx_kernels.kernels_of(proto)
    for name in ("deep1_w", "depth_w"):
        np.testing.assert_array_equal(kernels[name], planned.graph.constants[name])
    inputs = {node.name: list(node.input) for node in proto.graph.node}
    assert inputs["deep1_sum"] == ["sum", "deep1_w", "deep1_b"]
    assert inputs["depth_sum"] == ["pool", "depth_w", "depth_b"]
    assert violations(proto) == ()
    assert not [each for each in deviations if each.tensor in ("deep1_w", "depth_w")]


def test_16_bit_layers_are_computed_in_float_with_the_planned_kernel():
    planned = tiny_plans.plan(tiny_plans.network(), X, precision="int16")
    proto, deviations = tensorrt_onnx.lower(planned)
    assert not any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in proto.graph.node)
    weights = planned.plan.op("stem").weights
    rounded = affine.dequantize(planned.integers["stem"], weights)
    np.testing.assert_array_equal(onnx_kernels.kernels_of(proto)["stem_w"], rounded)
    assert {each.why for each in deviations if each.tensor == "stem_w"} == {"TensorRT has no 16-bit activations"}


def test_4_bit_kernels_are_the_same_numbers_in_8():
    planned = tiny_plans.plan(tiny_plans.network(), X, precision="int4")
    proto, deviations = tensorrt_onnx.lower(planned, weights="int8")
    graph = QdqGraph(proto)
    main = next(node for node in proto.graph.node if node.name == "deep2")
    grid = graph.grid_behind(main.input[1])
    stored = graph.values(grid.tensor)
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored, planned.integers["deep2"])
    assert np.abs(stored).max() == 7
    assert "4-bit integers stored in 8" in {each.what for each in deviations if each.tensor == "deep2_w"}


# What is told.


def test_every_tensor_that_deviates_is_listed_once(planned: Planned, lowered: Any):
    _, deviations = lowered
    told = {each.tensor: each for each in deviations}
    assert len(told) == len(deviations)
    assert set(told) == {tensor.name for tensor in planned.plan.tensors} | {"head_w"}
    stem = planned.plan.tensor("stem").params.scale[0]
    assert told["stem"] == Deviation(
        layer="stem_sum",
        tensor="stem",
        what=f"symmetric, scale {np.float32(stem * 255 / 127):.6g} instead of {stem:.6g}",
        why="TensorRT has no zero points",
    )
    assert told["deep2"].why == "TensorRT adds it inside the convolution that computes it"
    assert told["head"].what == "stays in float"
    assert told["head_w"].layer == "head"


def test_a_grid_that_fits_is_no_deviation():
    planned = tiny_plans.plan(tiny_plans.network(), X)
    tensors = (replace(each, params=affine.symmetric_twin(each.params)) for each in planned.plan.tensors)
    symmetric = replace(planned, plan=replace(planned.plan, tensors=tuple(tensors)))
    _, deviations = tensorrt_onnx.lower(symmetric)
    assert not [each for each in deviations if each.what.startswith("symmetric")]


# Files.


def test_equal_plans_become_equal_bytes_and_the_graph_is_untouched(planned: Planned, lowered: Any):
    before = planned.graph.proto.SerializeToString(deterministic=True)
    again, deviations = tensorrt_onnx.lower(planned)
    assert again.SerializeToString(deterministic=True) == lowered[0].SerializeToString(deterministic=True)
    assert deviations == lowered[1]
    assert planned.graph.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("have", [17, 18])
def test_older_parsers_get_their_opset(have: int):
    """13 is what TensorRT 8.0 and 8.2 read."""
    planned = tiny_plans.plan(tiny_plans.network(opset=have), X)
    proto, _ = tensorrt_onnx.lower(planned, opset=13)
    assert onnx_file.opset(proto) == 13
    assert violations(proto, max_opset=13) == ()
    np.testing.assert_array_equal(run(proto, ["head"]), run(tensorrt_onnx.lower(planned)[0], ["head"]))


def test_a_normalization_that_an_opset_lacks_is_spelt_and_the_others_stay_int8():
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (16, 3, 3, 3))
    scale = g.constant("scale", np.ones(14, np.float32))
    x = g.node("LayerNormalization", [x, scale], "norm")
    graph = g.graph(g.weighted("Conv", x, "last", (16, 16, 3, 3)), (2, 3, 16, 16))
    planned = tiny_plans.plan(graph, X)
    newer, older = (tensorrt_onnx.lower(planned, opset=opset)[0] for opset in (17, 13))
    assert violations(older, max_opset=13) == ()
    assert quantized(older) == quantized(newer) == {"image", "norm"}
    np.testing.assert_allclose(run(older, ["last"])[0], run(newer, ["last"])[0], atol=0.05)


def test_operators_with_other_defaults_in_an_opset_are_refused():
    """RoiAlign moved its samples by half a pixel in opset 16."""
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (16, 3, 3, 3))
    boxes = g.constant("boxes", np.array([[0, 0, 4, 4]], np.float32))
    graph = g.graph(g.node("RoiAlign", [x, boxes, g.constant("which", np.array([0]))], "out"), (2, 3, 16, 16))
    with pytest.raises(ModelError, match="RoiAlign has other defaults"):
        tensorrt_onnx.lower(tiny_plans.plan(graph, X[:2]), opset=13)


def test_a_tensor_that_is_named_like_one_of_ours_is_not_overwritten():
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (16, 3, 3, 3))
    g.constant("image_QuantizeLinear_Scale", np.float32(3))
    graph = g.graph(g.node("Mul", [x, "image_QuantizeLinear_Scale"], "out"), (2, 3, 16, 16))
    with pytest.raises(ModelError, match="a tensor 'image_QuantizeLinear_Scale'"):
        tensorrt_onnx.lower(tiny_plans.plan(graph, X))


def test_a_plan_without_a_grid_that_it_needs_is_a_defect(planned: Planned):
    tensors = tuple(tensor for tensor in planned.plan.tensors if tensor.name != "sum")
    with pytest.raises(InternalError, match="sum: read by ops"):
        tensorrt_onnx.lower(replace(planned, plan=replace(planned.plan, tensors=tensors)))
