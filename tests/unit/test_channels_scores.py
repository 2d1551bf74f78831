"""What the criteria say of channels, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesmith.errors import DataError
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from optimizer import losses
from optimizer.channels import groups, saliency, scores


def _chain(
    first: Any, *, activation: str | None = "softmax", second: Any = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
) -> Any:
    """Two inputs, three units between two dense layers without bias, two outputs."""
    keras = import_keras()
    x = keras.Input((2,))
    y = keras.layers.Dense(3, use_bias=False, name="first")(x)
    model = keras.Model(x, keras.layers.Dense(2, use_bias=False, activation=activation, name="second")(y))
    model.get_layer("first").kernel.assign(np.array(first))
    model.get_layer("second").kernel.assign(np.array(second))
    return model


FIRST = ((3.0, 1.0, 0.0), (4.0, -1.0, 1.0))


@pytest.mark.parametrize(
    ("criterion", "by_hand"),
    [
        (scores.l1, [7.0, 2.0, 1.0]),
        (scores.l2, [5.0, np.sqrt(2.0), 1.0]),
        # Distances between the columns (3, 4), (1, -1) and (0, 1): sqrt(29), sqrt(18), sqrt(5).
        (scores.geometric_median, [29**0.5 + 18**0.5, 29**0.5 + 5**0.5, 18**0.5 + 5**0.5]),
    ],
)
def test_filters_by_hand(criterion: Any, by_hand: list[float]):
    channels = groups.find(_chain(FIRST))

    (found,) = criterion(channels).values()

    np.testing.assert_allclose(found, np.array(by_hand) / np.sum(by_hand), rtol=1e-6)


def test_a_unit_is_judged_in_every_layer_that_makes_or_holds_it():
    keras = import_keras()
    layers = keras.layers
    x = keras.Input((4, 4, 1))
    y = layers.DepthwiseConv2D(1, use_bias=False, name="depthwise")(layers.Conv2D(2, 1, use_bias=False, name="conv")(x))
    model = keras.Model(x, layers.Dense(1)(layers.GlobalAveragePooling2D()(y)))
    model.get_layer("conv").kernel.assign(np.array([1.0, 3.0]).reshape(1, 1, 1, 2))
    model.get_layer("depthwise").kernel.assign(np.array([6.0, -2.0]).reshape(1, 1, 2, 1))

    (found,) = scores.l1(groups.find(model)).values()

    # 1 and 3 of 4, 6 and 2 of 8; one layer makes them.
    np.testing.assert_allclose(found, [(1 / 4 + 6 / 8) / 2, (3 / 4 + 2 / 8) / 2])


def test_batch_norm_scales_and_what_none_holds():
    keras = import_keras()
    layers = keras.layers
    x = keras.Input((4, 4, 1))
    y = layers.BatchNormalization(name="bn")(layers.Conv2D(3, 1, use_bias=False, name="conv")(x))
    y = layers.Dense(4, name="hidden")(layers.GlobalAveragePooling2D()(y))
    model = keras.Model(x, layers.Dense(1)(y))
    model.get_layer("bn").gamma.assign([-2.0, 0.5, 1.0])
    channels = groups.find(model)

    found = scores.bn_scale(channels)

    assert {channels.groups[index].name: each.tolist() for index, each in found.items()} == {"conv": [2.0, 0.5, 1.0]}


def _evidence(x: Any, loss: Any = None) -> saliency.Evidence:
    return saliency.Evidence(x=np.array(x, np.float32), loss=loss, seed=0, progress=Silent())


def test_taylor_by_hand_with_labels():
    model = _chain(FIRST, activation=None)
    x, y = np.array([[1.0, 2.0]], np.float32), np.array([[0.0, 0.0]], np.float32)
    loss = losses.choose_loss(model, "mse", y)

    (found,) = saliency.taylor(model, groups.find(model), _evidence(x, loss)).values()

    # hidden = (11, -1, 2), output = (13, 1), d(mean of squares)/d output = (13, 1); the gate of a unit: its value times
    # the gradient that reaches it.
    np.testing.assert_allclose(found, np.square([11 * 13, -1 * 1, 2 * 14]), rtol=1e-5)


def test_optimal_brain_damage_draws_targets_and_finds_the_diagonal():
    """A linear output with targets of variance 1 around it: the Hessian of a weight is the mean square of its input."""
    model = _chain(FIRST, activation=None)
    x = np.random.default_rng(0).normal(size=(3200, 2))

    (found,) = saliency.obd(model, groups.find(model), _evidence(x)).values()

    hidden = x @ np.array(FIRST)
    weights = np.square(model.get_layer("second").kernel.numpy()).sum(axis=1)
    np.testing.assert_allclose(found, 0.5 * np.square(hidden).mean(axis=0) * weights, rtol=0.3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_without_labels_targets_are_drawn_and_a_unit_that_says_nothing_scores_nothing(activation: str | None):
    model = _chain(FIRST, activation=activation, second=((1.0, 0.0), (0.0, 0.0), (1.0, 1.0)))
    x = np.random.default_rng(1).normal(size=(128, 2)) * 0.3

    for criterion in (saliency.taylor, saliency.obd):
        (found,) = criterion(model, groups.find(model), _evidence(x)).values()
        assert found[1] == 0.0
        assert (found[[0, 2]] > 0).all()
        (again,) = criterion(model, groups.find(model), _evidence(x)).values()
        np.testing.assert_array_equal(found, again)


def test_gradients_need_samples():
    model = _chain(FIRST)
    with pytest.raises(DataError, match="no samples to judge channels on"):
        saliency.obd(model, groups.find(model), _evidence(np.zeros((0, 2))))


def test_chance_is_seeded():
    channels = groups.find(_chain(FIRST))
    assert scores.random(channels, 1)[0].tolist() == scores.random(channels, 1)[0].tolist()
    assert scores.random(channels, 1)[0].tolist() != scores.random(channels, 2)[0].tolist()
