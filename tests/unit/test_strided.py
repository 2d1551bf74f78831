"""Strided 1x1 convolutions: the gradient that destroys memory is never asked for, and nothing else changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.frameworks import import_keras, import_tensorflow
from edgesmith.types import SampleSet
from optimizer import strided
from optimizer.base import Context
from optimizer.finetune import TrainingParams, finetune
from optimizer.techniques import prune_channels


def _net() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((9, 9, 2))
    inner = keras.Sequential([keras.Input((9, 9, 8)), layers.Conv2D(8, 1, strides=(2, 3), name="short")], name="inner")
    x = inner(layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image))
    x = layers.Reshape((15, 8))(layers.Conv2D(8, 3, padding="same", name="mid")(x))
    x = layers.Conv1D(8, 1, strides=2, padding="causal", name="line")(x)
    x = layers.Conv3D(4, 1, strides=(1, 2, 2), name="cube")(layers.Reshape((2, 2, 2, 8))(x))
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


def _strides(model: Any) -> list[Any]:
    return [model.get_layer("inner").get_layer("short").strides] + [
        model.get_layer(n).strides for n in ("line", "cube")
    ]


def _gradient_strides(model: Any, x: Any) -> set[int]:
    """Of every gradient of a convolution's kernel, as TensorFlow would compute it."""
    tf = import_tensorflow()

    def gradients(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(batch, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    operations = tf.function(gradients).get_concrete_function(x).graph.get_operations()
    return {s for o in operations if "BackpropFilter" in o.type for s in o.get_attr("strides")}


def test_strided_1x1_convolutions_give_the_same_through_another_gradient():
    model = _net()
    x = import_tensorflow().constant(np.random.default_rng(0).normal(size=(3, 9, 9, 2)).astype(np.float32))
    before, strides = model(x).numpy(), _strides(model)
    assert _gradient_strides(model, x) == {1, 2, 3}
    with pytest.raises(RuntimeError, match="out"), strided.safe_gradients(model):
        np.testing.assert_allclose(model(x).numpy(), before, atol=1e-6)
        assert _gradient_strides(model, x) == {1}
        raise RuntimeError("out")
    assert _strides(model) == strides
    assert model(x).numpy().tolist() == before.tolist()


class Watch:
    """A progress that notes which strides the model has while something goes on."""

    def __init__(self, model: Any) -> None:
        self.model, self.seen = model, {}

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Any]:
        self.label = label
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.seen.setdefault(self.label, []).append(_strides(self.model))

    def note(self, text: str) -> None: ...


_ONES = [(1, 1), (1,), (1, 1, 1)]


def _context(folder: Path, model: Any) -> Context:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(33, 9, 9, 2)).astype(np.float32), rng.integers(0, 3, 33)
    train = SampleSet(role="train", x=x, y=y, sha256="a" * 64, source="made.npz")
    return Context(workdir=folder, train=train, progress=Watch(model))


@pytest.mark.parametrize("criterion", ["taylor", "obd"])
def test_channels_are_judged_without_that_gradient(criterion: str, tmp_path: Path):
    model = _net()
    context = _context(tmp_path, model)
    params = prune_channels.Params(criterion=criterion, keep=0.9, epochs=0, round_to=1, min_channels=1)
    made = prune_channels.apply(model, params, context)
    assert context.progress.seen["channels: gradients"] == [_ONES]
    assert _strides(made.model) == [(2, 3), (2,), (1, 2, 2)]


def test_models_train_without_that_gradient(tmp_path: Path):
    model = _net()
    context = _context(tmp_path, model)
    finetune(model, TrainingParams(epochs=1, batch_size=11), context, label="tuned")
    assert context.progress.seen["tuned: fine-tuning"][1:] == [_ONES] * 3
    assert _strides(model) == [(2, 3), (2,), (1, 2, 2)]
