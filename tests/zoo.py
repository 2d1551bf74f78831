"""One network of every kind that a technique may meet, tiny: random weights, normalizations as after training.

What boards are bought for stands in `board_networks`; here is the same small enough to train, save and convert all of
it with every technique, and what that lacks: depthwise and dense blocks, branches, sequences, several inputs and
outputs, shared and nested layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.files import sha256_bytes
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.types import SampleSet
from tests import board_networks, random_graphs

CLASSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of network.

    Attributes:
        make: builds it.
        labels: it has one output, and class labels fit it.
        int8: it can be compiled to integers; loops cannot.
    """

    make: Callable[[], Any]
    labels: bool = True
    int8: bool = True

    def network(self) -> Any:
        """The live model, a new one with the same numbers at every call."""
        keras = import_keras()
        keras.utils.set_random_seed(0)
        model = self.make()
        with third_party_warnings():
            random_graphs.randomise(model, 0)
        return model


def samples(model: Any, n: int = 32, *, labels: bool = True, seed: int = 0) -> SampleSet:
    """Random samples of a network, with class numbers for its first output where there are to be any."""
    random = np.random.default_rng(seed)
    parts = [random.normal(size=(n, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    x: NDArray[Any] = inputs.join(parts, [tensor.name for tensor in model.inputs])
    shape = model.outputs[0].shape[1:]
    y = random.integers(0, 2 if shape[-1] == 1 else shape[-1], (n, *shape[:-1])) if labels else None
    return SampleSet(role="train", x=x, y=y, sha256=sha256_bytes(x.tobytes()), source="zoo")


def _image(size: int = 16) -> Any:
    return import_keras().Input((size, size, 3), name="image")


def _unit(x: Any, filters: int, name: str, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> Any:
    layers = import_keras().layers
    x = layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _depthwise(x: Any, name: str, stride: int = 1) -> Any:
    layers = import_keras().layers
    x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))


def _head(image: Any, x: Any, name: str) -> Any:
    keras = import_keras()
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax", name="head")(x), name=name)


def plain() -> Any:
    """A Sequential model: convolutions, pooling, flatten into dense."""
    keras = import_keras()
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(8, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(8, 3, activation="relu", name="conv2"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(CLASSES, activation="softmax", name="head"),
        ],
        name="plain",
    )


def resnet20() -> Any:
    """Three stages of three blocks, as for CIFAR-10, four channels wide."""
    layers = import_keras().layers
    image = _image()
    x = _unit(image, 4, "stem")
    for stage, filters in enumerate((4, 8, 16), start=1):
        for block in (1, 2, 3):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"s{stage}b{block}"
            y = _unit(_unit(x, filters, f"{name}_a", stride=stride), filters, f"{name}_b", relu=False)
            if stride > 1:
                x = layers.Conv2D(filters, 1, strides=2, padding="same", name=f"{name}_short")(x)
            x = layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))
    return _head(image, x, "resnet20")


def mobilenet_v1() -> Any:
    """Depthwise and 1x1 in turn."""
    image = _image()
    x = _unit(image, 8, "stem", stride=2)
    for block, (filters, stride) in enumerate(((8, 1), (16, 2), (16, 1)), start=1):
        x = _unit(_depthwise(x, f"depthwise{block}", stride), filters, f"point{block}", 1)
    return _head(image, x, "mobilenet_v1")


def mobilenet_v2() -> Any:
    """Inverted residuals with linear ends; the second one adds its input."""
    layers = import_keras().layers
    image = _image()
    x = _unit(image, 8, "stem", stride=2)
    for block, (filters, stride) in enumerate(((8, 2), (8, 1), (12, 1)), start=1):
        y = _depthwise(_unit(x, 16, f"expand{block}", 1), f"depthwise{block}", stride)
        y = _unit(y, filters, f"project{block}", 1, relu=False)
        x = layers.Add(name=f"add{block}")([x, y]) if block == 2 else y
    return _head(image, _unit(x, 24, "last", 1), "mobilenet_v2")


def densenet() -> Any:
    """Every layer reads all before it; normalization comes first; a transition with average pooling."""
    layers = import_keras().layers
    image = _image()
    x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    for block in (1, 2):
        for part in (1, 2):
            name = f"d{block}{part}"
            y = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))
            y = layers.Conv2D(4, 3, padding="same", name=name)(y)
            x = layers.Concatenate(name=f"{name}_cat")([x, y])
        if block == 1:
            x = layers.AveragePooling2D(2, name="pool")(_unit(x, 8, "transition", 1))
    return _head(image, layers.ReLU(name="last_relu")(layers.BatchNormalization(name="last_bn")(x)), "densenet")


def unet() -> Any:
    """One level down and up: a transposed convolution and a concatenated skip, a mask out."""
    keras = import_keras()
    layers = keras.layers
    image = _image()
    one = _unit(image, 8, "down")
    x = _unit(layers.MaxPooling2D(name="pool")(one), 12, "bottom")
    x = layers.Conv2DTranspose(8, 2, strides=2, name="up")(x)
    x = _unit(layers.Concatenate(name="skip")([x, one]), 8, "right")
    return keras.Model(image, layers.Conv2D(CLASSES, 1, activation="softmax", name="mask")(x), name="unet")


def squeeze_excite() -> Any:
    """A block whose channels are scaled by what their means say."""
    layers = import_keras().layers
    image = _image()
    x = _unit(image, 12, "stem")
    s = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    s = layers.Conv2D(4, 1, activation="relu", name="reduce")(s)
    s = layers.Conv2D(12, 1, activation="sigmoid", name="excite")(s)
    return _head(image, _unit(layers.Multiply(name="scale")([x, s]), 16, "last", stride=2), "squeeze_excite")


def inception() -> Any:
    """Branches of 1x1, 3x3, two 3x3 and pooling, concatenated."""
    layers = import_keras().layers
    image = _image()
    x = _unit(image, 8, "stem", stride=2)
    pooled = layers.MaxPooling2D(3, strides=1, padding="same", name="pool")(x)
    branches = [
        _unit(x, 6, "one", 1),
        _unit(_unit(x, 4, "three_reduce", 1), 8, "three"),
        _unit(_unit(_unit(x, 4, "twice_reduce", 1), 6, "twice_a"), 6, "twice_b"),
        _unit(pooled, 4, "pooled", 1),
    ]
    return _head(image, _unit(layers.Concatenate(name="cat")(branches), 16, "last", 1), "inception")


def vit() -> Any:
    """Patches, one block of attention with two heads, an MLP, layer normalizations."""
    keras = import_keras()
    layers = keras.layers
    image = _image()
    x = layers.Reshape((16, 16), name="tokens")(layers.Conv2D(16, 4, strides=4, name="patches")(image))
    y = layers.LayerNormalization(epsilon=1e-6, name="norm_a")(x)
    x = layers.Add(name="sum_a")([x, layers.MultiHeadAttention(2, 8, name="attention")(y, y)])
    y = layers.LayerNormalization(epsilon=1e-6, name="norm_b")(x)
    y = layers.Dense(16, name="narrow")(layers.Dense(32, activation="gelu", name="widen")(y))
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(layers.Add(name="sum_b")([x, y]))
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(image, layers.Dense(CLASSES, name="head")(x), name="vit")


def conv1d() -> Any:
    """A waveform, strided and separable."""
    keras = import_keras()
    layers = keras.layers
    wave = keras.Input((64, 2), name="wave")
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu", name="first")(wave)
    x = layers.SeparableConv1D(12, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Conv1D(12, 3, padding="same", activation="relu", name="last")(layers.MaxPooling1D(name="pool")(x))
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(wave, layers.Dense(CLASSES, activation="softmax", name="head")(x), name="conv1d")


def _recurrent(cell: str) -> Any:
    keras = import_keras()
    layers = keras.layers
    steps = keras.Input((8, 6), name="steps")
    x = layers.Dense(10, activation="relu", name="embed")(steps)
    x = getattr(layers, cell)(12, name="memory")(x)
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    return keras.Model(steps, layers.Dense(CLASSES, activation="softmax", name="head")(x), name=cell.lower())


def lstm() -> Any:
    """Dense layers around an LSTM."""
    return _recurrent("LSTM")


def gru() -> Any:
    """Dense layers around a GRU."""
    return _recurrent("GRU")


def two_inputs() -> Any:
    """A picture and a row of numbers."""
    keras = import_keras()
    layers = keras.layers
    image, numbers = _image(8), keras.Input((5,), name="numbers")
    x = layers.GlobalAveragePooling2D(name="mean")(_unit(image, 8, "conv"))
    y = layers.Dense(6, activation="relu", name="numeric")(numbers)
    x = layers.Dense(12, activation="relu", name="both")(layers.Concatenate(name="cat")([x, y]))
    return keras.Model([image, numbers], layers.Dense(CLASSES, activation="softmax", name="head")(x), name="two_inputs")


def two_outputs() -> Any:
    """Classes and a number, from one trunk."""
    keras = import_keras()
    layers = keras.layers
    image = _image(8)
    x = _unit(_unit(image, 8, "conv1"), 12, "conv2", stride=2)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    what = layers.Dense(CLASSES, activation="softmax", name="what")(x)
    where = layers.Dense(2, name="where")(layers.Dense(8, activation="relu", name="regress")(x))
    return keras.Model(image, [what, where], name="two_outputs")


def shared() -> Any:
    """One convolution called on two inputs, whose difference is judged."""
    keras = import_keras()
    layers = keras.layers
    left, right = _image(8), keras.Input((8, 8, 3), name="other")
    twin = layers.Conv2D(8, 3, padding="same", activation="relu", name="twin")
    mean = layers.GlobalAveragePooling2D(name="mean")
    x = layers.Subtract(name="difference")([mean(twin(left)), mean(twin(right))])
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid", name="head")(x), name="shared")


def nested() -> Any:
    """A Sequential backbone inside a functional model, and one whose head is a model too."""
    keras = import_keras()
    layers = keras.layers
    backbone = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, activation="relu", name="conv1"),
            layers.Conv2D(12, 3, strides=2, activation="relu", name="conv2"),
        ],
        name="backbone",
    )
    features = keras.Input((12,), name="features")
    hidden = layers.Dense(8, activation="relu", name="hidden")(features)
    head = keras.Model(features, layers.Dense(CLASSES, activation="softmax", name="scores")(hidden), name="head")
    image = _image(12)
    return keras.Model(image, head(layers.GlobalAveragePooling2D(name="mean")(backbone(image))), name="nested")


ZOO: dict[str, Kind] = {
    "plain": Kind(make=plain),
    "resnet8": Kind(make=board_networks.resnet8),
    "resnet20": Kind(make=resnet20),
    "mobilenet_v1": Kind(make=mobilenet_v1),
    "mobilenet_v2": Kind(make=mobilenet_v2),
    "densenet": Kind(make=densenet),
    "unet": Kind(make=unet),
    "squeeze_excite": Kind(make=squeeze_excite),
    "inception": Kind(make=inception),
    "vit": Kind(make=vit),
    "conv1d": Kind(make=conv1d),
    "lstm": Kind(make=lstm, int8=False),
    "gru": Kind(make=gru, int8=False),
    "two_inputs": Kind(make=two_inputs),
    "two_outputs": Kind(make=two_outputs, labels=False),
    "shared": Kind(make=shared),
    "nested": Kind(make=nested),
}
