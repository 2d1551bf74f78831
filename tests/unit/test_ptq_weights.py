"""Scales and integers of a kernel; what its rows are multiplied with; zeros and shared values survive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.affine import dequantize
from optimizer.ptq import weights
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

BATCH = 3


def alone(
    kind: str, kernel: Any, shape: tuple[int, ...], **attributes: Any
) -> tuple[PlanGraph, PlanOp, np.ndarray[Any, np.dtype[np.float32]]]:
    """One op, with a bias of zeros, and an input for it."""
    channels = kernel.shape[1] if kind == "ConvTranspose" or (kind == "Gemm" and not attributes) else kernel.shape[0]
    stored = [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(np.zeros(channels, np.float32), "b")]
    node = helper.make_node(kind, ["x", "w", "b"], ["y"], name="op", **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "net", [given], [made], stored),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    import onnx

    graph = PlanGraph(onnx.shape_inference.infer_shapes(model))
    return graph, graph.ops[0], np.random.default_rng(1).normal(size=(BATCH, *shape)).astype(np.float32)


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "kernel", "shape", "attributes"),
    [
        ("Conv", random(4, 3, 3, 3), (3, 7, 6), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ("Conv", random(4, 3, 3, 2), (3, 9, 9), {"dilations": [2, 3]}),
        ("Conv", random(6, 1, 3, 3), (6, 5, 5), {"group": 6, "pads": [1] * 4}),
        ("Conv", random(4, 3, 3, 3), (6, 5, 5), {"group": 2}),
        ("Conv", random(4, 3, 3, 3), (3, 6, 5), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("Conv", random(4, 3, 4, 4), (3, 6, 5), {"auto_pad": "SAME_LOWER"}),
        ("Conv", random(4, 3, 5), (3, 11), {"pads": [2, 2], "strides": [2]}),
        ("Gemm", random(4, 5), (5,), {"transB": 1}),
        ("Gemm", random(5, 4), (5,), {}),
    ],
)
def test_rows_of_the_kernel_times_rows_of_the_input_are_the_output(kind, kernel, shape, attributes):  # noqa: ANN001
    graph, op, x = alone(kind, kernel, shape, **attributes)
    found = weights.input_rows(graph, op, {"a": x, "b": 2 * x}, most=10_000, seed=0)
    assert found is not None
    one, other = found
    np.testing.assert_array_equal(other, 2 * one)
    made = np.concatenate([part["y"] for part in graph.run(x)])
    products = weights.rows(op, kernel) @ np.swapaxes(one, 1, 2)  # [G, C, M]
    wanted = np.moveaxis(made, 1, 0).reshape(op.groups, -1, one.shape[1])
    np.testing.assert_allclose(products, wanted, rtol=1e-4, atol=1e-5)


def test_positions_are_a_choice_that_depends_on_the_seed_alone():
    graph, op, x = alone("Conv", random(4, 3, 3, 3), (3, 40, 40))
    one, again, other = (weights.input_rows(graph, op, {"x": x}, most=300, seed=seed) for seed in (0, 0, 1))
    assert one is not None
    assert again is not None
    assert other is not None
    assert one[0].shape == (1, 300, 27)
    np.testing.assert_array_equal(one[0], again[0])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("kind", "kernel", "shape", "attributes"),
    [
        ("Conv", random(6, 1, 3, 3), (6, 5, 5), {"group": 6}),
        ("ConvTranspose", random(3, 4, 2, 2), (3, 5, 5), {"strides": [2, 2]}),
        ("Gemm", random(5, 4), (5,), {}),
    ],
)
def test_integers_are_in_the_kernels_own_layout(kind, kernel, shape, attributes):  # noqa: ANN001
    _, op, _ = alone(kind, kernel, shape, **attributes)
    grid = choice(op, kernel)
    assert grid.axis == op.weight_axis
    q = weights.integers(op, kernel, grid)
    assert q.shape == kernel.shape
    half = np.array(grid.scale).max() / 2
    np.testing.assert_allclose(dequantize(q, grid), kernel, atol=half * 1.001)
    assert np.abs(np.moveaxis(q, grid.axis or 0, 0).reshape(len(grid.scale), -1)).max(axis=1).tolist() == [127] * len(
        grid.scale
    )


def choice(op: PlanOp, kernel: Any, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "bias": None,
        "dtype": "int8",
        "per_channel": True,
        "x_scale": None,
        "found": None,
        "fitted": False,
        **changes,
    }
    bias = options.pop("bias")
    return weights.choose_scale(op, kernel, bias, **options)


def test_an_outlier_that_no_input_reaches_is_clipped_away():
    kernel = np.full((1, 8), 0.3, np.float32)
    kernel[0, :7] = np.linspace(-0.31, 0.29, 7)
    kernel[0, 7] = 0.4
    _, op, _ = alone("Gemm", kernel, (8,), transB=1)
    second = np.diag([1.0] * 7 + [0.0])[None]
    fitted = choice(op, kernel, dtype="int4", found=weights.Moments(second=second, cross=second), fitted=True)
    assert fitted.scale[0] < 0.4 / 7
    # With inputs that matter equally, clipping it costs more than it gains.
    even = np.eye(8)[None] * 1.0
    even[0, 7, 7] = 100.0
    covered = choice(op, kernel, dtype="int4", found=weights.Moments(second=even, cross=even), fitted=True)
    np.testing.assert_allclose(covered.scale[0], 0.4 / 7, rtol=1e-6)


def test_no_scale_is_so_small_that_the_bias_overflows():
    kernel = np.array([[1e-9, 0.0], [1.0, 0.5]], np.float32)
    _, op, _ = alone("Gemm", kernel, (2,), transB=1)
    bias = np.array([3.0, 3.0], np.float32)
    for fitted in (False, True):
        scale = np.array(choice(op, kernel, bias=bias, x_scale=0.01, fitted=fitted).scale)
        assert np.abs(bias / (0.01 * scale)).max() < 2**31
        np.testing.assert_allclose(scale[1], 1 / 127, rtol=1e-6)


def test_zeros_stay_zeros_also_where_the_rounding_is_learned():
    kernel = random(8, 16)
    kernel.reshape(8, 4, 4)[..., :2] = 0.0  # a 2:4 pattern
    _, op, _ = alone("Gemm", kernel, (16,), transB=1)
    inputs = random(1, 64, 16, seed=5) @ random(16, 16, seed=6)
    found = weights.moments(inputs, inputs, centred=False)
    for dtype in ("int8", "int4"):
        grid = choice(op, kernel, dtype=dtype, found=found, fitted=True)
        learned = weights.integers(op, kernel, grid, found=found)
        assert (learned[kernel == 0] == 0).all()
        assert (learned != weights.integers(op, kernel, grid)).any()


def test_shared_values_stay_shared():
    book = np.sort(random(8, seed=3))
    kernel = book[np.random.default_rng(0).integers(0, 8, size=(6, 5, 3, 3))]
    _, op, _ = alone("Conv", kernel, (5, 6, 6))
    grid = choice(op, kernel, fitted=True)
    assert len(set(grid.scale)) == 1
    q = weights.integers(op, kernel, grid)
    assert len(np.unique(q)) <= 8
    # One scale for each channel would have made more of them.
    peaks = np.abs(kernel).reshape(6, -1).max(axis=1)
    apart = np.rint(kernel / (peaks / 127).reshape(-1, 1, 1, 1))
    assert len(np.unique(apart)) > 8 or len(set(peaks)) == 1


def test_shared_values_stay_shared_where_a_batch_normalization_was_folded():
    book = np.sort(random(8, seed=3))
    clustered = book[np.random.default_rng(0).integers(0, 8, size=(6, 5, 3, 3))]
    clustered[2][clustered[2] == clustered[2].max()] = 0.0  # a channel without its largest value
    folded = clustered * np.array([1.0, 0.31, 2.7, -1.3, 0.05, 1.0], np.float32).reshape(-1, 1, 1, 1)
    assert len(np.unique(folded)) > 30
    _, op, _ = alone("Conv", folded, (5, 6, 6))
    q = weights.integers(op, folded, choice(op, folded, fitted=True))
    # A negative factor turns signs, nothing else.
    q[3] = -q[3]
    assert len(np.unique(q)) <= 9


def test_other_kernels_are_not_taken_for_clustered_ones():
    for kernel in (random(6, 5, 3, 3), random(6, 1, 3, 3), random(2, 3, 1, 1)):
        _, op, _ = (
            alone("Conv", kernel, (kernel.shape[1], 6, 6))
            if kernel.shape[1] > 1
            else alone("Conv", kernel, (6, 6, 6), group=6)
        )
        assert weights.shared_factors(op, kernel) is None


def test_a_pruned_kernel_is_not_taken_for_a_clustered_one():
    kernel = random(16, 4, 3, 3)
    kernel[np.random.default_rng(0).random(kernel.shape) < 0.92] = 0.0
    assert len(np.unique(kernel)) < 64
    _, op, _ = alone("Conv", kernel, (4, 6, 6))
    assert weights.shared_factors(op, kernel) is None


def test_a_pointwise_kernel_with_a_dead_input_is_not_taken_for_a_clustered_one():
    kernel = random(32, 64, 1, 1)
    kernel[:, 5] *= 1e-9  # against this value as the unit, all others would be alike
    _, op, _ = alone("Conv", kernel, (64, 6, 6))
    assert weights.shared_factors(op, kernel) is None


def test_one_scale_for_the_kernel_where_the_user_says_so():
    kernel = random(6, 5, 3, 3)
    _, op, _ = alone("Conv", kernel, (5, 6, 6))
    grid = choice(op, kernel, per_channel=False)
    assert grid.axis is None
    np.testing.assert_allclose(grid.scale, [np.abs(kernel).max() / 127], rtol=1e-6)
    q = weights.integers(op, kernel, grid)
    np.testing.assert_allclose(q * grid.scale[0], kernel, atol=grid.scale[0] * 0.501)
