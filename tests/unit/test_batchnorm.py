"""Batch-norm statistics are those of the whole set, whatever its order, with dropout off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesmith.frameworks import import_keras
from optimizer import batchnorm


def _net(*, frozen: bool = False) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(2)
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="second")], name="inner")
    first = layers.BatchNormalization(name="first", trainable=not frozen)
    model = keras.Sequential([keras.Input((3,)), first, layers.Dropout(0.5), layers.Dense(4, name="dense"), inner])
    return model, first, inner.get_layer("second")


def _sorted_samples(count: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(2, 3, (count, 3)).astype(np.float32)
    return x[np.argsort(x[:, 0])]


@pytest.mark.parametrize("count", [5, 128, 300, 1000])
def test_the_first_layer_has_the_mean_and_variance_of_the_set(count: int):
    model, first, _ = _net()
    x = _sorted_samples(count)
    assert batchnorm.reestimate(model, x) == 2
    np.testing.assert_allclose(first.moving_mean.numpy(), x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance.numpy(), x.var(axis=0), rtol=1e-5)


def test_a_later_layer_has_what_reaches_it_with_dropout_off():
    model, first, second = _net()
    x = _sorted_samples(128)  # one batch, so that batch and set statistics are the same
    batchnorm.reestimate(model, x)
    inside = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + first.epsilon)
    reaches = inside @ model.get_layer("dense").kernel.numpy()
    np.testing.assert_allclose(second.moving_mean.numpy(), reaches.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(second.moving_variance.numpy(), reaches.var(axis=0), rtol=1e-4)
    out = model(x, training=False).numpy()
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-4)


def test_frozen_layers_keep_theirs_and_all_layers_their_momentum():
    model, first, second = _net(frozen=True)
    assert batchnorm.reestimate(model, _sorted_samples(200)) == 1
    assert first.moving_mean.numpy().tolist() == [0, 0, 0]
    assert (first.momentum, second.momentum) == (0.99, 0.99)
    assert "call" not in vars(second)


def test_layers_are_put_back_when_a_pass_fails():
    model, _, second = _net()
    with pytest.raises(Exception, match="shape"):
        batchnorm.reestimate(model, np.zeros((8, 7), np.float32))
    assert second.momentum == 0.99
    assert "call" not in vars(second)


def test_no_batch_norm_nothing_to_do():
    keras = import_keras()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert batchnorm.reestimate(model, np.zeros((8, 3), np.float32)) == 0
