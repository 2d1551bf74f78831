"""Which loss `auto` takes, and in which form the labels go in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesmith.errors import DataError, ModelError
from edgesmith.frameworks import import_keras
from optimizer.losses import choose_loss, is_loss, last_activation

CLASSES = np.array([0, 2, 1])
FLOATS = np.array([[0.0, 1.0, 0.0]] * 3, np.float32)


def _net(*last: Any, shape: tuple[int, ...] = (4,)) -> Any:
    keras = import_keras()
    return keras.Sequential([keras.Input(shape), *last])


def _dense(units: int, activation: str | None = None) -> Any:
    return import_keras().layers.Dense(units, activation=activation)


@pytest.mark.parametrize(
    ("units", "activation", "labels", "loss", "logits"),
    [
        (3, "softmax", CLASSES, "SparseCategoricalCrossentropy", False),
        (3, None, CLASSES, "SparseCategoricalCrossentropy", True),
        (3, "softmax", FLOATS, "CategoricalCrossentropy", False),
        (3, "sigmoid", FLOATS, "BinaryCrossentropy", False),
        (3, "sigmoid", CLASSES, "BinaryCrossentropy", False),
        (1, "sigmoid", CLASSES % 2, "BinaryCrossentropy", False),
        (1, None, CLASSES % 2, "BinaryCrossentropy", True),
        (3, None, FLOATS, "MeanSquaredError", None),
        (1, None, FLOATS[:, 0], "MeanSquaredError", None),
    ],
)
def test_auto(units: int, activation: str | None, labels: np.ndarray, loss: str, logits: bool | None):
    chosen = choose_loss(_net(_dense(units, activation)), "auto", labels)
    assert type(chosen.function).__name__ == loss
    assert chosen.function.get_config().get("from_logits") == logits
    assert chosen.labels.shape == ((3,) if loss.startswith("Sparse") else (3, units))


def test_one_hot_labels_for_independent_scores():
    chosen = choose_loss(_net(_dense(3, "sigmoid")), "auto", CLASSES)
    assert chosen.labels.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert chosen.text == "binary_crossentropy (sigmoid output)"


def test_a_class_for_every_pixel():
    net = _net(import_keras().layers.Conv2D(5, 1), shape=(2, 2, 3))
    chosen = choose_loss(net, "auto", np.zeros((3, 2, 2), np.int64))
    assert type(chosen.function).__name__ == "SparseCategoricalCrossentropy"


def test_the_last_activation_is_found_behind_what_only_reshapes():
    keras = import_keras()
    layers = keras.layers
    assert last_activation(_net(_dense(4, "softmax"), layers.Reshape((2, 2)), layers.Flatten())) == "softmax"
    assert last_activation(_net(_dense(4), layers.Softmax())) == "softmax"
    assert last_activation(_net(_dense(4), layers.Activation("sigmoid"))) == "sigmoid"
    assert last_activation(_net(_dense(4))) == "linear"
    assert last_activation(_net(_dense(4), layers.BatchNormalization())) == "linear"
    inner = _net(_dense(4, "softmax"))
    x = keras.Input((4,))
    assert last_activation(keras.Model(x, inner(x))) == "softmax"
    assert last_activation(keras.Model(x, keras.ops.softmax(_dense(4)(x)))) == "softmax"
    shared = _dense(4, "sigmoid")
    assert last_activation(keras.Model(x, layers.Identity()(shared(shared(x))))) == "sigmoid"


@pytest.mark.parametrize(
    ("loss", "labels", "text"),
    [
        (
            "sparse_categorical_crossentropy",
            FLOATS,
            r"wants class numbers \[N\], and the training labels are float32",
        ),
        ("mse", CLASSES, r"The loss mse wants targets \[N, 3\], and the training labels are int64\[3\]"),
        ("auto", FLOATS[:, :2], r"wants targets \[N, 3\], and the training labels are float32\[3, 2\]"),
    ],
)
def test_labels_that_do_not_fit(loss: str, labels: np.ndarray, text: str):
    with pytest.raises(DataError, match=text):
        choose_loss(_net(_dense(3)), loss, labels)


def test_two_outputs_need_a_loss_of_their_own():
    keras = import_keras()
    x = keras.Input((4,))
    net = keras.Model(x, [_dense(1)(x), _dense(1)(x)])
    with pytest.raises(ModelError, match="The model has 2 outputs; fine-tuning knows what to do with one"):
        choose_loss(net, "auto", CLASSES)


def test_names():
    assert is_loss("auto")
    assert is_loss("my.module:loss")
    assert not is_loss("hinge")
