"""ResNet-20-like and MobileNetV2-like networks for 32x32 pictures, and how the bench trains them.

    python -m bench.cifar.networks                     # trains what the cache lacks, half an hour each
    python -m bench.cifar.networks mobilenet_v2 --seed 1

A training that was interrupted goes on from its last whole epoch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bench.cifar.data import load, moved
from bench.int8.data import Split
from bench.int8.models import default_cache

BATCH: Final = 128
BN_MOMENTUM: Final = 0.9
CLASSES: Final = 10


def _conv_bn(x: Any, conv: Any, activation: Any = None) -> Any:
    import keras

    x = keras.layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{conv.name}_bn")(conv(x))
    return x if activation is None else activation(x)


def resnet20() -> Any:
    """Three stages of three residual blocks, 16, 32 and 64 wide. He et al. 2016, arXiv:1512.03385, section 4.2.

    Shortcuts that change the width are 1x1 convolutions (option B), as MLPerf Tiny's ResNet-8 has them.
    """
    import keras
    from keras.layers import Add, Conv2D, ReLU

    def conv(filters: int, size: int, stride: int, name: str) -> Any:
        return Conv2D(filters, size, strides=stride, padding="same", use_bias=False, name=name)

    image = keras.Input((32, 32, 3), name="image")
    x = _conv_bn(image, conv(16, 3, 1, "stem"), ReLU(name="stem_act"))
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(1, 4):
            name, stride = f"s{stage}b{block}", 2 if stage > 1 and block == 1 else 1
            y = _conv_bn(x, conv(filters, 3, stride, f"{name}_first"), ReLU(name=f"{name}_first_act"))
            y = _conv_bn(y, conv(filters, 3, 1, f"{name}_second"))
            if x.shape[-1] != filters:
                x = _conv_bn(x, conv(filters, 1, stride, f"{name}_shortcut"))
            x = ReLU(name=f"{name}_act")(Add(name=f"{name}_add")([x, y]))
    return _classifier(image, x, "resnet20")


def mobilenet_v2() -> Any:
    """Inverted residuals, 16 to 64 wide, expanded six times. Sandler et al. 2018, arXiv:1801.04381, table 2, shrunk."""
    import keras
    from keras.layers import Add, Conv2D, DepthwiseConv2D, ReLU

    def relu6(name: str) -> Any:
        return ReLU(6.0, name=f"{name}_act")

    image = keras.Input((32, 32, 3), name="image")
    x = _conv_bn(image, Conv2D(16, 3, padding="same", use_bias=False, name="stem"), relu6("stem"))
    blocks = ((1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 64, 2), (6, 64, 1))
    for i, (expansion, filters, stride) in enumerate(blocks, start=1):
        y, name = x, f"b{i}"
        if expansion > 1:
            wide = Conv2D(expansion * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")
            y = _conv_bn(y, wide, relu6(f"{name}_expand"))
        depthwise = DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"{name}_dw")
        y = _conv_bn(y, depthwise, relu6(f"{name}_dw"))
        y = _conv_bn(y, Conv2D(filters, 1, use_bias=False, name=f"{name}_project"))
        x = Add(name=f"{name}_add")([x, y]) if stride == 1 and filters == x.shape[-1] else y
    x = _conv_bn(x, Conv2D(256, 1, use_bias=False, name="last"), relu6("last"))
    return _classifier(image, x, "mobilenet_v2")


def _classifier(image: Any, x: Any, name: str) -> Any:
    import keras

    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax", name="head")(x), name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """SGD with Nesterov's momentum of 0.9; the rate rises for an epoch, then falls to zero along a cosine.

    Attributes:
        rate: at its height.
        decay: of the kernels, decoupled: L2 regularization of a tenth of it, given that momentum.
    """

    build: Callable[[], Any]
    epochs: int
    rate: float
    decay: float


TRAININGS: Final[Mapping[str, Training]] = {
    "resnet20": Training(build=resnet20, epochs=16, rate=0.1, decay=5e-3),
    "mobilenet_v2": Training(build=mobilenet_v2, epochs=16, rate=0.05, decay=1e-3),
}


def float_file(name: str, cache: Path, seed: int = 0) -> Path:
    """The trained float network as a `.keras` file; trained where the cache does not hold it yet."""
    path = cache / "cifar" / f"{name}-{seed}.keras"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = train(TRAININGS[name], load(cache).train, path.with_suffix(".training"), seed)
        part = path.with_suffix(".part.keras")
        model.save(part)
        part.rename(path)
    return path


def train(this: Training, samples: Split, backup: Path, seed: int) -> Any:
    """Trains on pictures that are moved and mirrored anew in every epoch."""
    import keras

    keras.utils.set_random_seed(seed)
    model = this.build()
    per_epoch = len(samples.x) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        this.rate / 10, (this.epochs - 1) * per_epoch, warmup_target=this.rate, warmup_steps=per_epoch
    )
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=this.decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    # XLA on a CPU is several times slower than oneDNN where convolutions are depthwise.
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    resume = keras.callbacks.BackupAndRestore(backup)
    model.fit(_pictures(samples, seed), epochs=this.epochs, callbacks=[resume], verbose=2)
    return model


def _pictures(samples: Split, seed: int) -> Any:
    """Batches for `fit`, in an order and moved as the seed and the epoch say."""
    import keras

    class Pictures(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self._epoch = 0
            self._draw()

        def __len__(self) -> int:
            return len(samples.x) // BATCH

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            rows = self._order[index * BATCH : (index + 1) * BATCH]
            return moved(samples.x[rows], np.random.default_rng([seed, self._epoch, index])), samples.y[rows]

        def on_epoch_end(self) -> None:
            self._epoch += 1
            self._draw()

        def _draw(self) -> None:
            self._order = np.random.default_rng([seed, self._epoch]).permutation(len(samples.x))

    return Pictures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TRAININGS)}; all where none is given")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.names or TRAININGS:
        print(float_file(name, default_cache(), args.seed), file=sys.stderr)


if __name__ == "__main__":
    main()
