"""Small Keras networks with every layer that targets treat specially, and the records that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.files import sha256_bytes, sha256_file
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.types import Model, SampleSet, Signature, TensorSpec

PRUNED = ("stem/kernel", "separable/pointwise_kernel", "residual/kernel", "hidden/kernel", "head/kernel")


def pictures(n: int = 32, *, seed: int = 0) -> NDArray[np.float32]:
    """float32 [n, 8, 8, 3]."""
    return np.random.default_rng(seed).normal(size=(n, 8, 8, 3)).astype(np.float32)


def samples(x: NDArray[Any]) -> SampleSet:
    """A calibration set of these."""
    return SampleSet(role="calibration", x=x, y=None, sha256=sha256_bytes(x.tobytes()), source="test")


def network() -> Any:
    """Conv + BN + ReLU, separable, depthwise + BN + ReLU6, a residual whose BN has no activation, dense; half pruned.

    Batch normalization has statistics as after training, so that folding it changes every kernel.
    """
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.SeparableConv2D(16, 3, padding="same", name="separable")(x)
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    y = layers.BatchNormalization(name="depthwise_bn")(y)
    y = layers.ReLU(6.0, name="depthwise_relu")(y)
    y = layers.Conv2D(16, 3, padding="same", name="residual")(y)
    y = layers.BatchNormalization(name="residual_bn")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    x = layers.Dense(4, activation="softmax", name="head")(x)
    model = keras.Model(image, x, name="net")
    random = np.random.default_rng(1)
    with third_party_warnings():
        for variable in model.variables:
            if variable.path.split("/")[-1] in ("gamma", "beta", "moving_mean", "moving_variance", "bias"):
                variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
            if variable.path in PRUNED:
                variable.assign(pruned(np.array(variable)))
    return model


def pruned(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The half with the smallest magnitude set to zero."""
    return np.where(np.abs(kernel) <= np.median(np.abs(kernel)), np.float32(0), kernel)


def kernels(model: Any) -> dict[str, NDArray[np.float32]]:
    """The pruned kernels by name."""
    with third_party_warnings():
        return {variable.path: np.array(variable) for variable in model.variables if variable.path in PRUNED}


def record(model: Any, path: Path) -> Model:
    """Saves a live model and names it."""
    with third_party_warnings():
        model.save(path)
    return Model(
        kind="keras",
        path=path,
        sha256=sha256_file(path),
        signature=Signature(inputs=_specs(model.inputs), outputs=_specs(model.outputs)),
        origin=f"Keras 3 .keras {path.name}",
        parameters=model.count_params(),
    )


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=t.name, shape=tuple(t.shape), dtype=str(t.dtype)) for t in tensors)


def answers(model: Any, x: NDArray[Any]) -> list[NDArray[np.float32]]:
    """What the live model says, one array per output."""
    found = model(x, training=False)
    return [np.asarray(value) for value in (found if isinstance(found, (list, tuple)) else [found])]
