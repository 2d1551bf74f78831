"""Products of kernels: exact at full rank, errors as the singular values say, and better where data is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from optimizer.factors import choose, maps
from optimizer.factors.moments import patches, second_moments
from optimizer.factors.products import multiplied, products

FORMS = ("svd", "spatial", "tucker")
SHAPES = [(7, 5), (4, 9), (1, 1, 6, 8), (3, 3, 4, 6), (3, 2, 5, 3), (2, 2, 1, 9), (5, 3, 4)]


def kernel_of(shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def moment_of(size: int, seed: int) -> Any:
    """Correlated inputs: a few directions hold most."""
    rows = np.random.default_rng(seed).normal(size=(4 * size, size)) * 0.6 ** np.arange(size)
    rows = rows @ np.linalg.qr(kernel_of((size, size), seed + 1))[0]
    return rows.T @ rows / len(rows)


def output_error(kernel: Any, other: Any, moment: Any) -> float:
    """E|x(W - W')|^2 / E|xW|^2."""
    gone, whole = ((one.reshape(-1, kernel.shape[-1])) for one in (kernel - other, kernel))
    return float(np.trace(gone.T @ moment @ gone) / np.trace(whole.T @ moment @ whole))


@settings(max_examples=30, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 99), data=st.booleans())
def test_every_product_is_exact_at_full_rank(shape: tuple[int, ...], seed: int, data: bool):
    kernel = kernel_of(shape, seed)
    moment = moment_of(kernel[..., 0].size, seed) if data else None
    for product in products(kernel, moment, FORMS):
        factors = product.kernels(product.most)
        assert_allclose(multiplied(product.form, factors), kernel, atol=1e-5)
        assert product.error(product.most) < 1e-5
        for factor, stage in zip(factors, product.stages(product.most), strict=True):
            assert factor.size == stage.size(shape[:-2])


@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 99), rank=st.integers(1, 4))
def test_the_error_of_two_factors_is_the_tail_of_the_singular_values(shape: tuple[int, ...], seed: int, rank: int):
    kernel = kernel_of(shape, seed)
    for product in products(kernel, None, FORMS[:2]):
        flat = kernel.reshape(-1, shape[-1])
        if product.form == "spatial":
            flat = kernel.transpose(0, 2, 1, 3).reshape(shape[0] * shape[2], -1)
        squares = np.linalg.svd(flat, compute_uv=False) ** 2
        cut = min(rank, product.most[0])
        expected = squares[cut:].sum() / squares.sum()
        assert product.error((cut,)) == pytest.approx(expected, abs=1e-9)
        made = multiplied(product.form, product.kernels((cut,)))
        assert np.sum((kernel - made) ** 2) / squares.sum() == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 99), share=st.floats(0.2, 0.9))
def test_on_correlated_inputs_factors_fitted_to_them_lose_less(shape: tuple[int, ...], seed: int, share: float):
    kernel = kernel_of(shape, seed)
    moment = moment_of(kernel[..., 0].size, seed)
    for plain, aware in zip(products(kernel, None, FORMS), products(kernel, moment, FORMS), strict=True):
        ranks = tuple(max(1, round(share * most)) for most in plain.most)
        lost = [output_error(kernel, multiplied(p.form, p.kernels(ranks)), moment) for p in (plain, aware)]
        assert aware.error(ranks) == pytest.approx(lost[1], abs=1e-4)
        assert lost[1] <= lost[0] + 1e-4


def test_the_best_rank_for_known_inputs_by_hand():
    """W = diag(1, 2). Plain: the 2 stays. Inputs that never show the second direction: the 1 does."""
    kernel = np.diag([1.0, 2.0])
    (plain,) = products(kernel, None, FORMS)
    assert_allclose(multiplied("svd", plain.kernels((1,))), [[0, 0], [0, 2]], atol=1e-12)
    assert plain.error((1,)) == pytest.approx(1 / 5)
    (aware,) = products(kernel, np.diag([9.0, 1.0]), FORMS)  # outputs of energy 9 and 4
    assert_allclose(multiplied("svd", aware.kernels((1,))), [[1, 0], [0, 0]], atol=1e-5)
    assert aware.error((1,)) == pytest.approx(4 / 13, abs=1e-4)


def test_tucker_of_a_kernel_that_is_one():
    """A core of 2 x 3 channels between two orthonormal bases: found at those ranks, and the error is then zero."""
    core, into, out = kernel_of((3, 3, 2, 3), 0), kernel_of((6, 2), 1), kernel_of((3, 8), 2)
    kernel = np.einsum("ca,hwab,bn->hwcn", into, core, out)
    (tucker,) = products(kernel, None, ("tucker",))
    assert tucker.error((2, 3)) < 1e-12
    assert tucker.error((1, 3)) > 1e-3
    assert_allclose(multiplied("tucker", tucker.kernels((2, 3))), kernel, atol=1e-10)


CONVOLUTIONS = [
    {"kernel_size": 3, "strides": 2, "padding": "same"},
    {"kernel_size": (3, 2), "strides": (1, 2), "padding": "valid"},
    {"kernel_size": 3, "dilation_rate": 2, "padding": "same"},
    {"kernel_size": 1, "strides": 2, "padding": "same"},
]


@pytest.mark.parametrize("config", CONVOLUTIONS, ids=str)
def test_patches_times_kernel_are_the_layer_s_outputs(config: Any):
    keras = import_keras()
    keras.utils.set_random_seed(0)
    given = keras.Input((9, 8, 3))
    model = keras.Model(given, keras.layers.Conv2D(4, name="conv", **config)(given))
    linear = maps.find(model)[0]["conv"]
    x = np.random.default_rng(0).normal(size=(5, 9, 8, 3)).astype(np.float32)
    rows = patches(linear, x, 10**9, np.random.default_rng(0))
    outputs = np.asarray(model(x)).reshape(-1, 4)
    assert_allclose(rows @ linear.kernel().reshape(-1, 4), outputs, atol=1e-4)
    found = second_moments(model, [linear], x, seed=0, progress=Silent())["conv"]
    assert_allclose(found, rows.T @ rows / len(rows), atol=1e-4)
    assert "call" not in vars(linear.layer)


def option(macs: int, error: float) -> choose.Option:
    return choose.Option("svd", (1,), macs, macs, error)


def dense(inputs: int, outputs: int, name: str) -> maps.Linear:
    keras = import_keras()
    layer = keras.layers.Dense(outputs, name=name)
    layer.build((None, inputs))
    return maps.Linear(name, layer, (((1,), (1,)),))


def test_a_budget_takes_what_saves_most_for_its_error():
    """a: 100 -> 40 for 0.1, 20 for 0.5; b: 100 -> 50 for 0.2, 80 for 0.15 (off the hull)."""
    layers = {"a": dense(10, 10, "a"), "b": dense(10, 10, "b")}
    found = {"a": [option(40, 0.1), option(20, 0.5)], "b": [option(50, 0.2), option(80, 0.15)]}

    def chosen(keep: float) -> dict[str, int]:
        made = choose.under_budget(layers, found, total=200, keep=keep, count="macs")
        return {path: one.macs for path, one in made.items()}

    assert chosen(0.8) == {"a": 40}
    assert chosen(0.6) == {"a": 40, "b": 50}
    assert chosen(0.36) == {"a": 20, "b": 50}
    with pytest.raises(
        ModelError, match=r"keep 30% of the macs cannot be reached: .* 2 layers that can be factorised .a, b., 35% stay"
    ):
        chosen(0.3)


def test_options_are_smaller_in_both_and_multiples():
    """8 x 8 has 64 weights: rank r has 16 r, so 3 is the largest; of multiples of 2 that is 2."""
    linear = dense(8, 8, "d")
    ways = products(kernel_of((8, 8), 0), None, FORMS)
    assert [one.ranks for one in choose.options(linear, ways, multiple=1)] == [(1,), (2,), (3,)]
    assert [(one.ranks, one.macs) for one in choose.options(linear, ways, multiple=2)] == [((2,), 32)]
    assert choose.within(choose.options(linear, ways, multiple=1), 0.0) is None
