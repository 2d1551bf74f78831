"""The float networks of the bench: what each is, and how those that are trained here come to be.

    python -m bench.int8.models            # trains what is missing in the cache, a few minutes each
    python -m bench.int8.models vit conv1d

A training that was interrupted goes on from its last whole epoch. Accuracy well above chance is enough: the bench
compares int8 with float of the same network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.int8 import data, rescale

EXAMPLE: Final = data.EXAMPLE
BN_MOMENTUM: Final = 0.9
BATCH: Final = 128


def default_cache() -> Path:
    """Outside of git: trained networks, decoded pictures and the environments of the peers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgesmith-bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One network of the bench.

    Attributes:
        data: see `data.load`.
        build: the untrained network; None where it is shipped.
        of: the network that it is a rescaled twin of.
        change: makes that twin, with the same outputs.
        badly_scaled: ours has to win back most of what the default loses.
        epochs, rate: of the training.
    """

    name: str
    data: str
    build: Callable[[], Any] | None = None
    of: str = ""
    change: Callable[[Any, Any], None] | None = None
    badly_scaled: bool = False
    epochs: int = 10
    rate: float = 2e-3


def _conv_bn(x: Any, conv: Any, activation: Any = None) -> Any:
    import keras

    x = keras.layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{conv.name}_bn")(conv(x))
    return x if activation is None else activation(name=f"{conv.name}_act")(x)


def _relu6(name: str) -> Any:
    import keras

    return keras.layers.ReLU(6.0, name=name)


def mobilenet_v1() -> Any:
    """Depthwise-separable blocks with ReLU. Howard et al. 2017, MobileNets, arXiv:1704.04861, shrunk to 32x32."""
    import keras
    from keras.layers import Conv2D, DepthwiseConv2D, ReLU

    image = keras.Input((32, 32, 3), name="image")
    x = _conv_bn(image, Conv2D(24, 3, strides=2, padding="same", use_bias=False, name="stem"), ReLU)
    for i, (channels, stride) in enumerate(((48, 1), (96, 2), (96, 1), (160, 2), (160, 1)), start=1):
        depthwise = DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"b{i}_dw")
        x = _conv_bn(x, depthwise, ReLU)
        x = _conv_bn(x, Conv2D(channels, 1, use_bias=False, name=f"b{i}_pw"), ReLU)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax", name="head")(x), name="mobilenet_v1")


def mobilenet_v2() -> Any:
    """Inverted residuals with ReLU6. Sandler et al. 2018, MobileNetV2, arXiv:1801.04381, shrunk to 32x32."""
    import keras
    from keras.layers import Conv2D, DepthwiseConv2D

    image = keras.Input((32, 32, 3), name="image")
    x = _conv_bn(image, Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem"), _relu6)
    for i, (channels, stride) in enumerate(((16, 1), (24, 1), (24, 1), (40, 2), (40, 1), (64, 2), (64, 1)), start=1):
        width = 4 * x.shape[-1]
        y = _conv_bn(x, Conv2D(width, 1, use_bias=False, name=f"b{i}_expand"), _relu6)
        y = _conv_bn(y, DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"b{i}_dw"), _relu6)
        y = _conv_bn(y, Conv2D(channels, 1, use_bias=False, name=f"b{i}_project"))
        x = keras.layers.Add(name=f"b{i}_add")([x, y]) if stride == 1 and channels == x.shape[-1] else y
    x = _conv_bn(x, Conv2D(192, 1, use_bias=False, name="last"), _relu6)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax", name="head")(x), name="mobilenet_v2")


def separable() -> Any:
    """A plain chain of 5x5 depthwise and pointwise convolutions with max pooling between, logits out."""
    import keras
    from keras.layers import Conv2D, DepthwiseConv2D, MaxPooling2D, ReLU

    image = keras.Input((28, 28, 1), name="image")
    x = _conv_bn(image, Conv2D(16, 3, padding="same", use_bias=False, name="stem"), ReLU)
    for i, channels in enumerate((32, 64, 96), start=1):
        x = MaxPooling2D(2, name=f"b{i}_pool")(x)
        x = _conv_bn(x, DepthwiseConv2D(5, padding="same", use_bias=False, name=f"b{i}_dw"), ReLU)
        x = _conv_bn(x, Conv2D(channels, 1, use_bias=False, name=f"b{i}_pw"), ReLU)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="head")(x), name="separable")


def vit() -> Any:
    """A pre-norm vision transformer: 49 patches, 64 wide, 4 heads, 3 blocks, exact GELU.

    Dosovitskiy et al. 2020, An Image is Worth 16x16 Words, arXiv:2010.11929, with mean pooling instead of a class token
    and the positions learnt as the bias of a dense layer.
    """
    import keras
    from keras import layers

    image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(64, 4, strides=4, name="patches")(image)
    x = layers.Reshape((49, 64), name="tokens")(x)
    x = layers.EinsumDense("btc,cd->btd", output_shape=(49, 64), bias_axes="td", name="positions")(x)
    for i in range(1, 4):
        y = layers.LayerNormalization(epsilon=1e-5, name=f"b{i}_norm1")(x)
        y = layers.MultiHeadAttention(4, 16, name=f"b{i}_attention")(y, y)
        x = layers.Add(name=f"b{i}_add1")([x, y])
        y = layers.LayerNormalization(epsilon=1e-5, name=f"b{i}_norm2")(x)
        y = layers.Dense(128, activation="gelu", name=f"b{i}_up")(y)
        x = layers.Add(name=f"b{i}_add2")([x, layers.Dense(64, name=f"b{i}_down")(y)])
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="head")(x), name="vit")


def conv1d() -> Any:
    """Convolutions along time with ReLU, on waveforms."""
    import keras
    from keras.layers import Conv1D, ReLU

    sound = keras.Input((data.WAVE_LENGTH, 1), name="sound")
    x = sound
    for i, (channels, size, stride) in enumerate(
        ((16, 15, 4), (32, 9, 4), (48, 7, 2), (64, 5, 2), (64, 3, 1)), start=1
    ):
        x = _conv_bn(x, Conv1D(channels, size, strides=stride, padding="same", use_bias=False, name=f"c{i}"), ReLU)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    x = keras.layers.Dense(32, activation="relu", name="hidden")(x)
    output = keras.layers.Dense(data.WAVE_CLASSES, activation="softmax", name="head")(x)
    return keras.Model(sound, output, name="conv1d")


ENTRIES: Final = (
    Entry(name="resnet8", data="cifar-raw"),
    Entry(name="resnet8_outliers", data="cifar-raw", of="resnet8", change=rescale.resnet8, badly_scaled=True),
    Entry(name="mobilenet_v1", data="cifar", build=mobilenet_v1, epochs=15),
    Entry(name="mobilenet_v1_scaled", data="cifar", of="mobilenet_v1", change=rescale.mobilenet_v1, badly_scaled=True),
    Entry(name="mobilenet_v2", data="cifar", build=mobilenet_v2, epochs=7),
    Entry(name="mobilenet_v2_scaled", data="cifar", of="mobilenet_v2", change=rescale.mobilenet_v2, badly_scaled=True),
    Entry(name="separable", data="fashion", build=separable, epochs=8),
    Entry(name="separable_outliers", data="fashion", of="separable", change=rescale.separable, badly_scaled=True),
    Entry(name="vit", data="fashion", build=vit, epochs=8),
    Entry(name="vit_outliers", data="fashion", of="vit", change=rescale.vit, badly_scaled=True),
    Entry(name="conv1d", data="waves", build=conv1d, epochs=6),
    Entry(name="bundled", data="fashion-raw"),
    Entry(name="bundled_scaled", data="fashion-raw", of="bundled", change=rescale.bundled, badly_scaled=True),
)

SAME: Final = 1e-3
"""How far the outputs of a twin may lie from those of the network it was made from, on the evaluation samples."""


def entry(name: str) -> Entry:
    return next(each for each in ENTRIES if each.name == name)


def model_file(name: str, cache: Path, samples: data.Data) -> Path:
    """The float network as a `.keras` file; trained, loaded or rescaled where the cache does not hold it yet."""
    path = cache / "zoo" / f"{name}.keras"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    this = entry(name)
    if this.build:
        model = _train(this, cache, samples)
    elif this.of:
        model = _twin(this, cache, samples)
    elif name == "bundled":
        return EXAMPLE / "model.keras"
    else:
        model = _shipped(cache)
    part = path.with_name(f"{name}.part.keras")
    model.save(part)
    part.rename(path)
    return path


def _shipped(cache: Path) -> Any:
    """MLPerf Tiny's reference for image classification, brought from Keras 2."""
    from optimizer.load import load_model, open_keras

    return open_keras(load_model(data.shared_data() / "mlperf-tiny" / "pretrainedResnet.h5", workdir=cache / "loaded"))


def _twin(this: Entry, cache: Path, samples: data.Data) -> Any:
    """The rescaled twin; checked to compute the same."""
    import keras

    if this.change is None:
        raise ValueError(f"{this.name} has nothing that makes it from {this.of}")
    source = model_file(this.of, cache, samples)
    model, x = keras.models.load_model(source, compile=False), samples.evaluation.x
    before = model.predict(x, batch_size=500, verbose=0)
    this.change(model, np.concatenate([x, samples.train.x[:5000]]))
    apart = float(np.abs(model.predict(x, batch_size=500, verbose=0) - before).max())
    if not apart < SAME:
        raise ValueError(f"{this.name}: the rescaling changed the outputs by up to {apart:.2g}")
    print(f"{this.name}: outputs within {apart:.1e} of {this.of}", file=sys.stderr)
    return model


def _train(this: Entry, cache: Path, samples: data.Data) -> Any:
    import keras

    if this.build is None:
        raise ValueError(f"{this.name} is not trained here")
    keras.utils.set_random_seed(1)
    model, train = this.build(), samples.train
    steps = this.epochs * -(-len(train.x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(1e-4, steps - 200, warmup_target=this.rate, warmup_steps=200)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=model.layers[-1].activation.__name__ == "linear")
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=0.01), loss=loss, metrics=["accuracy"])
    resume = keras.callbacks.BackupAndRestore(cache / "zoo" / f"{this.name}.training")
    model.fit(train.x, train.y, batch_size=BATCH, epochs=this.epochs, callbacks=[resume], verbose=2)
    return model


def main(names: list[str]) -> None:
    cache = default_cache()
    for this in ENTRIES:
        if not names or this.name in names:
            path = model_file(this.name, cache, data.load(this.data, cache, calibration=256, evaluation=10_000))
            print(f"{this.name}: {path}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
