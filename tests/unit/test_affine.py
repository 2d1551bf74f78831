"""Affine grids: integers computed by hand, properties of the arithmetic, and ONNX Runtime's own operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from calibration import affine
from calibration.affine import choose_params, dequantize, fake_quantize, quantize, range_of, weight_params
from edgesmith.types import QuantParams

finite = st.floats(-(2.0**40), 2.0**40, width=32)
ends = st.tuples(finite, finite).map(lambda pair: (min(pair), max(pair)))
dtypes = st.sampled_from(["int4", "int8", "int16"])
values = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**40), 2.0**40, width=32))


def params(low: float, high: float, dtype: Any = "int8", *, symmetric: bool = False) -> QuantParams:
    return choose_params(low, high, dtype=dtype, symmetric=symmetric)


def test_the_integers_of_each_dtype():
    assert affine.limits("int8", symmetric=False) == (-128, 127)
    assert affine.limits("int8", symmetric=True) == (-127, 127)
    assert affine.limits("int4", symmetric=False) == (-8, 7)
    assert affine.limits("int4", symmetric=True) == (-7, 7)
    assert affine.limits("int16", symmetric=True) == (-32767, 32767)
    with pytest.raises(ValueError, match="no affine grid of uint8"):
        affine.limits("uint8", symmetric=False)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (0.0, 255.0, 1.0, -128),
        (0.0, 25.5, 25.5 / 255, -128),
        (-127.5, 127.5, 1.0, 0),  # -128 + 127.5 = -0.5, rounded half to even
        (-1.0, 254.0, 1.0, -127),
        (-255.0, 0.0, 1.0, 127),
        (10.0, 510.0, 2.0, -128),  # widened to 0..510
        (-510.0, -10.0, 2.0, 127),  # widened to -510..0
        (0.0, 0.0, 1.0, 0),
        (0.0, 1e-37, 1.0, 0),  # its scale would be 4e-40, no normal float32
    ],
)
def test_asymmetric_grids_by_hand(low: float, high: float, scale: float, zero_point: int):
    grid = params(low, high)
    assert grid.scale == (float(np.float32(scale)),)
    assert grid.zero_point == (zero_point,)
    assert (grid.axis, grid.dtype, grid.symmetric) == (None, "int8", False)


def test_symmetric_grids_by_hand():
    assert params(-3.0, 254.0, symmetric=True).scale == (2.0,)
    assert params(-254.0, 3.0, symmetric=True).zero_point == (0,)
    assert params(-14.0, 0.0, "int4", symmetric=True).scale == (2.0,)
    assert params(0.0, 32767.0, "int16", symmetric=True).scale == (1.0,)


def test_quantize_by_hand_rounds_half_to_even_and_saturates():
    grid = params(-1.0, 254.0)  # scale 1, zero point -127
    x = np.array([-5.0, -1.0, 0.0, 0.5, 1.5, 2.5, 100.2, 254.0, 300.0, 3e38, np.inf, -np.inf], np.float32)
    integers = quantize(x, grid)
    assert integers.dtype == np.int8
    assert integers.tolist() == [-128, -128, -127, -127, -125, -125, -27, 127, 127, 127, 127, -128]
    assert dequantize(integers, grid).tolist() == [-1, -1, 0, 0, 2, 2, 100, 254, 254, 254, 254, -1]


def test_a_quotient_beyond_float32_saturates():
    assert quantize(np.array([3e38, -3e38], np.float32), params(0.0, 1e-20)).tolist() == [127, -128]


def test_symmetric_leaves_the_lowest_integer_out():
    assert quantize(np.array([-1e9, 1e9], np.float32), params(-127.0, 127.0, symmetric=True)).tolist() == [-127, 127]
    assert quantize(np.array([-1e9, 1e9], np.float32), params(-7.0, 7.0, "int4", symmetric=True)).tolist() == [-7, 7]
    assert quantize(np.array([-1e9, 1e9], np.float32), params(-8.0, 7.0, "int4")).tolist() == [-8, 7]
    wide = quantize(np.array([-1e9, 5.4], np.float32), params(-32767.0, 1.0, "int16", symmetric=True))
    assert wide.dtype == np.int16
    assert wide.tolist() == [-32767, 5]


def test_channels_have_grids_of_their_own():
    grid = choose_params([0.0, -1.0, 0.0], [255.0, 254.0, 0.0], dtype="int8", symmetric=False, axis=1)
    assert grid.scale == (1.0, 1.0, 1.0)
    assert grid.zero_point == (-128, -127, 0)
    x = np.full((2, 3, 2), 7.0, np.float32)
    assert quantize(x, grid)[:, :, 0].tolist() == [[-121, -120, 7]] * 2
    assert np.array_equal(fake_quantize(x, grid), x)
    last = choose_params([0.0, -1.0, 0.0], [255.0, 254.0, 0.0], dtype="int8", symmetric=False, axis=-1)
    assert quantize(np.full((4, 3), 7.0, np.float32), last)[3].tolist() == [-121, -120, 7]


@pytest.mark.parametrize("axis", [0, 2, -3])
def test_channels_that_do_not_fit_are_refused(axis: int):
    grid = choose_params([0.0] * 3, [1.0] * 3, dtype="int8", symmetric=False, axis=axis)
    with pytest.raises(ValueError, match=f"3 scales along axis {axis} do not fit a tensor of shape"):
        quantize(np.zeros((2, 3), np.float32), grid)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_no_range_is_refused(low: float, high: float):
    with pytest.raises(ValueError, match="two finite ends"):
        params(low, high)


def test_ranges_and_axis_go_together():
    with pytest.raises(ValueError, match="do not go with axis None"):
        choose_params([0.0], [1.0], dtype="int8", symmetric=False)
    with pytest.raises(ValueError, match="do not go with axis 0"):
        choose_params(0.0, 1.0, dtype="int8", symmetric=False, axis=0)


@given(ends=ends, dtype=dtypes, symmetric=st.booleans())
def test_zero_is_exact_and_the_scale_a_normal_float32(ends: tuple[float, float], dtype: Any, symmetric: bool):
    grid = params(*ends, dtype, symmetric=symmetric)
    (scale,), (zero_point,) = grid.scale, grid.zero_point
    assert float(np.float32(scale)) == scale >= affine.TINY
    least, most = affine.limits(dtype, symmetric=symmetric)
    assert least <= zero_point <= most
    assert quantize(np.zeros(1, np.float32), grid).tolist() == [zero_point]
    assert fake_quantize(np.zeros(1, np.float32), grid).tolist() == [0.0]


@given(ends=ends, dtype=dtypes, symmetric=st.booleans(), where=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_within_the_range_the_error_is_half_a_step(
    ends: tuple[float, float], dtype: Any, symmetric: bool, where: list[float]
):
    grid = params(*ends, dtype, symmetric=symmetric)
    x = np.clip(ends[0] + np.array(where) * (ends[1] - ends[0]), *ends).astype(np.float32)
    off = np.abs(x.astype(np.float64) - fake_quantize(x, grid))
    # Half a step, and what float32 adds: the quotient and the product are rounded, and the scale was.
    assert (off <= grid.scale[0] / 2 + 2.0**-22 * np.maximum(np.abs(x), ends[1] - ends[0])).all()


@given(x=values, ends=ends, dtype=dtypes, symmetric=st.booleans())
def test_order_is_kept(x: Any, ends: tuple[float, float], dtype: Any, symmetric: bool):
    assert (np.diff(quantize(np.sort(x), params(*ends, dtype, symmetric=symmetric)).astype(np.int32)) >= 0).all()


@given(x=values, ends=ends, dtype=dtypes, symmetric=st.booleans())
def test_a_second_time_changes_nothing(x: Any, ends: tuple[float, float], dtype: Any, symmetric: bool):
    grid = params(*ends, dtype, symmetric=symmetric)
    once = fake_quantize(x, grid)
    assert np.array_equal(fake_quantize(once, grid), once)
    assert np.array_equal(quantize(once, grid), quantize(x, grid))


@given(ends=ends, dtype=dtypes, symmetric=st.booleans())
def test_the_grid_of_a_grids_own_range_is_that_grid(ends: tuple[float, float], dtype: Any, symmetric: bool):
    grid = params(*ends, dtype, symmetric=symmetric)
    low, high = range_of(grid)
    assert params(float(low), float(high), dtype, symmetric=symmetric) == grid
    covered = fake_quantize(np.array([-3e38, 3e38], np.float32), grid)
    assert covered.tolist() == [np.float32(low), np.float32(high)]


@given(
    integers=hnp.arrays(np.int8, (3, 9), elements=st.integers(-127, 127)),
    scales=st.lists(st.floats(2.0**-60, 2.0**60, width=32), min_size=3, max_size=3),
    dtype=st.sampled_from(["int8", "int4"]),
)
def test_min_max_gives_the_integers_back(integers: Any, scales: list[float], dtype: Any):
    """Toolchains that take float weights and quantize them by min-max write our integers if we hand over the grid."""
    most = affine.limits(dtype, symmetric=True)[1]
    integers = np.clip(integers, -most, most)
    integers[:, 0] = most  # the channel uses its whole range, as every channel does after `weight_params`
    given_scale = QuantParams(scale=tuple(scales), zero_point=(0, 0, 0), axis=0, dtype=dtype, symmetric=True)
    weights = dequantize(integers, given_scale)
    again = weight_params(weights, 0, dtype)
    assert np.array_equal(quantize(weights, again), integers)
    assert np.abs(np.array(again.scale) / np.array(scales) - 1).max() <= 2.0**-23


def test_weights_by_hand():
    weights = np.array([[1.27, -0.635], [0.0, 0.0], [-2.54, 0.01]], np.float32)
    grid = weight_params(weights, 0)
    # 1.27 / 127, the channel of zeros takes the finest of the others, 2.54 / 127
    assert grid.scale == tuple(float(np.float32(value) / np.float32(127)) for value in (1.27, 1.27, 2.54))
    assert grid.zero_point == (0, 0, 0)
    assert (grid.axis, grid.symmetric) == (0, True)
    # 63.5 in exact arithmetic; float32 holds 0.635 a little below
    assert quantize(weights, grid).tolist() == [[127, -64], [0, 0], [-127, 0]]


def test_weights_along_another_axis_without_one_and_all_zero():
    weights = np.arange(-12, 12, dtype=np.float32).reshape(2, 3, 4)
    assert weight_params(weights, 1).scale == tuple(float(np.float32(peak) / np.float32(127)) for peak in (12, 8, 11))
    assert weight_params(weights, -2).scale == weight_params(weights, 1).scale
    whole = weight_params(weights, None)
    assert whole.scale == (float(np.float32(12) / np.float32(127)),)
    assert quantize(weights, whole).min() == -127
    assert weight_params(np.zeros((4, 2), np.float32), 0).scale == (1.0,) * 4
    with pytest.raises(ValueError, match="finite"):
        weight_params(np.array([[np.nan]], np.float32), 0)


def test_a_least_scale_raises_only_what_is_below_it():
    weights = np.array([[127.0], [1.27]], np.float32)
    grid = weight_params(weights, 0, minimum_scale=[0.5, 0.5])
    assert grid.scale == (1.0, 0.5)
    assert quantize(weights, grid).tolist() == [[127], [3]]
    assert weight_params(weights, 0, minimum_scale=2.0).scale == (2.0, 2.0)
    third = weight_params(weights, 0, minimum_scale=1 / 3).scale[1]  # no float32: the next one above
    assert 1 / 3 <= third <= 1 / 3 + 2.0**-24


def test_bias_by_hand():
    bias = np.array([1.0, -0.03, 0.025, 0.0], np.float32)
    assert affine.int32_bias(bias, 0.5, 0.125).dtype == np.int32
    assert affine.int32_bias(bias, 0.5, 0.125).tolist() == [16, 0, 0, 0]
    assert affine.int32_bias(np.array([2.5, 3.5, -2.5]), 1.0, [1.0, 1.0, 1.0]).tolist() == [2, 4, -2]
    assert affine.bias_scale(0.1, [0.2, 0.4]).tolist() == (np.float32(0.1) * np.array([0.2, 0.4], np.float32)).tolist()


@pytest.mark.parametrize("w_scale", [[1.0, 1e-9], [1.0, 1e-38]])
def test_a_bias_beyond_int32_is_refused(w_scale: list[float]):
    with pytest.raises(ValueError, match="bias of channel 1 is"):
        affine.int32_bias(np.array([0.1, 3.0]), 1e-10, w_scale)


@given(
    bias=hnp.arrays(np.float32, 5, elements=st.floats(-(2.0**40), 2.0**40, width=32)),
    x_scale=st.floats(2.0**-40, 2.0**40, width=32),
)
def test_the_smallest_weight_scale_is_one_and_no_smaller_does(bias: Any, x_scale: float):
    smallest = affine.smallest_weight_scale(bias, x_scale)
    assert smallest.dtype == np.float32
    assert (np.abs(affine.int32_bias(bias, x_scale, smallest).astype(np.int64)) <= affine.BIAS_LIMIT + 128).all()
    assert (affine.bias_scale(x_scale, smallest) >= affine.TINY).all()
    halved = affine.bias_scale(x_scale, smallest / 2).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.abs(bias.astype(np.float64)) / halved > affine.BIAS_LIMIT
    assert (over | (halved < affine.TINY) | (smallest / 2 < affine.TINY)).all()


def test_the_symmetric_twin_by_hand():
    twin = affine.symmetric_twin(params(-1.0, 254.0))
    assert twin.scale == (2.0,)
    assert twin.zero_point == (0,)
    assert quantize(np.array([-300.0, 254.0], np.float32), twin).tolist() == [-128, 127]  # as TensorRT saturates
    negative = affine.symmetric_twin(params(-255.0, 0.0))
    assert negative.scale == (float(np.float32(255 / 127)),)


@given(ends=ends)
def test_the_symmetric_twin_covers_the_range(ends: tuple[float, float]):
    grid = params(*ends)
    assume(grid.scale[0] > 2.0**-100)
    (low, high), twin = range_of(grid), affine.symmetric_twin(grid)
    least, most = (float(end) for end in range_of(twin))
    slack = 2.0**-22 * twin.scale[0] * 127
    assert least <= low + slack
    assert most >= high - slack
    assert twin.scale[0] <= grid.scale[0] * 255 / 127 * (1 + 2.0**-22)


@given(x=values, ends=ends)
def test_the_uint8_twin_is_the_same_grid(x: Any, ends: tuple[float, float]):
    grid = params(*ends)
    counted = affine.as_uint8(quantize(x, grid))
    (zero_point,) = affine.uint8_zero_point(grid)
    assert 0 <= zero_point <= 255
    real = (counted.astype(np.float32) - np.float32(zero_point)) * np.float32(grid.scale[0])
    assert np.array_equal(real, fake_quantize(x, grid))


def test_only_int8_has_a_uint8_twin():
    assert affine.as_uint8(np.array([-128, 0, 127], np.int8)).tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match="int16 grid has no uint8 twin"):
        affine.uint8_zero_point(params(0.0, 1.0, "int16", symmetric=True))


@pytest.mark.parametrize(("dtype", "per_channel"), [("int8", False), ("int8", True), ("int16", False)])
def test_onnx_runtime_computes_the_same_integers(dtype: Any, per_channel: bool):
    import onnxruntime

    random = np.random.default_rng(3)
    x = (random.normal(size=(257, 4, 9)) * np.array([1, 0.01, 30, 5])[:, None]).astype(np.float32)
    if per_channel:
        grid = choose_params(x.min(axis=(0, 2)) * 0.8, x.max(axis=(0, 2)) * 0.8, dtype=dtype, symmetric=False, axis=1)
    else:
        grid = choose_params(float(x.min()) * 0.8, float(x.max()) * 0.8, dtype=dtype, symmetric=False)
    scale, zero_point = np.array(grid.scale, np.float32), np.array(grid.zero_point, np.int64)
    x[:, :, 0] = (random.integers(-200, 200, size=(257, 4)) + 0.5) * scale  # ties, or next to them
    axis = {} if grid.axis is None else {"axis": grid.axis}
    code = TensorProto.INT8 if dtype == "int8" else TensorProto.INT16
    shape = [len(scale)] if per_channel else []
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **axis),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **axis),
        ],
        "round",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [
            helper.make_tensor_value_info("q", code, x.shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
        ],
        [
            helper.make_tensor("s", TensorProto.FLOAT, shape, scale.tolist()),
            helper.make_tensor("z", code, shape, zero_point.tolist()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    integers, real = session.run(None, {"x": x})
    assert np.array_equal(quantize(x, grid), integers)
    assert np.array_equal(fake_quantize(x, grid), real)
    assert len(np.unique(integers)) > 100
