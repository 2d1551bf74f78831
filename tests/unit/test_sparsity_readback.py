"""Zeros are found again under any layout and scaling, and lost ones are told."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith.errors import InternalError
from targets.sparsity import assert_kernels_keep_zeros
from tests.tiny_networks import pruned


def kernel(*shape: int, seed: int = 0) -> np.ndarray:
    return pruned(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


HWIO = kernel(3, 3, 4, 8)


@pytest.mark.parametrize(
    "shipped",
    [
        HWIO.transpose(3, 0, 1, 2),  # OHWI, a .tflite convolution
        HWIO.transpose(3, 2, 0, 1),  # OIHW, an .onnx convolution
        (HWIO * 2.5).transpose(3, 0, 1, 2).astype(np.int8),  # quantized: more zeros, none fewer
        HWIO.transpose(3, 0, 1, 2).astype(np.float16),
        HWIO * np.linspace(-2, 2, 8),  # batch normalization folded
    ],
)
def test_a_convolution_is_recognised_in_every_layout(shipped: np.ndarray):
    assert_kernels_keep_zeros({"conv": HWIO}, {"other": kernel(5, 5), "kernel": shipped}, artifact="net.tflite")


def test_depthwise_and_dense_layouts_are_recognised():
    depthwise = kernel(3, 3, 6, 2)
    assert_kernels_keep_zeros({"d": depthwise}, {"k": depthwise.reshape(1, 3, 3, 12)}, artifact="net.tflite")
    onnx = depthwise.reshape(3, 3, 12).transpose(2, 0, 1).reshape(12, 1, 3, 3)
    assert_kernels_keep_zeros({"d": depthwise}, {"k": onnx}, artifact="net.onnx")
    dense = kernel(10, 6)
    assert_kernels_keep_zeros({"d": dense}, {"k": dense.T.copy()}, artifact="net.tflite")


@given(axes=st.permutations(range(4)), seed=st.integers(0, 1000), lost=st.integers(0, 10**6))
def test_one_lost_zero_is_always_noticed(axes: list[int], seed: int, lost: int):
    model = kernel(3, 2, 4, 5, seed=seed)
    shipped = model.transpose(axes).copy()
    assert_kernels_keep_zeros({"conv": model}, {"k": shipped}, artifact="net")
    zeros = np.argwhere(shipped == 0)
    shipped[tuple(zeros[lost % len(zeros)])] = 1.0
    with pytest.raises(InternalError, match="the zeros of 'conv' were lost"):
        assert_kernels_keep_zeros({"conv": model}, {"k": shipped}, artifact="net")


def test_zeros_in_other_places_do_not_count():
    other = kernel(3, 3, 4, 8, seed=9)
    with pytest.raises(InternalError) as caught:
        assert_kernels_keep_zeros({"block/conv": HWIO}, {"net/k": other}, artifact="net.onnx")
    assert str(caught.value) == (
        "net.onnx: the zeros of 'block/conv' were lost: 50.00% of its weights are zero in the model; the closest "
        "kernel of its size, 'net/k', has 50.00%, and not in the same places."
    )


def test_a_kernel_that_is_not_there_is_told():
    with pytest.raises(InternalError, match=r"net\.tflite: no kernel of 288 weights, the size of the pruned 'conv'"):
        assert_kernels_keep_zeros({"conv": HWIO}, {"k": kernel(5, 5)}, artifact="net.tflite")


def test_kernels_without_zeros_are_passed_over():
    assert_kernels_keep_zeros({"dense": np.ones((3, 3))}, {}, artifact="net.tflite")


def test_every_pruned_kernel_is_looked_for():
    kernels = {name: kernel(4, 4, seed=seed) for seed, name in enumerate(("a", "b", "c"))}
    for missing in kernels:
        shipped = {name: values for name, values in kernels.items() if name != missing}
        with pytest.raises(InternalError, match=f"'{missing}'"):
            assert_kernels_keep_zeros(kernels, shipped, artifact="net")
    for order in itertools.permutations(kernels):
        assert_kernels_keep_zeros({name: kernels[name] for name in order}, kernels, artifact="net")
