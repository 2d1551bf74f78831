"""Optimal Brain Surgeon by hand and by property: the layer's exact quadratic error is what counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from optimizer.kernels import prunable_kernels
from optimizer.saliency import obs
from optimizer.saliency.layouts import layouts
from optimizer.saliency.moments import second_moments, why_not
from optimizer.saliency.patterns import NOfM
from optimizer.saliency.selection import Selection
from optimizer.saliency.surgeon import operate

# H = [[2, 1], [1, 2]], so H^-1 = [[2, -1], [-1, 2]] / 3.
H2 = np.array([[2.0, 1.0], [1.0, 2.0]])


def _layer(seed: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and second moments of correlated inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * inputs, inputs)) @ rng.normal(size=(inputs, inputs))
    return rng.normal(size=(inputs, outputs)), obs.damped(x.T @ x / len(x), 0.01)


def test_one_of_two_weights_by_hand():
    weights = np.array([[1.0], [0.8]])
    # w_q^2 / [H^-1]_qq: 1 / (2/3) = 1.5, and 0.64 / (2/3) = 0.96: the second one goes.
    np.testing.assert_allclose(obs.scores(weights, H2), [[1.5], [0.96]])
    found = obs.prune(weights, H2, obs.Budget(zeros=1))
    # The first moves by -0.8 / (2/3) * (-1/3) = 0.4.
    np.testing.assert_allclose(found.weights, [[1.4], [0.0]], atol=1e-12)
    assert found.error == pytest.approx(0.96)
    # Zeroing alone costs 0.8^2 * H_22.
    assert found.magnitude_error == pytest.approx(1.28)


def test_the_surgeon_takes_another_weight_than_magnitude_would():
    # The largest weight hangs on an input that the others nearly give: H^-1 is large there.
    h = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weights = np.array([[1.0], [0.9], [0.6]])
    # [H^-1] diagonal: 1 / 0.19, 1 / 0.19, 1: costs 0.19, 0.1539, 0.36.
    np.testing.assert_allclose(obs.scores(weights, h).ravel(), [0.19, 0.1539, 0.36])
    found = obs.prune(weights, h, obs.Budget(zeros=1))
    # What is left of the pair takes over: 1 + 0.9 * 0.9.
    np.testing.assert_allclose(found.weights.ravel(), [1.81, 0.0, 0.6], atol=1e-12)
    assert found.error == pytest.approx(0.1539)
    assert found.magnitude_error == pytest.approx(0.36)
    # The second step sees what the first one made: 1.81^2 / 1 against 0.6^2 / 1.
    np.testing.assert_allclose(obs.prune(weights, h, obs.Budget(zeros=2)).weights.ravel(), [1.81, 0.0, 0.0], atol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 24), st.integers(1, 5), st.floats(0.0, 0.95))
@settings(max_examples=40)
def test_never_worse_than_magnitude_and_exactly_as_many_zeros(seed: int, inputs: int, outputs: int, sparsity: float):
    weights, h = _layer(seed, inputs, outputs)
    budget = obs.Budget(zeros=int(sparsity * weights.size))
    found = obs.prune(weights, h, budget)
    assert np.count_nonzero(found.weights == 0) == budget.zeros
    by_magnitude = np.where(budget.magnitudes(weights), weights, 0)
    assert np.count_nonzero(by_magnitude == 0) == budget.zeros
    exact = obs.error(found.weights - weights, h)
    assert exact == pytest.approx(found.error)
    assert exact <= obs.error(by_magnitude - weights, h) * (1 + 1e-9)


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 9), st.sampled_from([(1, 2), (2, 4), (1, 4)]))
@settings(max_examples=30)
def test_a_pattern_holds_and_is_never_worse(seed: int, taps: int, channels: int, pattern: tuple[int, int]):
    weights, h = _layer(seed, taps * channels, 3)
    weights[:: channels + 1] = 0.0
    n_of_m = NOfM(*pattern)
    budget = obs.Budget(pattern=n_of_m, taps=taps)
    for mask in (obs.one_by_one(weights, h, budget), obs.sweep(weights, h, budget)[0]):
        assert n_of_m.broken((mask & (weights != 0)).reshape(taps, channels, 3)) == 0
    found = obs.prune(weights, h, budget)
    assert n_of_m.broken(found.weights.reshape(taps, channels, 3)) == 0
    assert not found.weights[weights == 0].any()
    assert found.error <= found.magnitude_error * (1 + 1e-9)


@pytest.mark.parametrize("way", ["one_by_one", "sweep"])
def test_both_ways_keep_zeros_and_count_them(way: str):
    weights, h = _layer(3, 40, 6)
    weights[::5] = 0.0
    budget = obs.Budget(zeros=120)
    mask = obs.one_by_one(weights, h, budget) if way == "one_by_one" else obs.sweep(weights, h, budget)[0]
    assert np.count_nonzero(~mask) == 120
    assert not mask[weights == 0].any()
    assert obs.error(obs.refit(weights, h, mask) - weights, h) < obs.error(
        np.where(budget.magnitudes(weights), weights, 0) - weights, h
    )


def test_refit_is_the_least_of_all_weights_within_the_mask():
    weights, h = _layer(5, 8, 2)
    mask = np.random.default_rng(0).random((8, 2)) < 0.5
    found = obs.refit(weights, h, mask)
    gradient = h @ (found - weights)
    np.testing.assert_allclose(gradient[mask], 0, atol=1e-9)
    assert not found[~mask].any()


def test_an_input_that_is_always_zero_is_free():
    moments = np.diag([1.0, 0.0, 4.0])
    found = obs.prune(np.array([[0.1], [5.0], [0.1]]), obs.damped(moments, 0.01), obs.Budget(zeros=1))
    np.testing.assert_allclose(found.weights.ravel(), [0.1, 0.0, 0.1])


def _net() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(2)
    layers = keras.layers
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same", use_bias=False, name="wide")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Reshape((16, 8))(x)
    x = layers.Conv1D(6, 3, padding="causal", name="causal")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    again = layers.Dense(6, name="shared")
    x = layers.TimeDistributed(layers.Dense(4, name="inner"), name="each")(again(again(x)))
    return keras.Model(image, layers.LSTM(4, name="lstm")(x))


def test_second_moments_give_the_power_of_every_layers_outputs():
    model = _net()
    kernels = prunable_kernels(model)
    found = layouts(model, kernels)
    taken = {name: layout for name, layout in found.items() if not why_not(layout)}
    assert set(found) - set(taken) == {"lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"}
    x = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype(np.float32)
    moments = dict(second_moments(model, taken, x, Silent()))
    values = {kernel.name: kernel.value() for kernel in kernels}
    for name, layout in taken.items():
        made: list[np.ndarray] = []
        call = layout.layer.call

        def telling(fed: Any, call: Any = call, made: list[Any] = made, layer: Any = layout.layer, **kw: Any) -> Any:
            out = np.asarray(call(fed, **kw))
            bias = 0 if getattr(layer, "bias", None) is None else layer.bias.numpy()
            activation = getattr(layer, "activation", None)
            if activation is None or activation.__name__ == "linear":
                made.append(out - bias)
            return out

        layout.layer.call = telling
        model(x, training=False)
        del layout.layer.call
        weights = layout.matrices(values[name]).reshape(len(moments[name]), -1)
        if made:  # not after a ReLU
            outputs = np.concatenate([each.reshape(-1, weights.shape[1]) for each in made])
            power = float(np.square(outputs, dtype=np.float64).sum(axis=1).mean())
            assert obs.error(weights.astype(np.float64), moments[name]) == pytest.approx(power, rel=1e-4), name


@pytest.mark.parametrize("pattern", [None, NOfM(2, 4)])
def test_surgery_beats_magnitude_on_a_network(pattern: NOfM | None):
    model = _net()
    kernels = [k for k in prunable_kernels(model) if not k.layer.startswith("lstm")]
    selection = Selection(layouts=layouts(model, kernels), pattern=pattern, adaptive=False)
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
    loss = operate(model, kernels, selection, 0.5, x, damping=0.01, progress=Silent())
    selection.check(kernels, 0.5)
    assert 0 < loss.change < loss.by_magnitude
    assert loss.change <= loss.worst[1]


def test_a_global_scope_counts_zeros_over_all_layers():
    model = _net()
    kernels = [k for k in prunable_kernels(model) if not k.layer.startswith("lstm")]
    selection = Selection(layouts=layouts(model, kernels), scope="global", adaptive=False)
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
    operate(model, kernels, selection, 0.6, x, damping=0.01, progress=Silent())
    sizes = [kernel.value().size for kernel in kernels]
    zeros = [kernel.value().size - np.count_nonzero(kernel.value()) for kernel in kernels]
    assert sum(zeros) == sum(sizes) - round(0.4 * sum(sizes))
    assert len({round(z / s, 2) for z, s in zip(zeros, sizes, strict=True)}) > 3
