"""`prune_channels` as a step: what it refuses, what it leaves, what it says."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

import targets
from calibration import inputs
from edgesmith.errors import ConfigError, DataError, ModelError
from edgesmith.files import sha256_bytes
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from edgesmith.types import SampleSet, Scheme
from optimizer import batchnorm, cost
from optimizer.base import Context, Needs
from optimizer.channels import latency_table
from optimizer.channels.groups import find
from optimizer.techniques import prune_channels
from optimizer.techniques.prune_channels import Params
from targets import keras_model
from targets.base import CompileRequest
from tests import random_graphs, tiny_networks

CRITERIA = ("l1", "l2", "geometric_median", "bn_scale", "taylor", "obd", "random")
FINE = {"round_to": 1, "min_channels": 1}


@functools.cache
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 16.0).astype(np.float32).reshape(-1, 8, 8, 1), y[order].astype(np.int64)


def _samples(role: Any, part: slice, *, labels: bool = True) -> SampleSet:
    x, y = _digits()
    digest = sha256_bytes(x[part].tobytes())
    return SampleSet(role=role, x=x[part], y=y[part] if labels else None, sha256=digest, source="digits")


def _network() -> Any:
    """A residual network for 8 x 8 digits."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(4)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(24, 3, padding="same", use_bias=False, name="wide")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False, name="back")(y))
    x = layers.MaxPooling2D()(layers.ReLU()(layers.Add()([x, y])))
    x = layers.Conv2D(24, 3, activation="relu", name="last")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="head")(layers.Flatten()(x)), name="digits")


@functools.cache
def _trained() -> bytes:
    """The weights of a network trained for a few seconds."""
    model = _network()
    x, y = _digits()
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)  # compiling takes longer
    model.optimizer.learning_rate = 0.005
    random = np.random.default_rng(0)
    for _ in range(60):
        batch = random.integers(0, 1200, 64)
        model.train_on_batch(x[batch], y[batch])
    batchnorm.reestimate(model, x[:512])
    return b"".join(np.asarray(v.numpy(), np.float32).tobytes() for v in model.weights)


def _model() -> Any:
    model = _network()
    stored = np.frombuffer(_trained(), np.float32)
    start = 0
    for variable in model.weights:
        size = int(np.prod(variable.shape))
        variable.assign(stored[start : start + size].reshape(variable.shape))
        start += size
    return model


def _accuracy(model: Any) -> float:
    x, y = _digits()
    return float((np.asarray(model(x[1200:], training=False)).argmax(axis=1) == y[1200:]).mean())


def _context(folder: Path, *, train: int = 1200) -> Context:
    return Context(
        workdir=folder,
        train=_samples("train", slice(0, train)),
        calibration=_samples("calibration", slice(0, 256), labels=False),
        root=folder,
    )


def test_zero_shot_with_reconstruction_keeps_what_none_loses(tmp_path: Path):
    """An eighth of the products, no labels, no training: batch-norm statistics alone do not save it."""
    accuracy = {}
    for repair in ("none", "least_squares"):
        model = _model()
        before = cost.count_macs(model)
        context = Context(workdir=tmp_path, calibration=_context(tmp_path).calibration)
        applied = prune_channels.apply(model, Params(epochs=0, keep=0.12, repair=repair, **FINE), context)
        assert cost.count_macs(applied.model) <= 0.12 * before
        accuracy[repair] = _accuracy(applied.model)

    assert _accuracy(_model()) > 0.93
    assert accuracy["least_squares"] > 0.85
    assert accuracy["least_squares"] > accuracy["none"] + 0.1


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_meets_the_budget(criterion: Any, tmp_path: Path):
    model = _model()
    before = cost.parameters(model)
    params = Params(epochs=0, criterion=criterion, budget="parameters", keep=0.6, repair="none", **FINE)
    context = _context(tmp_path, train=128)

    prune_channels.check(model, params, context)
    applied = prune_channels.apply(model, params, context)

    assert cost.parameters(applied.model) <= 0.6 * before
    assert f"narrowed by {criterion} (at most 60% of parameters)" in applied.notes[0]
    unscored = "no batch normalization with a scale holds them, so left whole: last"
    assert (unscored in applied.notes) == (criterion == "bn_scale")


@pytest.mark.slow
def test_one_part_after_another_with_training_between(tmp_path: Path):
    params = Params(epochs=1, steps=2, selection="uniform", share=0.5, criterion="taylor", batch_size=128)
    model = _model()

    prune_channels.check(model, params, _context(tmp_path))
    applied = prune_channels.apply(model, params, _context(tmp_path))

    assert {g.name: len(g) for g in find(applied.model).groups} == {"stem+back": 8, "wide": 16, "last": 16}
    assert sum("fine-tuned for 1 epochs" in note for note in applied.notes) == 2
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["prune_channels-1.npz", "prune_channels-2.npz"]
    assert _accuracy(applied.model) > 0.85


def test_filters_inside_blocks_by_layer(tmp_path: Path):
    params = Params(
        epochs=0, selection="per_layer", per_layer={"*": 0.5, "last": 0.75}, scope="filters", repair="none", **FINE
    )

    applied = prune_channels.apply(_model(), params, Context(workdir=tmp_path))

    assert {g.name: len(g) for g in find(applied.model).groups} == {"stem+back": 16, "wide": 12, "last": 6}
    notes = "\n".join(applied.notes)
    assert "2 of 3 groups of channels narrowed by l1 (shares by layer): wide 24 to 12, last 24 to 6" in notes
    assert "left whole by scope, include and exclude: stem+back" in notes
    assert "channels stay, since head (Dense) has the activation softmax, which mixes channels: head" in notes
    assert "batch-norm statistics are the old ones" in notes


def test_rounding_leaves_narrow_groups_whole_and_says_so(tmp_path: Path):
    params = Params(epochs=0, selection="uniform", share=0.3, repair="none", round_to=16)

    applied = prune_channels.apply(_model(), params, Context(workdir=tmp_path))

    assert {g.name: len(g) for g in find(applied.model).groups} == {"stem+back": 16, "wide": 16, "last": 16}
    assert "too narrow for multiples of 16 and at least 8 channels, so left whole: stem+back" in applied.notes


def test_nothing_taken_out_is_said(tmp_path: Path):
    params = Params(epochs=0, selection="uniform", share=0.05, repair="none")

    applied = prune_channels.apply(_model(), params, Context(workdir=tmp_path))

    assert applied.notes[0].startswith("no channels taken out of 3 groups of channels")
    assert cost.parameters(applied.model) == cost.parameters(_model())


def test_a_latency_table_decides(tmp_path: Path):
    model = _model()
    kinds = [latency_table.layer_kind(layer, inputs) for layer, inputs, _ in cost.calls(model)]
    rows = [
        {"layer": kind, "step": 8, "inputs": [8, 512], "outputs": [8, 512], "latency_ms": [[1, 64], [64, 4096]]}
        for kind in dict.fromkeys(kinds)
        if kind
    ]
    table = {"format": latency_table.FORMAT, "version": 1, "device": "board", "layers": rows}
    (tmp_path / "table.json").write_text(json.dumps(table))
    params = Params(epochs=0, budget="latency", latency_table="table.json", keep=0.7, repair="none")

    prune_channels.check(model, params, Context(workdir=tmp_path, root=tmp_path))
    applied = prune_channels.apply(model, params, Context(workdir=tmp_path, root=tmp_path))

    assert "narrowed by l1 (at most 70% of latency)" in applied.notes[0]
    (by_table,) = (note for note in applied.notes if note.startswith("by the latency table"))
    assert float(by_table.rpartition("(")[2].rstrip("%)")) <= 70.0
    assert all(len(group) % 8 == 0 for group in find(applied.model).groups)
    with pytest.raises(ConfigError, match="cannot be read"):
        prune_channels.check(model, params, Context(workdir=tmp_path, root=tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"selection": "uniform", "keep": 0.3}, "keep belongs to `selection: global`"),
        ({"share": 0.3}, "share belongs to `selection: uniform`"),
        ({"selection": "per_layer"}, "wants per_layer"),
        ({"selection": "per_layer", "per_layer": {"a": 1.0}}, "at least 0 and below 1"),
        ({"budget": "latency"}, "come together"),
        ({"latency_table": "t.json"}, "come together"),
        ({"steps": 2, "epochs": 0}, "training between them"),
    ],
)
def test_parameters_that_do_not_fit_together(written: Any, message: str):
    with pytest.raises(ValidationError, match=message):
        Params(**written)


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        (
            {"keep": 0.01},
            ModelError,
            r"`keep: 0.01` of macs is out of reach: .* are left\..* most are in: wide 46%, back 46%, stem 6%",
        ),
        ({"include": ["nothing"]}, ModelError, "'nothing' matches no layer"),
        ({"selection": "per_layer", "per_layer": {"head": 0.5}}, ModelError, "have to stay: head"),
        ({"criterion": "obd"}, DataError, "obd takes gradients on data"),
        ({"epochs": 1}, DataError, "no training data"),
    ],
)
def test_what_is_refused_before_any_work(written: Any, error: Any, message: str, tmp_path: Path):
    with pytest.raises(error, match=message):
        prune_channels.check(_network(), Params(**{"epochs": 0, **written}), Context(workdir=tmp_path))


def test_models_it_cannot_be_applied_to(tmp_path: Path):
    keras = import_keras()
    x = keras.Input((6,))
    plain = keras.Model(x, keras.layers.Dense(3, name="only")(x), name="plain")
    with pytest.raises(ModelError, match="No channels of plain can be taken out: an output of the model"):
        prune_channels.check(plain, Params(epochs=0), Context(workdir=tmp_path))
    hidden = keras.Model(x, keras.layers.Dense(3)(keras.layers.Dense(8)(x)))
    with pytest.raises(ModelError, match="no batch normalization with a scale holds them"):
        prune_channels.check(hidden, Params(epochs=0, criterion="bn_scale"), Context(workdir=tmp_path))


def test_needs():
    assert prune_channels.needs(Params(epochs=0)) == Needs(keras=True)
    assert prune_channels.needs(Params(epochs=0, criterion="obd")) == Needs(keras=True, calibration_data=True)
    assert prune_channels.needs(Params(epochs=1)) == Needs(keras=True, training_data=True, labels=True)


@pytest.mark.parametrize("seed", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_what_is_left_trains_saves_loads_and_converts(seed: int, tmp_path: Path):
    """Random networks, through Keras' own file, TFLite and ONNX."""
    model = random_graphs.network(seed)
    params = Params(epochs=0, selection="uniform", share=0.4, repair="none", **FINE)
    narrow = prune_channels.apply(model, params, Context(workdir=tmp_path)).model
    assert cost.parameters(narrow) < cost.parameters(model)
    parts = random_graphs.samples(narrow, 1)
    x = inputs.join(parts, [tensor.name for tensor in narrow.inputs])

    narrow.compile("sgd", "mse")
    targets_of = [np.zeros((1, *tensor.shape[1:]), np.float32) for tensor in narrow.outputs]
    given = parts if len(parts) > 1 else parts[0]
    assert np.isfinite(narrow.train_on_batch(given, targets_of if len(targets_of) > 1 else targets_of[0])).all()
    said = random_graphs.answers(narrow, parts)
    record = tiny_networks.record(narrow, tmp_path / "narrow.keras")

    loaded = keras_model.load(record)
    for old, new in zip(said, random_graphs.answers(loaded, parts), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    for name in ("tflite", "onnxruntime"):
        request = CompileRequest(scheme=Scheme.NONE, out_dir=tmp_path, name=name, board_isa="x86_64")
        artifact = targets.get(name).compile(record, request, Silent())
        for old, new in zip(said, targets.get(name).outputs(artifact.path, x), strict=True):
            np.testing.assert_allclose(new, old, atol=1e-4 * max(1.0, np.abs(old).max()))
