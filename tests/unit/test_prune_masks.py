"""The mask rule by hand and by property, and what counts as a prunable kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgesmith.errors import InternalError, ModelError
from edgesmith.frameworks import import_keras
from optimizer import masks
from optimizer.kernels import prunable_kernels, select
from optimizer.magnitude import MagnitudePruner, settle

SPARSITIES = st.floats(0, 0.99)
KERNELS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6), elements=st.floats(-2, 2, width=32)
)


def _dense(units: int = 4, inputs: int = 4, name: str = "d") -> Any:
    keras = import_keras()
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units, name=name, use_bias=False)])


def test_mask_by_hand():
    weights = np.array([[0.1, -0.9, 0.3], [-0.2, 0.5, 0.4]], np.float32)
    # 6 weights, half of them stay: 0.9, 0.5, 0.4.
    expected = [[False, True, False], [False, True, True]]
    assert masks.magnitude_mask(weights, 0.5).tolist() == expected
    assert masks.exact_mask(weights, 0.5).tolist() == expected


def test_ties_with_the_threshold_all_stay_as_in_tfmot_and_only_the_first_in_the_exact_mask():
    weights = np.array([0.5, -0.5, 0.5, 0.5, 0.1, 0.9], np.float32)
    assert masks.magnitude_mask(weights, 0.5).tolist() == [True, True, True, True, False, True]
    assert masks.exact_mask(weights, 0.5).tolist() == [True, True, False, False, False, True]


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [(6, 0.5, 3), (5, 0.5, 2), (7, 0.5, 4), (3, 0.5, 2), (10, 0.99, 1), (1, 0.9, 1), (432, 0.85, 65), (10, 0.0, 10)],
)
def test_kept_rounds_halves_to_even_and_leaves_one(size: int, sparsity: float, kept: int):
    assert masks.kept(size, sparsity) == kept


@given(KERNELS, SPARSITIES)
def test_exact_mask_keeps_the_count_and_lies_within_tfmots(weights: np.ndarray, sparsity: float):
    exact, theirs = masks.exact_mask(weights, sparsity), masks.magnitude_mask(weights, sparsity)
    assert int(exact.sum()) == masks.kept(weights.size, sparsity)
    assert not (exact & ~theirs).any()
    if not exact.all():
        assert np.abs(weights[exact]).min() >= np.abs(weights[~exact]).max()


@given(KERNELS, SPARSITIES, SPARSITIES)
def test_more_sparsity_never_brings_a_weight_back(weights: np.ndarray, one: float, other: float):
    low, high = sorted((one, other))
    assert not (masks.exact_mask(weights, high) & ~masks.exact_mask(weights, low)).any()


def test_settle_breaks_ties_and_leaves_no_negative_zero():
    model = _dense()
    kernel = prunable_kernels(model)[0]
    kernel.assign(np.array([[0.5, -0.5, 0.5, 0.5], [-0.0] * 4, [-0.5] * 4, [0.5] * 4], np.float32))
    settle([kernel], 0.75)
    after = kernel.value()
    assert np.count_nonzero(after) == 4
    assert after[0].tolist() == [0.5, -0.5, 0.5, 0.5]
    assert not np.signbit(after[after == 0]).any()
    masks.assert_sparsity([kernel], 0.75)


def test_too_few_zeros_are_an_internal_error_with_the_count():
    model = _dense(name="head")
    with pytest.raises(InternalError, match=r"head/kernel has 0 zeros of 16; sparsity 0.75 means 12"):
        masks.assert_sparsity(prunable_kernels(model), 0.75)


def test_a_lost_zero_is_an_internal_error_that_names_step_and_kernel():
    model = _dense(name="head")
    kernel = prunable_kernels(model)[0]
    settle([kernel], 0.5)
    before = masks.zero_pattern(model)
    masks.check_preserved(before, model, step="cluster")
    weights = kernel.value()
    weights[tuple(np.argwhere(weights == 0)[0])] = 1.0
    kernel.assign(weights)
    with pytest.raises(InternalError, match=r"Step 'cluster' gave 1 of 8 zeros in head/kernel a value again"):
        masks.check_preserved(before, model, step="cluster")


def test_kernels_that_a_step_reshaped_are_not_compared():
    before = _dense(units=4)
    settle(prunable_kernels(before), 0.5)
    masks.check_preserved(masks.zero_pattern(before), _dense(units=3), step="structured")


def test_an_all_zero_kernel_is_an_initialisation_and_no_pattern():
    model = _dense()
    prunable_kernels(model)[0].assign(np.zeros((4, 4), np.float32))
    assert masks.zero_pattern(model) == {}


def test_zeros_of_an_earlier_step_stay_through_a_weaker_prune():
    model = _dense()
    kernel = prunable_kernels(model)[0]
    settle([kernel], 0.75)
    zeros = kernel.value() == 0
    pruner = MagnitudePruner([kernel], lambda step: (True, 0.25))
    kernel.assign(kernel.value() + 1.0)  # as an optimizer would, masked weights too
    pruner.begin_step()
    assert (kernel.value() == 0).tolist() == zeros.tolist()


def test_state_goes_back_and_forth():
    model = _dense()
    kernel = prunable_kernels(model)[0]
    pruner = MagnitudePruner([kernel], lambda step: (step == 1, 0.5))
    pruner.begin_step()
    state = pruner.state()
    other = MagnitudePruner([kernel], lambda step: (step == 1, 0.5))
    other.restore(state)
    assert (other.step, other.sparsity) == (1, 0.5)
    assert other.masks["d/kernel"].tolist() == pruner.masks["d/kernel"].tolist()


def test_the_callback_prunes_in_a_plain_fit():
    keras = import_keras()
    keras.utils.set_random_seed(0)
    model = _dense()
    model.compile("sgd", "mse")
    kernels = prunable_kernels(model)
    pruner = MagnitudePruner(kernels, lambda step: (step == 2, 0.5))
    x = np.ones((8, 4), np.float32)
    model.fit(x, x, batch_size=2, verbose=0, callbacks=[pruner.callback()], validation_data=(x, x))
    assert pruner.step == 4
    assert masks.zero_counts(model) == {"d/kernel": masks.ZeroCount(zeros=8, size=16)}


def _zoo() -> Any:
    keras = import_keras()
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(2, 1, name="conv")], name="inner")
    shared = layers.Dense(2, name="shared")
    x = keras.Input((4, 4, 2))
    h = inner(x)
    h = layers.DepthwiseConv2D(1, name="depthwise")(h)
    h = layers.SeparableConv2D(2, 1, name="separable")(h)
    h = shared(shared(h))
    h = layers.Reshape((16, 2))(h)
    h = layers.MultiHeadAttention(1, 2, name="attention")(h, h)
    h = layers.Bidirectional(layers.GRU(2, name="gru"), name="both")(h)
    h = layers.RepeatVector(2)(h)
    h = layers.TimeDistributed(layers.Dense(2, name="inside"), name="each")(h)
    h = layers.EinsumDense("abc,cd->abd", (None, 2), name="einsum")(h)
    return keras.Model(x, layers.BatchNormalization(name="bn")(h))


def test_prunable_kernels_of_nested_wrapped_and_shared_layers():
    names = [kernel.name for kernel in prunable_kernels(_zoo())]
    assert names == [
        "inner/conv/kernel",
        "separable/pointwise_kernel",
        "shared/kernel",
        "attention/_query_dense.kernel",
        "attention/_key_dense.kernel",
        "attention/_value_dense.kernel",
        "attention/_output_dense.kernel",
        "both/forward_gru/gru_cell/kernel",
        "both/forward_gru/gru_cell/recurrent_kernel",
        "both/backward_gru/gru_cell/kernel",
        "both/backward_gru/gru_cell/recurrent_kernel",
        "each/inside/kernel",
    ]


def test_patterns_match_the_path_or_the_name():
    kernels = prunable_kernels(_zoo())

    def chosen(include: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
        return [kernel.layer for kernel in select(kernels, include, exclude)]

    assert chosen(["conv", "inner/*"]) == ["inner/conv"]
    assert set(chosen([], ["attention", "both/*", "each/*"])) == {"inner/conv", "separable", "shared"}


def test_a_pattern_without_a_layer_lists_the_layers():
    kernels = prunable_kernels(_dense(name="head"))
    with pytest.raises(ModelError) as error:
        select(kernels, ["haed"], [])
    assert str(error.value) == (
        "The layer pattern 'haed' matches no prunable layer.\nPrunable layers of this model: head."
    )
    with pytest.raises(ModelError, match="`include` and `exclude` leave no layer to prune"):
        select(kernels, ["head"], ["h*"])


def test_a_model_without_prunable_layers_is_refused():
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    with pytest.raises(ModelError, match="The model has no layer that can be pruned"):
        select(prunable_kernels(model), [], [])


def test_a_lora_kernel_is_refused_by_name():
    model = _dense(name="head")
    model.layers[0].enable_lora(2)
    with pytest.raises(ModelError, match=r"Layer 'head': its kernel is computed, not stored"):
        prunable_kernels(model)
