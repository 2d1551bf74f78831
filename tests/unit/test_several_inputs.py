"""A network with two inputs of one shape, listed against the alphabet: whatever feeds it must not swap them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import targets
from calibration.inputs import join, split
from edgesmith.errors import DataError
from edgesmith.files import sha256_bytes
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from edgesmith.types import Model, SampleSet, Scheme
from optimizer import batchnorm
from optimizer.base import Context
from optimizer.finetune import TrainingParams, finetune
from optimizer.load import open_keras, save_keras
from targets.base import CompileRequest
from targets.divergence import first_diverging_tensor, sqnr_db
from targets.found import float_inputs, read_artifact
from targets.plan_export import make_plan_graph

TARGETS = ("onnxruntime", "tflite")
NAMES = ("right", "left", "words")


def _x(n: int = 64, seed: int = 0) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    right, left = (random.normal(size=(n, 6)).astype(np.float32) * scale for scale in (1, 4))
    return join([right, left, random.integers(0, 9, (n, 2)).astype(np.int32)], NAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """right is taken away from what left makes; words choose a row each."""
    keras = import_keras()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    right, left = keras.Input((6,), name="right"), keras.Input((6,), name="left")
    words = keras.Input((2,), dtype="int32", name="words")
    y = layers.Dense(8, name="dense")(layers.Subtract(name="minus")([left, right]))
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(y))
    said = layers.Flatten(name="flat")(
        layers.Embedding(9, 4, embeddings_initializer="random_normal", name="rows")(words)
    )
    y = layers.Dense(3, name="scores")(layers.Concatenate(name="all")([y, said]))
    live = keras.Model([right, left, words], y, name="net")
    path = tmp_path_factory.mktemp("several") / "net.keras"
    return save_keras(live, path, sha256=sha256_bytes(b"several"), origin="test")


def _samples(x: NDArray[Any], y: NDArray[Any] | None = None) -> SampleSet:
    return SampleSet(role="train", x=x, y=y, sha256=sha256_bytes(x.tobytes()), source="test")


def _compile(name: str, model: Model, scheme: Scheme, folder: Path, x: NDArray[Any]) -> Any:
    request = CompileRequest(scheme=scheme, out_dir=folder, name=scheme.precision, calibration=_samples(x))
    return targets.get(name).compile(model, request, Silent())


@pytest.mark.parametrize("name", TARGETS)
def test_every_artifact_answers_like_the_model(name: str, model: Model, tmp_path: Path):
    x = _x()
    wanted = np.asarray(open_keras(model)([*split(x)]))
    for scheme, least in ((Scheme.NONE, 100.0), (Scheme.DYNAMIC, 25.0), (Scheme.INT8, 25.0)):
        made = _compile(name, model, scheme, tmp_path, x)
        (found,) = targets.get(name).outputs(made.path, x)
        assert sqnr_db(wanted, found) > least, scheme
        assert [spec.name for spec in float_inputs(read_artifact(made.path))] == list(NAMES)
        assert [spec.dtype for spec in float_inputs(made)] == ["float32", "float32", "int32"]
    assert first_diverging_tensor(targets.get(name), model, made, x[:4], 10.0) is None


def test_the_plan_graph_takes_them_in_the_models_order(model: Model):
    x = _x(5)
    graph = make_plan_graph(model, Silent())
    assert graph.inputs == NAMES
    assert set(graph.tensors) & set(NAMES) == {"right", "left"}, "only floats have ranges"
    (found,) = next(graph.run(split(x))).values()
    np.testing.assert_allclose(found, np.asarray(open_keras(model)([*split(x)])), atol=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_calibration_that_lacks_an_input_is_refused(name: str, model: Model, tmp_path: Path):
    with pytest.raises(DataError, match=r"calibration samples are float32\[64, 6\], the model takes right: float32"):
        _compile(name, model, Scheme.INT8, tmp_path, split(_x())[0])


def test_statistics_are_taken_from_all_of_them(model: Model):
    live, x = open_keras(model), _x(300)
    assert batchnorm.reestimate(live, x) == 1
    right, left, _ = split(x)
    kernel, bias = live.get_layer("dense").get_weights()
    np.testing.assert_allclose(live.get_layer("bn").moving_mean, ((left - right) @ kernel + bias).mean(0), rtol=1e-3)


def test_training_takes_them(model: Model, tmp_path: Path):
    live, x = open_keras(model), _x(200)
    labels = (split(x)[0][:, 0] > split(x)[1][:, 0] / 4).astype(np.int64)
    context = Context(train=_samples(x, labels), workdir=tmp_path, seed=0, progress=Silent())
    params = TrainingParams(epochs=4, batch_size=20, learning_rate=0.02, early_stop=4)
    trained = finetune(live, params, context, label="several")
    assert trained.losses[-1] < trained.losses[0] * 0.8
