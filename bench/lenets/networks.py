"""LeNet-300-100 and LeNet-5 as Caffe has them, trained here and kept in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.lenets.data import Images

BATCH: Final = 128
FLOAT_EPOCHS: Final[Mapping[str, int]] = {"lenet_300_100": 20, "lenet_5": 15}


def build(network: str) -> Any:
    """The networks of Caffe's examples: no activation behind the convolutions of LeNet-5."""
    import keras

    layers = keras.layers
    if network == "lenet_300_100":
        chain = [
            layers.Flatten(name="flatten"),
            layers.Dense(300, activation="relu", name="fc1"),
            layers.Dense(100, activation="relu", name="fc2"),
            layers.Dense(10, name="fc3"),
        ]
    else:
        chain = [
            layers.Conv2D(20, 5, name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(50, 5, name="conv2"),
            layers.MaxPooling2D(name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(500, activation="relu", name="fc1"),
            layers.Dense(10, name="fc2"),
        ]
    x = image = keras.Input((28, 28, 1), name="image")
    for layer in chain:
        x = layer(x)
    return keras.Model(image, x, name=network)


def float_file(network: str, dataset: str, seed: int, data: Images, cache: Path, *, quick: bool) -> Path:
    """The trained float network, from the cache where it holds one."""
    import keras

    short = "quick-" if quick else ""
    path = cache / "deep_compression" / f"{short}{dataset}-{network}-{seed}.keras"
    if path.is_file():
        return path
    keras.utils.set_random_seed(seed)
    model, epochs = build(network), 6 if quick else FLOAT_EPOCHS[network]
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * (len(data.x) // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss)
    model.fit(data.x, data.y, batch_size=BATCH, epochs=epochs, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part.keras")
    model.save(part)
    part.rename(path)
    return path
