"""Other layers in the place of layers: the network around them stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import InternalError
from edgesmith.frameworks import import_keras, third_party_warnings
from optimizer import rewrite
from tests.tiny_networks import answers

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.fixture
def network() -> Any:
    """A dense layer called twice, one in a nested Sequential, a skip, two outputs."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    given = keras.Input((6,), name="given")
    twice = layers.Dense(6, activation="tanh", name="twice")
    inner = keras.Sequential([layers.Input((6,)), layers.Dense(5, name="deep"), layers.ReLU(name="relu")], name="inner")
    x = layers.Add(name="add")([twice(twice(given)), given])
    return keras.Model(given, [inner(x), layers.Dense(2, name="head")(x)], name="net")


def halves(layer: Any) -> rewrite.Replacement:
    """The layer as the identity, then itself: the same function by two layers."""
    keras = import_keras()
    width = layer.kernel.shape[0]
    first = keras.layers.Dense(width, use_bias=False, name=f"{layer.name}_a")
    last = type(layer).from_config(layer.get_config())
    return rewrite.chain((first, [np.eye(width, dtype=np.float32)]), (last, layer.get_weights()))


def test_layers_are_listed_by_path_each_once(network: Any):
    assert list(rewrite.layers(network)) == ["twice", "add", "inner/deep", "inner/relu", "head"]
    assert rewrite.free_name(network, "deep") == "deep2"
    assert rewrite.free_name(network, "deep_a") == "deep_a"


def test_replaced_layers_compute_the_same_wherever_they_are_called(network: Any, tmp_path: Path):
    found = rewrite.layers(network)
    made = rewrite.replace(network, {path: halves(found[path]) for path in ("twice", "inner/deep")})
    assert sorted(rewrite.layers(made)) == sorted([*found, "twice_a", "inner/deep_a"])
    assert (made.name, made.get_layer("inner").name) == ("net", "inner")
    assert len(made.get_layer("twice_a")._inbound_nodes) == 2
    for before, after in zip(answers(network, X), answers(made, X), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)
    with third_party_warnings():
        made.save(tmp_path / "net.keras")
        loaded = import_keras().models.load_model(tmp_path / "net.keras")
    for before, after in zip(answers(made, X), answers(loaded, X), strict=True):
        np.testing.assert_array_equal(after, before)
    assert len(made.trainable_variables) == len(network.trainable_variables) + 2


def test_a_sequential_model_takes_a_branch(network: Any):
    layers = import_keras().layers
    model = network.get_layer("inner")
    relu = rewrite.Replacement(lambda x: layers.Concatenate()([layers.ReLU()(x), x]), ())
    made = rewrite.replace(model, {"relu": relu})
    whole = answers(made, X)[0]
    np.testing.assert_array_equal(whole[:, :5], answers(model, X)[0])
    np.testing.assert_array_equal(np.maximum(whole[:, 5:], 0), whole[:, :5])


def test_a_frozen_layer_stays_frozen_and_a_wrong_path_is_ours(network: Any):
    network.get_layer("head").trainable = False
    made = rewrite.replace(network, {"twice": halves(network.get_layer("twice"))})
    assert not made.get_layer("head").trainable
    with pytest.raises(InternalError, match="no layer nowhere to replace"):
        rewrite.replace(network, {"nowhere": halves(network.get_layer("twice"))})
