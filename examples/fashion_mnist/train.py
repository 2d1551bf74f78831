"""Trains the bundled model: a depthwise-separable network of about 50,000 parameters, on the whole Fashion-MNIST.

    python train.py               trains, writes model.keras, prints the accuracies (31 epochs, each 40 s or more)
    python train.py --evaluate    prints the accuracies of the model.keras that is there

Training goes in three cycles, each with a learning rate that falls on a cosine. The second and third one add an L1
penalty, which pulls weights that matter little towards zero: pruning half of them later costs the less.

An interrupted training goes on from its last whole epoch. The last epoch is kept, not the best one.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from make_data import CLASSES, DEBIAN_FOLDER, HERE, Labelled, read_split

MODEL: Final = HERE / "model.keras"
BATCH: Final = 256
# (output channels, stride) of each depthwise-separable block; 28x28 -> 14x14 -> 7x7.
BLOCKS: Final = ((32, 2), (48, 1), (64, 1), (96, 2), (128, 1), (128, 1))
# Keras' default of 0.99 needs hundreds of steps to follow the weights. A fine-tune of this example has fewer.
BN_MOMENTUM: Final = 0.9


@dataclasses.dataclass(frozen=True)
class Cycle:
    """One fall of the learning rate.

    Attributes:
        epochs: passes over the 60,000 pictures.
        rate: learning rate at its highest.
        warmup: steps to get there.
        penalty: L1, on the pointwise kernels, which hold nearly all weights.
    """

    epochs: int
    rate: float
    warmup: int = 0
    penalty: float = 0.0


CYCLES: Final = (
    Cycle(epochs=22, rate=4e-3, warmup=500),
    Cycle(epochs=5, rate=1.5e-3, penalty=2e-5),
    Cycle(epochs=4, rate=3e-3, penalty=2e-4),
)


def conv_bn_relu(x: Any, name: str, conv: keras.layers.Layer) -> Any:
    """One convolution, its batch normalisation and its activation: the unit that converters fuse into one op."""
    x = conv(x)
    x = keras.layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def build_model(penalty: float = 0.0) -> keras.Model:
    """Builds the untrained network.

    Args:
        penalty: L1, on the pointwise kernels.

    Returns:
        Functional model, input float32 [N, 28, 28, 1] of 0..255, output float32 [N, 10], probabilities.

    Reference: Howard et al. 2017, MobileNets, https://arxiv.org/abs/1704.04861
    """
    layers = keras.layers
    l1 = keras.regularizers.L1(penalty) if penalty else None
    image = layers.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = conv_bn_relu(x, "stem", layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem"))
    for number, (channels, stride) in enumerate(BLOCKS, start=1):
        name = f"block{number}_depthwise"
        depthwise = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=name)
        x = conv_bn_relu(x, name, depthwise)
        name = f"block{number}_pointwise"
        x = conv_bn_relu(x, name, layers.Conv2D(channels, 1, use_bias=False, kernel_regularizer=l1, name=name))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    output = layers.Dense(CLASSES, activation="softmax", name="probabilities")(x)
    return keras.Model(image, output, name="fashion_mnist")


def augment(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shifts each picture by up to two pixels and mirrors half of them.

    Args:
        images: float32 [N, 28, 28, 1].
        labels: passed through.
        seed: int64 scalar, another one for each batch.
    """
    count = tf.shape(images)[0]
    start = tf.random.stateless_uniform([count, 2], [seed, 0], 0, 5, tf.int32)
    padded = tf.pad(images, [[0, 0], [2, 2], [2, 2], [0, 0]])
    shifted = tf.gather(padded, start[:, :1] + tf.range(28), axis=1, batch_dims=1)
    shifted = tf.gather(shifted, start[:, 1:] + tf.range(28), axis=2, batch_dims=1)
    mirror = tf.random.stateless_uniform([count, 1, 1, 1], [seed, 1]) < 0.5
    return tf.where(mirror, tf.reverse(shifted, [2]), shifted), labels


def batches(images: np.ndarray, labels: np.ndarray, seed: int) -> tf.data.Dataset:
    """Shuffled, augmented batches: float32 [256, 28, 28, 1] of 0..255, one-hot float32 [256, 10]."""
    pictures = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=seed).batch(BATCH)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)

    def prepare(pair: tuple[tf.Tensor, tf.Tensor], batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return augment(tf.cast(pair[0], tf.float32), tf.one_hot(pair[1], CLASSES), batch_seed)

    return tf.data.Dataset.zip((pictures, seeds)).map(prepare).prefetch(2)


def train_cycle(start: keras.Model, cycle: Cycle, data: Labelled, seed: int, checkpoints: Path) -> keras.Model:
    """Trains a copy of `start` for one cycle.

    Returns:
        The model without optimizer and penalty: what the file has to hold.
    """
    keras.utils.set_random_seed(seed)
    steps = cycle.epochs * -(-len(data[0]) // BATCH)
    if cycle.warmup:
        rate = keras.optimizers.schedules.CosineDecay(
            1e-4, steps - cycle.warmup, warmup_target=cycle.rate, warmup_steps=cycle.warmup
        )
    else:
        rate = keras.optimizers.schedules.CosineDecay(cycle.rate, steps)
    model = build_model(cycle.penalty)
    model.set_weights(start.get_weights())
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=0.01),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.05),
        metrics=["accuracy"],
    )
    resume = keras.callbacks.BackupAndRestore(checkpoints)
    model.fit(batches(*data, seed), epochs=cycle.epochs, callbacks=[resume], shuffle=False, verbose=2)
    trained = build_model()
    trained.set_weights(model.get_weights())
    return trained


def train(data: Path, seed: int, checkpoints: Path) -> keras.Model:
    """Trains on the 60,000 pictures of the official training split.

    Args:
        data: folder of the official files.
        seed: of the first cycle; the others count on from it.
        checkpoints: each finished cycle is kept here, and taken from here.
    """
    keras.utils.set_random_seed(seed)
    split = read_split(data, "train")
    checkpoints.mkdir(parents=True, exist_ok=True)
    model = build_model()
    for index, cycle in enumerate(CYCLES):
        done = checkpoints / f"cycle-{index + 1}.keras"
        if done.is_file():
            print(f"{done} is there: cycle {index + 1} is not trained again")
            model = keras.models.load_model(done)
        else:
            print(f"cycle {index + 1} of {len(CYCLES)}: {cycle}")
            model = train_cycle(model, cycle, split, seed + index, checkpoints / f"cycle-{index + 1}")
            model.save(done)
    return model


def accuracy(model: keras.Model, samples: Labelled) -> float:
    """Share of samples whose most probable class is the labelled one, 0..1."""
    images, labels = samples
    predicted = model.predict(images.astype(np.float32), batch_size=500, verbose=0).argmax(axis=-1)
    return float(np.mean(predicted == labels))


def main() -> None:
    """Trains unless told not to, then states the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the official files")
    parser.add_argument("--model", type=Path, default=MODEL, help="file to write, or to read with --evaluate")
    parser.add_argument("--evaluate", action="store_true", help="do not train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--checkpoints", type=Path, default=Path(".cache/fashion_mnist"), help="folder; delete it to start anew"
    )
    args = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    if not args.evaluate:
        train(args.data, args.seed, args.checkpoints).save(args.model)
    model = keras.models.load_model(args.model)
    print(f"{args.model.name}: {model.count_params():,} parameters, {args.model.stat().st_size:,} bytes")
    print(f"official test split, 10,000 pictures: {accuracy(model, read_split(args.data, 't10k')):.2%}")
    with np.load(HERE / "data" / "evaluation.npz") as bundled:
        print(
            f"data/evaluation.npz, {len(bundled['y']):,} pictures: {accuracy(model, (bundled['x'], bundled['y'])):.2%}"
        )


if __name__ == "__main__":
    main()
