"""Which weights of a Keras 3 model are kernels that may hold zeros: the same ones that TF-MOT prunes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from optimizer.base import KerasModel

# tfmot/python/core/sparsity/keras/prune_registry.py, 0.8.1, less LocallyConnected, which Keras 3 has no more, plus
# Conv1DTranspose, which it forgot. Depthwise kernels are never pruned: they hold under 3 % of a mobile network's
# weights, and nine weights per channel leave nothing to choose from.
PRUNABLE: dict[str, tuple[str, ...]] = {
    "Conv1D": ("kernel",),
    "Conv2D": ("kernel",),
    "Conv3D": ("kernel",),
    "Conv1DTranspose": ("kernel",),
    "Conv2DTranspose": ("kernel",),
    "Conv3DTranspose": ("kernel",),
    "SeparableConv1D": ("pointwise_kernel",),
    "SeparableConv2D": ("pointwise_kernel",),
    "Dense": ("kernel",),
    "Embedding": ("embeddings",),
    "MultiHeadAttention": ("_query_dense.kernel", "_key_dense.kernel", "_value_dense.kernel", "_output_dense.kernel"),
    "GRUCell": ("kernel", "recurrent_kernel"),
    "LSTMCell": ("kernel", "recurrent_kernel"),
    "SimpleRNNCell": ("kernel", "recurrent_kernel"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """One prunable weight.

    Attributes:
        layer: name of its layer, with those of the models and wrappers around it: "backbone/conv1".
        name: `layer` and the weight: "backbone/conv1/kernel". Unique in the model.
        variable: the Keras variable.
    """

    layer: str
    name: str
    variable: Any

    def value(self) -> NDArray[Any]:
        """Its weights now, as a copy."""
        return np.asarray(self.variable.numpy())

    def assign(self, value: Any) -> None:
        """Sets its weights."""
        self.variable.assign(value)


def prunable_kernels(model: KerasModel) -> tuple[Kernel, ...]:
    """Every prunable kernel of a model, shared ones once, nested models and wrapped layers included.

    Raises:
        ModelError: a layer's kernel is no plain weight (a LoRA adapter or an already quantized layer).
    """
    keras = import_keras()
    by_type = {getattr(keras.layers, name): weights for name, weights in PRUNABLE.items()}
    found: dict[int, Kernel] = {}
    for path, layer in _layers(keras, model, ""):
        for weight in by_type.get(type(layer), ()):
            variable = layer
            for part in weight.split("."):
                variable = getattr(variable, part)
            if not isinstance(variable, keras.Variable):
                raise ModelError(
                    f"Layer '{path}': its {weight} is computed, not stored (LoRA or a quantized layer).",
                    next_step="Merge the adapter, or give the float model.",
                )
            found.setdefault(id(variable), Kernel(path, f"{path}/{weight}", variable))
    return tuple(found.values())


def select(kernels: Sequence[Kernel], include: Sequence[str], exclude: Sequence[str]) -> tuple[Kernel, ...]:
    """The kernels whose layer matches.

    Args:
        kernels: of the whole model.
        include: shell-style patterns of layer names; none = all of them.
        exclude: the same; wins over `include`.

    Raises:
        ModelError: a pattern matches no prunable layer, or nothing is left; lists the layers.
    """
    layers = list(dict.fromkeys(kernel.layer for kernel in kernels))
    if not layers:
        raise ModelError(
            "The model has no layer that can be pruned.",
            next_step=f"Prunable layers are: {', '.join(PRUNABLE)}.",
        )
    for pattern in (*include, *exclude):
        if not any(_matches(layer, pattern) for layer in layers):
            raise ModelError(
                f"The layer pattern '{pattern}' matches no prunable layer.",
                next_step=f"Prunable layers of this model: {', '.join(layers)}.",
            )
    chosen = tuple(
        kernel
        for kernel in kernels
        if (not include or any(_matches(kernel.layer, pattern) for pattern in include))
        and not any(_matches(kernel.layer, pattern) for pattern in exclude)
    )
    if not chosen:
        raise ModelError(
            "`include` and `exclude` leave no layer to prune.",
            next_step=f"Prunable layers of this model: {', '.join(layers)}.",
        )
    return chosen


def _matches(layer: str, pattern: str) -> bool:
    """By the full path, or by the layer's own name."""
    return fnmatch.fnmatchcase(layer, pattern) or fnmatch.fnmatchcase(layer.rpartition("/")[2], pattern)


def _layers(keras: Any, layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """A layer and everything inside it, with names that say where."""
    yield prefix, layer
    if isinstance(layer, keras.Model):
        inner = list(layer.layers)
    elif isinstance(layer, keras.layers.StackedRNNCells):
        inner = list(layer.cells)
    elif isinstance(layer, keras.layers.Bidirectional):
        inner = [layer.forward_layer, layer.backward_layer]
    elif isinstance(layer, keras.layers.RNN):
        inner = [layer.cell]
    elif isinstance(layer, keras.layers.Wrapper):
        inner = [layer.layer]
    else:
        inner = []
    for each in inner:
        yield from _layers(keras, each, f"{prefix}/{each.name}" if prefix else str(each.name))
