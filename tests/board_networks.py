"""The shapes of network that boards are bought for, small: ResNet-8, MobileNetV2, a U-Net, a vision transformer.

Weights are random, batch normalizations have statistics as after training. Layers that must not be missed are named.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras, third_party_warnings

SIZE = 32


def images(n: int, *, seed: int = 0) -> NDArray[np.float32]:
    """float32 [n, 32, 32, 3]: smooth, as pictures are, and not noise that every kernel averages away."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(n, 8, 8, 3)).astype(np.float32)
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2) + random.normal(0, 0.3, (n, SIZE, SIZE, 3)).astype(
        np.float32
    )


def resnet8() -> Any:
    """As MLPerf Tiny's: a stem and three residual blocks, two of them with a projection; 9 convolutions."""
    keras = import_keras()
    layers = keras.layers

    def unit(x: Any, filters: int, name: str, stride: int = 1, kernel: int = 3, *, relu: bool = True) -> Any:
        x = layers.Conv2D(filters, kernel, strides=stride, padding="same", name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = unit(image, 16, "stem")
    for block, (filters, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        y = unit(x, filters, f"block{block}_a", stride)
        y = unit(y, filters, f"block{block}_b", relu=False)
        if stride > 1:
            x = layers.Conv2D(filters, 1, strides=stride, padding="same", name=f"block{block}_short")(x)
        x = layers.ReLU(name=f"block{block}_out")(layers.Add(name=f"block{block}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="head")(x), name="resnet8")


def mobilenet_v2() -> Any:
    """Keras' own, the narrowest: 17 inverted residuals, 52 convolutions, a third of them depthwise."""
    keras = import_keras()
    return keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), alpha=0.35, weights=None, classes=10)


def unet() -> Any:
    """Two levels down and up again: transposed convolutions, an upsampling, concatenated skips, a mask out."""
    keras = import_keras()
    layers = keras.layers

    def double(x: Any, filters: int, name: str) -> Any:
        for part in "ab":
            x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_{part}")(x)
            x = layers.ReLU(name=f"{name}_{part}_relu")(layers.BatchNormalization(name=f"{name}_{part}_bn")(x))
        return x

    image = keras.Input((SIZE, SIZE, 3), name="image")
    one = double(image, 16, "down1")
    two = double(layers.MaxPooling2D(name="pool1")(one), 32, "down2")
    x = double(layers.MaxPooling2D(name="pool2")(two), 48, "bottom")
    x = layers.Conv2DTranspose(32, 2, strides=2, name="up2")(x)
    x = double(layers.Concatenate(name="skip2")([x, two]), 32, "right2")
    x = layers.Conv2D(16, 1, name="narrow")(layers.UpSampling2D(interpolation="bilinear", name="up1")(x))
    x = double(layers.Concatenate(name="skip1")([x, one]), 16, "right1")
    return keras.Model(image, layers.Conv2D(2, 1, activation="sigmoid", name="mask")(x), name="unet")


def vit() -> Any:
    """Patches of 8, two blocks of attention, layer normalizations, the exact GELU."""
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(48, 8, strides=8, name="patches")(image)
    x = layers.Reshape((16, 48), name="tokens")(x)
    for block in (1, 2):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm{block}_a")(x)
        y = layers.MultiHeadAttention(3, 16, name=f"attention{block}")(y, y)
        x = layers.Add(name=f"sum{block}_a")([x, y])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm{block}_b")(x)
        y = layers.Dense(96, activation="gelu", name=f"widen{block}")(y)
        y = layers.Dense(48, name=f"narrow{block}")(y)
        x = layers.Add(name=f"sum{block}_b")([x, y])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(image, layers.Dense(10, name="head")(x), name="vit")


NETWORKS: dict[str, Callable[[], Any]] = {
    "resnet8": resnet8,
    "mobilenet_v2": mobilenet_v2,
    "unet": unet,
    "vit": vit,
}


@functools.cache
def network(name: str) -> Any:
    """The live model, the same numbers in every process."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    random = np.random.default_rng(1)
    with third_party_warnings():
        for variable in model.variables:
            if variable.path.split("/")[-1] in ("gamma", "moving_variance"):
                variable.assign(random.uniform(0.6, 1.4, size=variable.shape))
            elif variable.path.split("/")[-1] in ("beta", "moving_mean", "bias"):
                variable.assign(random.normal(0, 0.1, size=variable.shape))
    return model
