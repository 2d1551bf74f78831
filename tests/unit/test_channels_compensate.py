"""Layers that lost inputs are fitted to what they said before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from optimizer.channels import groups, linear, scores, select, surgery
from optimizer.channels.compensate import Repair, Repaired, compensate

L = import_keras().layers
LAYERS = [
    ("valid", L.Conv2D(4, 3), (7, 6, 6)),
    ("same", L.Conv2D(4, 3, padding="same"), (7, 6, 6)),
    ("same, strided", L.Conv2D(4, (3, 2), strides=2, padding="same"), (7, 6, 6)),
    ("dilated", L.Conv2D(4, 3, dilation_rate=2, padding="same"), (7, 6, 6)),
    ("grouped", L.Conv2D(4, 3, groups=2, padding="same"), (7, 6, 6)),
    ("causal", L.Conv1D(4, 3, dilation_rate=2, padding="causal"), (9, 6)),
    ("three axes", L.Conv3D(4, 2, padding="same"), (3, 4, 3, 6)),
    ("dense on positions", L.Dense(4), (5, 6)),
    ("separable", L.SeparableConv2D(4, 3, strides=2, padding="same", depth_multiplier=2), (7, 6, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_a_layer_is_the_matrix_product_of_its_rows(layer: Any, shape: tuple[int, ...]):
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    said = np.asarray(layer(x)).reshape(-1, 4)

    rows = linear.rows(layer, x, 10**6, np.random.default_rng(0))

    np.testing.assert_allclose(linear.product(rows, linear.matrix(layer)), said, atol=1e-5)
    some = linear.rows(layer, x, 5, np.random.default_rng(1))
    assert len(some) == 5
    assert all((np.abs(rows - one).max(axis=(1, 2)) < 1e-6).any() for one in some)
    before = layer.get_weights()
    linear.assign(layer, linear.matrix(layer), None)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-7)


def _net() -> Any:
    """Random, with twice the channels it needs: every second filter of a layer is nearly a mixture of the others."""
    keras = import_keras()
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, padding="same", activation="relu", name="one")(image)
    y = L.Conv2D(16, 3, padding="same", activation="relu", name="two")(x)
    x = L.Add()([x, L.Conv2D(16, 1, name="three")(y)])
    x = L.SeparableConv2D(12, 3, padding="same", activation="relu", name="four")(x)
    x = L.Dense(12, activation="relu", name="five")(L.GlobalAveragePooling2D()(x))
    model = keras.Model(image, L.Dense(4, name="out")(x))
    random = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        kernel = np.array(model.get_layer(name).kernel.numpy())
        mixed = kernel[..., :8] @ random.uniform(0, 0.3, size=(8, 8))
        kernel[..., 8:] = mixed + 0.02 * kernel[..., 8:]
        model.get_layer(name).kernel.assign(kernel)
        model.get_layer(name).bias.assign(random.uniform(0.2, 0.6, size=16))
    return model


def _error(repair: Repair) -> tuple[float, Repaired]:
    model = _net()
    channels = groups.find(model)
    kept = [max(len(group) * 5 // 8, 1) for group in channels.groups]
    gone = select.gone(channels, scores.l2(channels), kept)
    narrow = surgery.without(model, channels, gone)
    random = np.random.default_rng(1)
    x, fresh = (random.normal(size=(n, 8, 8, 3)).astype(np.float32) for n in (96, 64))
    done = compensate(model, channels, gone, narrow, x, repair=repair, seed=0, progress=Silent())
    wanted = np.asarray(model(fresh))
    # Relative to the spread of what the model says.
    return float(np.square(np.asarray(narrow(fresh)) - wanted).mean() / wanted.var(axis=0).mean()), done


def test_reconstruction_beats_biases_and_these_beat_nothing():
    none, _ = _error("none")
    bias, with_bias = _error("bias")
    fitted, with_fit = _error("least_squares")

    assert fitted < 0.5 * bias < 0.25 * none
    assert with_fit.fitted == with_bias.fitted == ["two", "three", "four", "five", "out"]
    assert with_fit.left == []


def test_what_cannot_be_fitted_is_named():
    keras = import_keras()
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 1, activation="relu", name="one")(image)
    x = L.Conv2DTranspose(8, 3, name="up")(x)
    model = keras.Model(image, L.Conv2D(4, 1, use_bias=False, name="out")(x))
    channels = groups.find(model)
    gone = [int(group.units[0]) for group in channels.groups]
    narrow = surgery.without(model, channels, gone)
    x = np.random.default_rng(1).normal(size=(40, 8, 8, 3)).astype(np.float32)

    done = compensate(model, channels, gone, narrow, x, repair="bias", seed=0, progress=Silent())

    assert done == Repaired(fitted=[], left=["up", "out"])
    assert "call" not in vars(narrow.get_layer("out"))
    done = compensate(model, channels, gone, narrow, x, repair="least_squares", seed=0, progress=Silent())
    assert done == Repaired(fitted=["out"], left=["up"])


def test_one_input_that_is_gone_is_made_up_for_by_its_twin():
    """Two units that say the same: the weights of the one that goes are added to those of the other."""
    keras = import_keras()
    x = keras.Input((3,))
    y = L.Dense(3, activation="relu", name="hidden")(x)
    model = keras.Model(x, L.Dense(2, name="out")(y))
    hidden, out = model.get_layer("hidden"), model.get_layer("out")
    hidden.kernel.assign(np.array([[1.0, 1.0, 0.0], [0.5, 0.5, 1.0], [0.0, 0.0, -1.0]]))
    out.kernel.assign(np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]))
    channels = groups.find(model)
    (group,) = channels.groups
    narrow = surgery.without(model, channels, [int(group.units[1])])
    samples = np.random.default_rng(1).normal(size=(256, 3)).astype(np.float32)

    compensate(
        model, channels, [int(group.units[1])], narrow, samples, repair="least_squares", seed=0, progress=Silent()
    )

    np.testing.assert_allclose(narrow.get_layer("out").kernel.numpy(), [[4.0, 1.0], [0.5, 0.5]], atol=0.02)
