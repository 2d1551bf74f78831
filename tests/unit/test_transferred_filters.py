"""`transferred_filters` on networks: both forms, what is refused, and results that are networks like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgesmith.config import load_config
from edgesmith.errors import ConfigError, DataError, ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import SampleSet, Scheme
from optimizer import cost, masks, recipe
from optimizer.base import Context, Property
from optimizer.channels import groups
from optimizer.filters import order
from optimizer.filters.bank import recovered
from optimizer.filters.transforms import allowed
from optimizer.techniques import transferred_filters
from targets import onnxruntime, tflite
from targets.base import CompileRequest
from tests import tiny_networks
from tests.tiny_networks import answers

Params = transferred_filters.Params
X = np.random.default_rng(1).normal(size=(48, 8, 8, 3)).astype(np.float32)


def network() -> Any:
    """Convolution + BN, depthwise, a residual sum, a biased convolution with an activation, flatten, dense."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    given = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(given)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.Conv2D(8, 3, padding="same", name="branch")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(7, 3, strides=2, activation="relu", name="biased")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(6, activation="tanh", name="hidden")(x)
    model = keras.Model(given, layers.Dense(4, activation="softmax", name="head")(x), name="net")
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("gamma", "beta", "moving_mean", "moving_variance", "bias"):
            variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
    return model


def samples(role: Any = "train", *, labels: bool = True) -> SampleSet:
    y = np.random.default_rng(2).integers(0, 4, len(X)) if labels else None
    return SampleSet(role=role, x=X, y=y, sha256="x", source="made.npz")


def bases(layer: Any) -> int:
    kernel = np.asarray(layer.kernel.numpy())
    return len(recovered(kernel, allowed(kernel.shape[:-2], ("negate", "rotate", "flip"))).base)


def test_filters_share_bases_through_training(tmp_path: Path):
    model = network()
    params = Params(epochs=2, batch_size=16, early_stop=1, learning_rate=0.01, exclude=("head",))
    context = Context(workdir=tmp_path, train=samples())
    transferred_filters.check(model, params, context)
    applied = transferred_filters.apply(model, params, context)
    shared = {name: bases(applied.model.get_layer(name)) for name in ("stem", "branch", "biased", "hidden", "head")}
    assert shared == {"stem": 4, "branch": 4, "biased": 4, "hidden": 3, "head": 4}
    assert any(note.startswith("fine-tuned for") for note in applied.notes)
    assert "left alone: depthwise (the filters of DepthwiseConv2D are not shared)" in applied.notes
    # 4 * 27 + 4 * 72 + 4 * 72 + 3 * 63 of 8 * 27 + 8 * 72 + 7 * 72 + 6 * 63 weights; 29 filters of 4 + 2 bits.
    assert applied.notes[-1].startswith("bases hold 873 of 1,674 weights, and 22 bytes say which filter is which")
    assert transferred_filters.makes(params) == {Property.SHARED_VALUES}


def test_a_kernel_that_is_a_bank_stays_bit_for_bit(tmp_path: Path):
    model = network()
    once = transferred_filters.apply(model, Params(epochs=0), Context(workdir=tmp_path)).model
    before = [np.array(variable) for variable in once.variables]
    again = transferred_filters.apply(once, Params(epochs=0, min_correlation=0.9999), Context(workdir=tmp_path))
    assert all(note.endswith("0.0% of the kernel's square given up") for note in again.notes if "bases for" in note)
    for variable, value in zip(again.model.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


def test_negatives_on_activations_compute_what_the_expanded_bank_does(tmp_path: Path):
    model = network()
    macs = cost.count_macs(model)
    params = Params(form="activation", epochs=1, batch_size=16, learning_rate=1e-3)
    applied = transferred_filters.apply(model, params, Context(workdir=tmp_path, train=samples()))
    made = applied.model
    # `apply` owned `model`, which now is the expanded form, its channels where those of the other are.
    np.testing.assert_allclose(answers(made, X)[0], answers(model, X)[0], atol=1e-5)
    paired = {layer.name.removesuffix("_negated") for layer in made.layers if layer.name.endswith("_negated")}
    assert paired == {"stem", "branch", "biased", "hidden"} - {"branch"}
    for name, filters in {"stem": 8, "biased": 7, "hidden": 6}.items():
        alone = {layer.name: layer for layer in made.layers}.get(f"{name}_singles")
        pairs = made.get_layer(name).kernel.shape[-1]
        assert 2 * pairs + (alone.kernel.shape[-1] if alone else 0) == filters
        assert pairs >= 2
    assert cost.count_macs(made) < 0.9 * macs
    assert any("branch (its channels meet those of stem, whose order decides)" in note for note in applied.notes)
    assert any(note.startswith("left alone: head (its channels have to stay in order") for note in applied.notes)
    assert transferred_filters.makes(params) == frozenset()

    record = tiny_networks.record(made, tmp_path / "net.keras")
    with third_party_warnings():
        loaded = import_keras().models.load_model(record.path)
    (expected,) = answers(made, X)
    np.testing.assert_array_equal(answers(loaded, X)[0], expected)
    for target in (tflite, onnxruntime):
        for scheme, least in ((Scheme.NONE, 1.0), (Scheme.INT8, 0.85)):
            request = CompileRequest(
                scheme=scheme, calibration=samples("calibration"), out_dir=tmp_path, name=f"{target.__name__}-{scheme}"
            )
            found = target.outputs(target.compile(record, request, Silent()).path, X)[0]
            assert np.mean(found.argmax(1) == expected.argmax(1)) >= least, (target.__name__, scheme)


def test_channels_in_another_order_compute_the_same():
    model = network()
    before = answers(model, X)[0]
    network_channels = groups.find(model)
    group = order.orderable(network_channels, "stem")
    assert not isinstance(group, str)
    kernel = np.array(model.get_layer("stem").kernel)
    order.reorder(network_channels, group, "stem", [7, 0, 6, 1, 5, 2, 4, 3])
    np.testing.assert_array_equal(model.get_layer("stem").kernel, kernel[..., [7, 0, 6, 1, 5, 2, 4, 3]])
    np.testing.assert_allclose(answers(model, X)[0], before, atol=1e-5)
    assert order.orderable(network_channels, "head") == "head (Dense) has the activation softmax, which mixes channels"


def test_zeros_of_an_earlier_step_stay(tmp_path: Path):
    model = network()
    kernel = np.array(model.get_layer("branch").kernel)
    model.get_layer("branch").kernel.assign(tiny_networks.pruned(kernel))
    zeros = masks.zero_pattern(model)
    for form in ("bank", "activation"):
        applied = transferred_filters.apply(model, Params(form=form, epochs=0), Context(workdir=tmp_path))
        masks.check_preserved(zeros, applied.model, step="transferred_filters")
        assert any("branch (some of its weights are zero" in note for note in applied.notes)
    assert any("stem (its channels have to stay in order: branch has zeros" in note for note in applied.notes)


def test_what_cannot_be_is_refused(tmp_path: Path):
    context = Context(workdir=tmp_path)
    with pytest.raises(ModelError, match=r"no layer can share filters: .*correlation of 1"):
        transferred_filters.apply(network(), Params(epochs=0, min_correlation=1), context)
    keras = import_keras()
    pool = keras.Sequential([keras.layers.Input((4, 4, 2)), keras.layers.DepthwiseConv2D(3, name="depthwise")])
    with pytest.raises(ModelError, match=r"depthwise .the filters of DepthwiseConv2D are not shared"):
        transferred_filters.check(pool, Params(epochs=0), context)
    with pytest.raises(DataError, match="no labels"):
        transferred_filters.check(network(), Params(), Context(workdir=tmp_path, train=samples(labels=False)))
    with pytest.raises(ValidationError, match="activations can be negated, not turned or mirrored"):
        Params(form="activation", transforms=("rotate",))
    with pytest.raises(ValidationError, match="members is 2 and scale is false"):
        Params(form="activation", scale=True)


def test_shared_filters_are_kept_by_order_and_computed_negatives_are_free(tmp_path: Path):
    def parse(form: str, then: str) -> None:
        path = tmp_path / "edgesmith.yaml"
        path.write_text(
            "model: net.keras\ndata:\n  evaluation: test.npz\nrecipe:\n"
            f"  - transferred_filters: {{form: {form}, epochs: 0}}\n  - {then}: {{epochs: 0}}\n"
        )
        recipe.parse_recipe(load_config(path))

    parse("activation", "prune")
    for then in ("prune", "low_rank"):
        with pytest.raises(ConfigError, match=f"'{then}' would destroy the shared values that 'transferred_filters'"):
            parse("bank", then)
