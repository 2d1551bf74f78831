"""`low_rank` on networks: what becomes a product, what stays and why, and a result that is a network like any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgesmith.errors import DataError, ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Artifact, SampleSet, Scheme
from optimizer import cost
from optimizer.base import Context
from optimizer.techniques import low_rank
from targets import onnxruntime, tflite
from targets.base import CompileRequest
from tests import tiny_networks
from tests.tiny_networks import answers


def network() -> Any:
    """Nearly low-rank kernels: wide strided and dilated convolutions, one called twice, a nested 1x1, dense layers."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    given = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="strided")(given)
    twice = layers.Conv2D(16, 3, padding="same", activation="relu", name="twice")
    x = twice(twice(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    inner = keras.Sequential([layers.Input((2, 2, 16)), layers.Conv2D(24, 1, name="pointwise")], name="inner")
    x = layers.Flatten(name="flat")(inner(x))
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    model = keras.Model(given, layers.Dense(4, activation="softmax", name="head")(x), name="net")
    random = np.random.default_rng(0)
    for layer in (model.get_layer("strided"), twice, model.get_layer("hidden"), inner.get_layer("pointwise")):
        shape = layer.kernel.shape
        rank = 4
        product = random.normal(size=(int(np.prod(shape[:-1])), rank)) @ random.normal(size=(rank, shape[-1]))
        noise = 0.003 * random.normal(size=shape)
        layer.kernel.assign((product.reshape(shape) / np.sqrt(rank * np.prod(shape[:-1])) + noise).astype(np.float32))
        layer.bias.assign(random.normal(size=shape[-1]) * 0.1)
    return model


X = np.random.default_rng(1).normal(size=(64, 8, 8, 3)).astype(np.float32)


def samples(role: Any = "calibration", y: Any = None, **changes: Any) -> SampleSet:
    return SampleSet(role=role, x=X, y=y, sha256="x", source="made.npz", **changes)


def test_layers_that_gain_become_products_and_the_network_stays_nearly_the_same(tmp_path: Path):
    model = network()
    params = low_rank.Params(rank="error", error=0.01, epochs=0, forms=("svd",), reconstruct=False)
    low_rank.check(model, params, Context(workdir=tmp_path, calibration=samples()))
    applied = low_rank.apply(model, params, Context(workdir=tmp_path, calibration=samples()))
    made = applied.model
    names = [layer.name for layer in made.layers]
    assert {"strided_a", "strided", "twice_a", "twice", "hidden_a", "hidden"} <= set(names)
    assert [layer.name for layer in made.get_layer("inner").layers[1:]] == ["pointwise_a", "pointwise"]
    assert made.get_layer("strided_a").strides == (2, 2)
    assert made.get_layer("strided_a").activation.__name__ == "linear"
    assert made.get_layer("strided").activation.__name__ == "relu"
    assert not made.get_layer("hidden_a").use_bias
    np.testing.assert_array_equal(made.get_layer("hidden").bias, model.get_layer("hidden").bias)
    assert cost.count_macs(made) < 0.6 * cost.count_macs(model)
    np.testing.assert_allclose(answers(made, X)[0], answers(model, X)[0], atol=0.05)
    # 9 * 16 * 16 = 2304 weights; rank 4 has 4 * (144 + 16) = 640.
    assert any(
        note.startswith("twice: svd, rank 4 of 16, 28% of the multiply-accumulates, 28% of the weights, error 0.")
        for note in applied.notes
    ), applied.notes
    assert "left alone: depthwise (DepthwiseConv2D is not factorised)" in applied.notes
    assert "factors fitted to activations on calibration samples" in applied.notes


@pytest.mark.parametrize(("forms", "name"), [(("spatial",), "spatial"), (("tucker",), "tucker")])
def test_every_form_as_layers_is_what_it_is_as_a_product(forms: Any, name: str, tmp_path: Path):
    """Strides, dilation, valid padding and channels: nothing is lost but what the ranks give up."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    given = keras.Input((11, 10, 3))
    x = layers.Conv2D(12, (3, 3), strides=(2, 1), padding="same", name="one")(given)
    x = layers.Conv2D(12, 3, dilation_rate=2, padding="valid", use_bias=False, name="two")(x)
    model = keras.Model(given, layers.Conv2D(12, (3, 2), strides=2, padding="same", activation="tanh", name="three")(x))
    random = np.random.default_rng(0)
    for layer in model.layers[1:]:
        rows, width = layer.kernel_size, layer.kernel.shape[2]
        # One column times one row times one matrix: rank 1 along the image, and of rank 1 in the channels, too.
        parts = [random.normal(size=n) for n in (*rows, width, 12)]
        layer.kernel.assign(np.einsum("h,w,c,n->hwcn", *parts))
    params = low_rank.Params(forms=forms, energy=0.999, epochs=0, fit="weights", multiple=1)
    applied = low_rank.apply(model, params, Context(workdir=tmp_path))
    assert [f"{layer}: {name}" in " ".join(applied.notes) for layer in ("one", "two", "three")] == [True] * 3
    x = random.normal(size=(3, 11, 10, 3)).astype(np.float32)
    np.testing.assert_allclose(answers(applied.model, x)[0], answers(model, x)[0], atol=1e-4)
    assert applied.model.count_params() < model.count_params() / 5


def test_a_budget_is_met_and_the_factors_train(tmp_path: Path):
    model = network()
    y = np.random.default_rng(2).integers(0, 4, len(X))
    context = Context(workdir=tmp_path, train=samples("train", y))
    params = low_rank.Params(rank="budget", keep=0.5, epochs=2, batch_size=32, learning_rate=0.01)
    applied = low_rank.apply(model, params, context)
    assert cost.count_macs(applied.model) <= 0.5 * cost.count_macs(model)
    assert any(note.startswith("fine-tuned for 2 epochs of 2 steps") for note in applied.notes)
    fewer = low_rank.Params(rank="budget", count="parameters", keep=0.6, epochs=0)
    assert cost.parameters(low_rank.apply(model, fewer, context).model) <= 0.6 * cost.parameters(model)
    with pytest.raises(ModelError, match=r"keep 1% of the macs cannot be reached: .* stay\."):
        low_rank.apply(model, low_rank.Params(rank="budget", keep=0.01, epochs=0), context)


def test_each_layer_makes_up_for_those_before_it(tmp_path: Path):
    """At the same ranks, outputs of the whole network on the samples themselves come nearer to the original's."""
    before = answers(network(), X)[0]
    context = Context(workdir=tmp_path, calibration=samples())
    errors = {}
    for name, changes in {
        "weights": {"fit": "weights"},
        "activations": {"reconstruct": False},
        "in turn": {},
    }.items():
        params = low_rank.Params(energy=0.6, epochs=0, forms=("svd",), **changes)
        applied = low_rank.apply(network(), params, context)
        errors[name] = float(np.mean((answers(applied.model, X)[0] - before) ** 2))
    assert errors["in turn"] < errors["activations"] < errors["weights"]
    with pytest.raises(ValidationError, match="rank: error is an error on activations"):
        low_rank.Params(rank="error", fit="weights")


def test_what_cannot_gain_is_refused_with_its_name(tmp_path: Path):
    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    context = Context(workdir=tmp_path)
    small = keras.Sequential([layers.Input((6, 6, 2)), layers.Conv2D(2, 1, name="narrow")])
    with pytest.raises(ModelError, match=r"no layer gets smaller\. .* than the layer itself: narrow\."):
        low_rank.apply(small, low_rank.Params(epochs=0), context)
    noise = keras.Sequential([layers.Input((40,)), layers.Dense(40, name="noise", kernel_initializer="orthogonal")])
    with pytest.raises(ModelError, match=r"at energy 0\.9\. The least that a smaller product loses is .*'noise'"):
        low_rank.apply(noise, low_rank.Params(epochs=0), context)
    noise.get_layer("noise").kernel.assign(np.eye(40))
    with pytest.raises(ModelError, match="'noise': some of its weights are zero"):
        low_rank.check(noise, low_rank.Params(epochs=0), context)
    with pytest.raises(ModelError, match=r"pattern 'conv\*' matches no Dense or convolution layer"):
        low_rank.check(network(), low_rank.Params(epochs=0, include=("conv*",)), context)
    for params in (low_rank.Params(rank="error", epochs=0), low_rank.Params(fit="activations", epochs=0)):
        with pytest.raises(DataError, match="no real calibration or training samples"):
            low_rank.check(network(), params, Context(workdir=tmp_path, calibration=samples(synthetic=True)))


def test_a_factorised_network_is_saved_and_compiled(tmp_path: Path):
    applied = low_rank.apply(
        network(), low_rank.Params(energy=0.95, epochs=0), Context(workdir=tmp_path, calibration=samples())
    )
    (expected,) = answers(applied.model, X)
    record = tiny_networks.record(applied.model, tmp_path / "net.keras")
    with third_party_warnings():
        loaded = import_keras().models.load_model(record.path)
    np.testing.assert_array_equal(answers(loaded, X)[0], expected)

    def outputs(target: Any, scheme: Scheme) -> Any:
        request = CompileRequest(
            scheme=scheme, calibration=samples(), out_dir=tmp_path, name=f"{target.__name__}-{scheme}"
        )
        artifact: Artifact = target.compile(record, dataclasses.replace(request), Silent())
        return target.outputs(artifact.path, X)[0]

    for target in (tflite, onnxruntime):
        np.testing.assert_allclose(outputs(target, Scheme.NONE), expected, atol=1e-5)
        assert np.mean(outputs(target, Scheme.INT8).argmax(1) == expected.argmax(1)) > 0.9
