"""Keras 2 -> Keras 3: every supported layer gives the same numbers, and a wrong twin is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, import_tensorflow, import_tf_keras
from optimizer import keras2, keras2_layers

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

Build = Callable[[Any], Any]


def _rebuilt(old: Any) -> Any:
    """Rebuilds after giving every weight a value that a wrong order or a lost statistic would show."""
    rng = np.random.default_rng(7)
    for layer in old.layers:
        layer.set_weights([rng.uniform(0.2, 0.8, size=w.shape).astype(w.dtype) for w in layer.get_weights()])
    return keras2.rebuild(old, keras=import_keras(), tf_keras=import_tf_keras(), where="model.h5")


def _outputs(model: Any, *inputs: Any) -> list[np.ndarray]:
    made = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
    return [np.asarray(part) for part in (made if isinstance(made, list | tuple) else [made])]


def _functional(k: Any, shape: tuple[int | None, ...], apply: Callable[[Any, Any], Any]) -> Any:
    x = k.Input(shape)
    return k.Model(x, apply(k.layers, x))


IMAGE, SERIES, VECTOR = (8, 8, 4), (6, 4), (5,)
LAYERS: list[tuple[str, tuple[int, ...], Callable[[Any, Any], Any]]] = [
    ("Dense", VECTOR, lambda ly, x: ly.Dense(3, "gelu", kernel_regularizer="l2")(x)),
    ("Conv1D causal", SERIES, lambda ly, x: ly.Conv1D(3, 3, padding="causal", dilation_rate=2)(x)),
    ("Conv2D grouped", IMAGE, lambda ly, x: ly.Conv2D(6, 3, groups=2, strides=2, padding="same", activation="relu")(x)),
    ("DepthwiseConv2D", IMAGE, lambda ly, x: ly.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)),
    ("SeparableConv2D", IMAGE, lambda ly, x: ly.SeparableConv2D(5, 3, activation="swish")(x)),
    ("SeparableConv1D", SERIES, lambda ly, x: ly.SeparableConv1D(5, 3)(x)),
    ("Conv1DTranspose", SERIES, lambda ly, x: ly.Conv1DTranspose(3, 3, strides=2)(x)),
    ("Conv2DTranspose", IMAGE, lambda ly, x: ly.Conv2DTranspose(3, 3, strides=2, padding="same")(x)),
    ("BatchNormalization", IMAGE, lambda ly, x: ly.BatchNormalization(epsilon=1e-2)(x)),
    ("BatchNormalization plain", IMAGE, lambda ly, x: ly.BatchNormalization(center=False, scale=False)(x)),
    ("BatchNormalization frozen", IMAGE, lambda ly, x: ly.BatchNormalization(trainable=False)(x)),
    ("LayerNormalization", IMAGE, lambda ly, x: ly.LayerNormalization()(x)),
    ("Normalization", VECTOR, lambda ly, x: ly.Normalization()(x)),
    ("Normalization given", VECTOR, lambda ly, x: ly.Normalization(mean=[1.0] * 5, variance=[4.0] * 5)(x)),
    ("Activation", IMAGE, lambda ly, x: ly.Activation("softmax")(x)),
    ("Activation hard_sigmoid", IMAGE, lambda ly, x: ly.Activation("hard_sigmoid")(x)),
    ("Dense hard_sigmoid", VECTOR, lambda ly, x: ly.Dense(3, "hard_sigmoid")(x)),
    ("ReLU", IMAGE, lambda ly, x: ly.ReLU(max_value=6, negative_slope=0.1, threshold=0.2)(x)),
    ("LeakyReLU", IMAGE, lambda ly, x: ly.LeakyReLU(0.17)(x)),
    ("PReLU", IMAGE, lambda ly, x: ly.PReLU(shared_axes=[1, 2])(x)),
    ("ELU", IMAGE, lambda ly, x: ly.ELU(0.7)(x)),
    ("ThresholdedReLU", IMAGE, lambda ly, x: ly.ThresholdedReLU(0.4)(x)),
    ("Softmax", IMAGE, lambda ly, x: ly.Softmax(axis=1)(x)),
    ("MaxPooling2D", IMAGE, lambda ly, x: ly.MaxPooling2D(3, strides=2, padding="same")(x)),
    ("AveragePooling2D", IMAGE, lambda ly, x: ly.AveragePooling2D(3, padding="same")(x)),
    ("MaxPooling1D", SERIES, lambda ly, x: ly.MaxPooling1D(2)(x)),
    ("AveragePooling1D", SERIES, lambda ly, x: ly.AveragePooling1D(2)(x)),
    ("GlobalAveragePooling2D", IMAGE, lambda ly, x: ly.GlobalAveragePooling2D(keepdims=True)(x)),
    ("GlobalMaxPooling2D", IMAGE, lambda ly, x: ly.GlobalMaxPooling2D()(x)),
    ("GlobalAveragePooling1D", SERIES, lambda ly, x: ly.GlobalAveragePooling1D()(x)),
    ("GlobalMaxPooling1D", SERIES, lambda ly, x: ly.GlobalMaxPooling1D(keepdims=True)(x)),
    ("ZeroPadding2D", IMAGE, lambda ly, x: ly.ZeroPadding2D(((1, 2), (0, 3)))(x)),
    ("ZeroPadding1D", SERIES, lambda ly, x: ly.ZeroPadding1D((1, 2))(x)),
    ("Cropping2D", IMAGE, lambda ly, x: ly.Cropping2D(((1, 2), (0, 3)))(x)),
    ("Cropping1D", SERIES, lambda ly, x: ly.Cropping1D(1)(x)),
    ("UpSampling2D", IMAGE, lambda ly, x: ly.UpSampling2D(2, interpolation="bilinear")(x)),
    ("UpSampling1D", SERIES, lambda ly, x: ly.UpSampling1D(3)(x)),
    ("Flatten", IMAGE, lambda ly, x: ly.Flatten()(x)),
    ("Reshape", IMAGE, lambda ly, x: ly.Reshape((4, -1))(x)),
    ("Permute", IMAGE, lambda ly, x: ly.Permute((3, 1, 2))(x)),
    ("RepeatVector", VECTOR, lambda ly, x: ly.RepeatVector(3)(x)),
    ("Dropout", VECTOR, lambda ly, x: ly.Dropout(0.5)(x)),
    ("SpatialDropout2D", IMAGE, lambda ly, x: ly.SpatialDropout2D(0.5)(x)),
    ("GaussianNoise", VECTOR, lambda ly, x: ly.GaussianNoise(0.5)(x)),
    ("GaussianDropout", VECTOR, lambda ly, x: ly.GaussianDropout(0.5)(x)),
    ("AlphaDropout", VECTOR, lambda ly, x: ly.AlphaDropout(0.5)(x)),
    ("Rescaling", IMAGE, lambda ly, x: ly.Rescaling(1 / 127.5, offset=-1)(x)),
    ("Resizing", IMAGE, lambda ly, x: ly.Resizing(5, 12)(x)),
    ("CenterCrop", IMAGE, lambda ly, x: ly.CenterCrop(4, 4)(x)),
    ("RandomFlip", IMAGE, lambda ly, x: ly.RandomFlip()(x)),
    ("RandomRotation", IMAGE, lambda ly, x: ly.RandomRotation(0.2)(x)),
    ("RandomZoom", IMAGE, lambda ly, x: ly.RandomZoom(0.2)(x)),
    ("LSTM", SERIES, lambda ly, x: ly.LSTM(3, return_sequences=True)(x)),
    ("LSTM state", SERIES, lambda ly, x: ly.LSTM(3, return_state=True)(x)),
    ("GRU", SERIES, lambda ly, x: ly.GRU(3)(x)),
    ("GRU reset before", SERIES, lambda ly, x: ly.GRU(3, reset_after=False, go_backwards=True)(x)),
    ("SimpleRNN", SERIES, lambda ly, x: ly.SimpleRNN(3, unroll=True)(x)),
    ("Bidirectional", SERIES, lambda ly, x: ly.Bidirectional(ly.LSTM(3), merge_mode="sum")(x)),
    ("TimeDistributed", SERIES, lambda ly, x: ly.TimeDistributed(ly.Dense(3, "relu"))(x)),
    ("MultiHeadAttention", SERIES, lambda ly, x: ly.MultiHeadAttention(2, 3)(x, x)),
]


@pytest.mark.parametrize(("shape", "apply"), [c[1:] for c in LAYERS], ids=[c[0] for c in LAYERS])
def test_each_layer_gives_the_same_numbers(shape: tuple[int, ...], apply: Callable[[Any, Any], Any]):
    tf_keras = import_tf_keras()
    old = _functional(tf_keras, shape, apply)

    new = _rebuilt(old)

    x = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    for before, after in zip(_outputs(old, x), _outputs(new, x), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5)
    assert new.__class__.__module__.startswith("keras.")


MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]


def test_merges_of_several_inputs_and_several_outputs_keep_their_order():
    tf_keras = import_tf_keras()
    a, b = tf_keras.Input((4,), name="left"), tf_keras.Input((4,), name="right")
    old = tf_keras.Model([a, b], [getattr(tf_keras.layers, name)()([a, b]) for name in MERGES])

    new = _rebuilt(old)

    x, y = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    expected = [x + y, x - y, x * y, (x + y) / 2, np.maximum(x, y), np.minimum(x, y), np.concatenate([x, y], 1)]
    for reference, made in zip(expected, _outputs(new, x, y), strict=True):
        np.testing.assert_allclose(made, reference, rtol=1e-6)
    assert [tensor.name for tensor in new.inputs] == ["left", "right"]


def test_operators_on_tensors_become_layers_and_ops():
    tf, tf_keras = import_tensorflow(), import_tf_keras()
    x = tf_keras.Input((8, 8, 4))
    y = tf_keras.layers.Conv2D(4, 3, padding="same")(x)
    y = tf.nn.relu(y + x) * 2.0 - 0.5
    y = tf.clip_by_value(tf.pad(y[:, 1:, ::2, ...], [[0, 0], [1, 1], [0, 0], [0, 0]]), 0.0, 6.0)
    y = tf.concat([y, tf.sigmoid(y), tf.nn.leaky_relu(y, alpha=0.3)], axis=-1)
    y = tf.squeeze(tf.expand_dims(tf.reduce_mean(y, axis=[1, 2]), 1), [1])
    y = tf.nn.softmax(tf.reshape(tf.transpose(tf.reshape(y, (-1, 3, 4)), [0, 2, 1]), (-1, 12)))
    old = tf_keras.Model(x, y / 2.0 + tf.square(y) - tf.maximum(y, 0.1))

    new = _rebuilt(old)

    data = np.random.default_rng(1).normal(size=(3, 8, 8, 4)).astype(np.float32)
    np.testing.assert_allclose(_outputs(new, data)[0], _outputs(old, data)[0], atol=1e-6)
    assert "Add" in {type(layer).__name__ for layer in new.layers}


def test_nested_models_shared_layers_and_names_with_slashes():
    tf_keras = import_tf_keras()
    ly = tf_keras.layers
    backbone = tf_keras.Sequential([ly.Input((8, 8, 3)), ly.Conv2D(4, 3, name="stem/conv"), ly.BatchNormalization()])
    a, b = tf_keras.Input((8, 8, 3)), tf_keras.Input((8, 8, 3))
    shared = ly.Dense(2, name="head/dense")
    both = ly.Concatenate()([ly.Flatten()(backbone(a, training=False)), ly.Flatten()(backbone(b))])
    old = tf_keras.Model([a, b], [shared(both), shared(both * 2.0)])

    new = _rebuilt(old)

    x, y = np.random.default_rng(1).normal(size=(2, 3, 8, 8, 3)).astype(np.float32)
    for before, after in zip(_outputs(old, x, y), _outputs(new, x, y), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5)
    assert "head_dense" in {layer.name for layer in new.layers}
    assert new.count_params() == old.count_params()


def test_embedding_gets_valid_indices_for_the_parity_check():
    tf_keras = import_tf_keras()
    x = tf_keras.Input((7,), dtype="int32")
    y = tf_keras.layers.Embedding(5, 4, mask_zero=True)(x)
    old = tf_keras.Model(x, tf_keras.layers.LSTM(3)(y))

    new = _rebuilt(old)

    data = np.array([[1, 2, 3, 0, 0, 0, 0], [4, 4, 4, 4, 1, 1, 2]], dtype=np.int32)
    np.testing.assert_allclose(_outputs(new, data)[0], _outputs(old, data)[0], atol=1e-6)


def test_recurrent_layer_with_an_initial_state():
    tf_keras = import_tf_keras()
    x = tf_keras.Input((6, 4))
    _, h, c = tf_keras.layers.LSTM(3, return_state=True)(x)
    old = tf_keras.Model(x, tf_keras.layers.LSTM(3)(x, initial_state=[h, c]))

    new = _rebuilt(old)

    data = np.random.default_rng(1).normal(size=(3, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(_outputs(new, data)[0], _outputs(old, data)[0], atol=1e-6)


def test_a_model_in_a_time_distributed_wrapper():
    tf_keras = import_tf_keras()
    ly = tf_keras.layers
    frame = tf_keras.Sequential([ly.Input((6, 6, 2)), ly.Conv2D(3, 3), ly.BatchNormalization(), ly.Flatten()])
    old = _functional(tf_keras, (4, 6, 6, 2), lambda ly, x: ly.TimeDistributed(frame)(x))

    new = _rebuilt(old)

    data = np.random.default_rng(1).normal(size=(2, 4, 6, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(_outputs(new, data)[0], _outputs(old, data)[0], atol=1e-5)


def test_augmentation_recorded_with_training_true_is_off_at_inference():
    tf_keras = import_tf_keras()
    old = _functional(tf_keras, (8, 8, 3), lambda ly, x: ly.RandomFlip("horizontal")(x, training=True))

    new = _rebuilt(old)

    x = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(_outputs(new, x)[0], x)


def test_open_image_sizes_are_tried_until_the_net_fits():
    tf_keras = import_tf_keras()
    old = _functional(tf_keras, (None, None, 3), lambda ly, x: ly.Conv2D(2, 3, strides=2)(ly.Conv2D(2, 65)(x)))

    assert _rebuilt(old).inputs[0].shape == (None, None, None, 3)


def test_batch_norm_fixed_to_training_mode_is_refused():
    tf_keras = import_tf_keras()
    old = _functional(tf_keras, (4,), lambda ly, x: ly.BatchNormalization(name="bn")(x, training=True))

    with pytest.raises(ModelError, match=r"model.h5: Layer bn .* is called with training=True in the graph"):
        _rebuilt(old)


@pytest.mark.parametrize(
    ("shape", "apply", "text"),
    [
        (IMAGE, lambda ly, x: ly.LocallyConnected2D(2, 3, name="lc")(x), "Layer lc is LocallyConnected2D, which Keras"),
        (SERIES, lambda ly, x: ly.LSTM(2, recurrent_activation="hard_sigmoid", name="r")(x), "Layer r: its activation"),
        (SERIES, lambda ly, x: ly.LSTM(2, time_major=True, name="r")(x), r"Layer r \(LSTM\) has time_major=True"),
    ],
)
def test_what_keras_3_lacks_is_refused_by_layer(shape: tuple[int, ...], apply: Callable[[Any, Any], Any], text: str):
    with pytest.raises(ModelError, match=text):
        _rebuilt(_functional(import_tf_keras(), shape, apply))


def test_a_tensorflow_function_off_the_list_is_refused_by_name():
    tf, tf_keras = import_tensorflow(), import_tf_keras()
    x = tf_keras.Input((4,))

    with pytest.raises(ModelError, match=r"Layer tf.math.cumsum is the TensorFlow function tf.math.cumsum"):
        _rebuilt(tf_keras.Model(x, tf.cumsum(x)))


def test_a_model_without_input_shape_is_refused():
    tf_keras = import_tf_keras()

    with pytest.raises(ModelError, match=r"model.h5: The model .* has no input shape"):
        _rebuilt(tf_keras.Sequential([tf_keras.layers.Dense(3)]))


def test_the_first_diverging_layer_is_named(monkeypatch: pytest.MonkeyPatch):
    """A twin that loses a setting: what the filter of configs could do to a layer nobody thought of."""
    monkeypatch.setitem(keras2_layers._RENAMED_KEYS, "LeakyReLU", {"alpha": "slope_under_another_name"})
    tf_keras = import_tf_keras()
    old = _functional(
        tf_keras,
        (8, 8, 3),
        lambda ly, x: ly.Conv2D(2, 3, name="after")(ly.LeakyReLU(0.01, name="guilty")(ly.Conv2D(2, 3, name="fine")(x))),
    )
    old.get_layer("fine").set_weights([-np.ones((3, 3, 3, 2)), np.zeros(2)])

    with pytest.raises(ModelError, match=r"layer guilty gives other outputs than in Keras 2") as caught:
        keras2.rebuild(old, keras=import_keras(), tf_keras=tf_keras, where="model.h5")
    assert "guilty" in caught.value.next_step
