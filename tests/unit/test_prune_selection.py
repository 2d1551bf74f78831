"""Blocks, n:m and one threshold for all kernels, by hand and by property; TF-MOT's own are in the test beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith.errors import InternalError
from edgesmith.frameworks import import_keras
from optimizer import masks
from optimizer.kernels import prunable_kernels
from optimizer.magnitude import MagnitudePruner, settle
from optimizer.saliency.layouts import Layout, layouts
from optimizer.saliency.patterns import Blocks, NOfM, n_of_m
from optimizer.saliency.selection import Selection


def _dense(*shape: int) -> Layout:
    return Layout(None, shape, (len(shape) - 2,), (len(shape) - 1,))


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_smaller_block_goes_whole():
    weights = np.array([[9, 0, 3, 3], [0, 0, 3, 3]], np.float32)
    for pooling, stays in (("max", [True, True, False, False]), ("average", [False, False, True, True])):
        selection = Selection(layouts={"k": _dense(2, 4)}, pattern=Blocks(2, 2, pooling))
        assert selection.masks({"k": weights}, 0.5)["k"].tolist() == [stays, stays]


def test_blocks_of_a_convolution_lie_within_one_tap():
    weights = _random(2, 2, 4, 6)
    selection = Selection(layouts={"k": _dense(2, 2, 4, 6)}, pattern=Blocks(2, 3))
    mask = selection.masks({"k": weights}, 0.75)["k"]
    blocks = mask.reshape(2, 2, 2, 2, 2, 3)
    whole = blocks.all(axis=(3, 5))
    assert (whole == blocks.any(axis=(3, 5))).all()
    assert int(whole.sum()) == 4


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
def test_what_a_pruner_left_settles_to_itself(rows: int, columns: int, high: int, wide: int, seed: int):
    """Also where blocks stick out, and TF-MOT's windows are shifted against them."""
    selection = Selection(layouts={"k": _dense(rows, columns)}, pattern=Blocks(high, wide))
    weights = _random(rows, columns, seed=seed)
    pruned = np.where(selection.masks({"k": weights}, 0.6)["k"], weights, 0)
    again = np.where(selection.settled({"k": pruned}, 0.6)["k"], pruned, 0)
    assert again.tolist() == pruned.tolist()


def test_two_of_four_by_hand_with_a_rest_of_three():
    weights = np.array([1, -5, 2, 3, 0.5, 0.1, 0.4], np.float32)[:, None]
    mask = Selection(layouts={"k": _dense(7, 1)}, pattern=NOfM(2, 4)).masks({"k": weights}, 0.5)["k"]
    assert mask[:, 0].tolist() == [False, True, False, True, True, False, True]


@given(st.integers(1, 3), st.integers(1, 10), st.integers(1, 4), st.integers(0, 999))
def test_two_of_four_leaves_the_two_largest_of_every_four(taps: int, inputs: int, outputs: int, seed: int):
    weights = np.round(_random(taps, inputs, outputs, seed=seed), 1)
    pattern = NOfM(2, 4)
    mask = pattern.keep(weights)
    assert pattern.broken(weights * mask) == 0
    for start in range(0, inputs, 4):
        group, kept = np.abs(weights[:, start : start + 4]), mask[:, start : start + 4]
        assert (kept.sum(axis=1) == min(2, group.shape[1])).all()
        smallest = np.where(kept, group, np.inf).min(axis=1)
        assert (smallest >= np.where(kept, -np.inf, group).max(axis=1)).all()


def test_names_of_patterns():
    assert n_of_m("2:4") == NOfM(2, 4)
    assert n_of_m("1:4").sparsity == 0.75
    assert [n_of_m(text) for text in ("4:2", "4:4", "0:4", "2:4:8", "block", "")] == [None] * 6


def _net() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(4)
    layers = keras.layers
    x = image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, name="conv")(x)
    x = layers.Conv2DTranspose(6, 2, name="up")(x)
    x = layers.Reshape((49, 6))(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.GRU(5, name="gru")(x)
    return keras.Model(image, layers.Dense(3, name="head")(x))


def test_input_channels_of_every_layer():
    model = _net()
    found = layouts(model, prunable_kernels(model))
    axes = {name: (layout.inputs, layout.outputs) for name, layout in found.items()}
    assert axes["conv/kernel"] == ((2,), (3,))
    assert axes["up/kernel"] == ((3,), (2,))
    assert axes["attention/_query_dense.kernel"] == ((0,), (1, 2))
    assert axes["attention/_output_dense.kernel"] == ((0, 1), (2,))
    assert axes["gru/gru_cell/recurrent_kernel"] == ((0,), (1,))
    for layout in found.values():
        values = _random(*layout.shape)
        assert layout.kernel(layout.matrices(values)).tolist() == values.tolist()


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.999])
def test_a_global_scope_keeps_the_exact_count_and_no_kernel_empty(adaptive: bool, sparsity: float):
    scores = {"a": np.abs(_random(30, 10)), "b": np.abs(_random(3, 3, 4, 5)) * 1e-6, "c": np.abs(_random(7)) * 1e3}
    selection = Selection(layouts={}, scope="global", adaptive=adaptive)
    chosen = selection.masks(scores, sparsity)
    total = sum(values.size for values in scores.values())
    assert sum(int(mask.sum()) for mask in chosen.values()) == max(masks.kept(total, sparsity), 3)
    assert all(mask.any() for mask in chosen.values())


def test_global_magnitudes_do_not_depend_on_a_layers_scale_and_saliencies_do():
    scores = {"a": np.abs(_random(200)), "b": np.abs(_random(200, seed=1))}
    louder = {**scores, "b": scores["b"] * 100}
    counts = {}
    for adaptive in (True, False):
        selection = Selection(layouts={}, scope="global", adaptive=adaptive)
        counts[adaptive] = [int(selection.masks(each, 0.5)["b"].sum()) for each in (scores, louder)]
    assert counts[True][0] == counts[True][1]
    assert counts[False][1] > 190 > counts[False][0]


def test_lamp_by_hand():
    # a: 9/9, 4/13, 1/14; b: 16/16, 16/32, 1/33. Half of six stay: 1, 1 and 1/2.
    scores = {"a": np.array([1.0, 3.0, 2.0]), "b": np.array([4.0, 1.0, 4.0])}
    chosen = Selection(layouts={}, scope="global").masks(scores, 0.5)
    assert {name: mask.tolist() for name, mask in chosen.items()} == {
        "a": [False, True, False],
        "b": [True, False, True],
    }


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        ({"pattern": NOfM(2, 4)}, r"groups of 4 input channels in d/kernel have more than 2 weights that are not zero"),
        ({"pattern": Blocks(2, 2)}, r"d/kernel has 0 zero blocks of 16; sparsity 0.5 means 8"),
        ({"scope": "global"}, r"the whole of 1 kernels has 0 zero weights of 64; sparsity 0.5 means 32"),
        ({}, r"d/kernel has 0 zeros of 64; sparsity 0.5 means 32"),
    ],
)
def test_a_promise_that_is_not_kept_is_an_internal_error(selection: dict[str, Any], text: str):
    keras = import_keras()
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="d")])
    kernels = prunable_kernels(model)
    made = Selection(layouts=layouts(model, kernels), **selection)
    with pytest.raises(InternalError, match=text):
        made.check(kernels, 0.5)
    settle(kernels, 0.5, made)
    made.check(kernels, 0.5)


def test_the_pruner_renews_blocks_and_holds_them():
    keras = import_keras()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="d")])
    kernels = prunable_kernels(model)
    selection = Selection(layouts=layouts(model, kernels), pattern=Blocks(4, 2))
    pruner = MagnitudePruner(kernels, lambda step: (step < 3, 0.25 * step), selection)
    for zeros in (16, 32, 32):
        pruner.begin_step()
        assert np.count_nonzero(kernels[0].value() == 0) == zeros
        kernels[0].assign(kernels[0].value() + 0.01)
