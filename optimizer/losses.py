"""Which loss a model is fine-tuned with: the user's, or the one its output and labels call for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.user_code import is_reference, load_function
from edgesmith.errors import DataError, ModelError
from edgesmith.frameworks import import_keras
from optimizer.base import KerasModel

NAMES = ("auto", "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy", "mse")

# What may stand between the activation and the output without changing what the numbers mean.
TRANSPARENT = frozenset({"Reshape", "Flatten", "Identity", "Dropout", "Squeeze", "Cast"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChosenLoss:
    """A loss with the labels in the form it takes.

    Attributes:
        name: one of `NAMES`, less "auto", or the user's reference.
        function: a Keras loss or the user's `f(y_true, y_pred)`.
        labels: as `function` wants them.
        text: for people: "sparse_categorical_crossentropy (softmax output)".
    """

    name: str
    function: Any
    labels: NDArray[Any]
    text: str


def is_loss(text: str) -> bool:
    """Whether `text` names a loss: one of `NAMES`, or `package.module:function`."""
    return text in NAMES or is_reference(text)


def choose_loss(model: KerasModel, name: str, labels: NDArray[Any], root: Path | None = None) -> ChosenLoss:
    """Picks the loss.

    `auto`: integer labels mean classes (sparse categorical cross-entropy, or binary where there is one output);
    float targets of the output's shape mean categorical cross-entropy after a softmax, binary after a sigmoid, else
    mean squared error. Whether the model gives logits is read off its last activation.

    Args:
        model: with one output.
        name: one of `NAMES`, or `package.module:function`.
        labels: int [N, ...] or float [N, ...].
        root: the config's folder, where the function is looked for first.

    Raises:
        ModelError: more than one output.
        DataError: labels that do not fit the output, or a function that cannot be loaded.
    """
    if is_reference(name):
        return ChosenLoss(name=name, function=load_function(name, root), labels=labels, text=name)
    if len(model.outputs) != 1:
        raise ModelError(
            f"The model has {len(model.outputs)} outputs; fine-tuning knows what to do with one.",
            next_step="Give `loss: package.module:function`, or set `epochs: 0`.",
        )
    shape = tuple(model.outputs[0].shape[1:])
    activation = last_activation(model)
    chosen = _automatic(shape, activation, labels) if name == "auto" else name
    fitted = _fit_labels(chosen, shape, labels)
    losses = import_keras().losses
    if chosen == "sparse_categorical_crossentropy":
        function = losses.SparseCategoricalCrossentropy(from_logits=activation != "softmax")
    elif chosen == "categorical_crossentropy":
        function = losses.CategoricalCrossentropy(from_logits=activation != "softmax")
    elif chosen == "binary_crossentropy":
        function = losses.BinaryCrossentropy(from_logits=activation != "sigmoid")
    else:
        function = losses.MeanSquaredError()
    return ChosenLoss(name=chosen, function=function, labels=fitted, text=f"{chosen} ({activation} output)")


def last_activation(model: KerasModel, index: int = 0) -> str:
    """Name of the function that an output of the model comes out of; "linear" where there is none."""
    keras = import_keras()
    tensor = model.outputs[index]
    while True:
        history = tensor._keras_history  # noqa: SLF001 - the only way back from a tensor to what made it
        operation = history.operation
        kind = type(operation).__name__
        if isinstance(operation, keras.Model):
            tensor = operation.outputs[history.tensor_index]
        elif kind in TRANSPARENT:
            node = operation._inbound_nodes[history.node_index]  # noqa: SLF001 - likewise
            tensor = node.input_tensors[0]
        elif kind in ("Softmax", "Sigmoid"):
            return kind.lower()
        else:
            inner = operation.layer if kind == "TimeDistributed" else operation
            if isinstance(inner, keras.Model):
                return last_activation(inner)
            activation = getattr(inner, "activation", None)
            return str(getattr(activation, "__name__", type(activation).__name__)).lower() if activation else "linear"


def _automatic(shape: tuple[int | None, ...], activation: str, labels: NDArray[Any]) -> str:
    if labels.dtype.kind in "iub" and labels.shape[1:] == shape[:-1]:
        # One number per sample, or one score per class that does not compete with the others.
        binary = shape in ((), (1,)) or activation == "sigmoid"
        return "binary_crossentropy" if binary else "sparse_categorical_crossentropy"
    return {"softmax": "categorical_crossentropy", "sigmoid": "binary_crossentropy"}.get(activation, "mse")


def _fit_labels(loss: str, shape: tuple[int | None, ...], labels: NDArray[Any]) -> NDArray[Any]:
    """Labels as the loss takes them: class numbers for the sparse one, else float32 of the output's shape."""
    classes = labels.dtype.kind in "iub" and labels.shape[1:] == shape[:-1]
    if loss == "sparse_categorical_crossentropy":
        if classes:
            return labels
        wanted = f"class numbers [N{''.join(f', {d}' for d in shape[:-1])}]"
    else:
        if labels.shape[1:] == shape:
            return labels.astype(np.float32)
        if shape == (1,) and labels.ndim == 1:
            return labels.astype(np.float32)[:, None]
        if classes and loss in ("categorical_crossentropy", "binary_crossentropy") and shape and shape[-1]:
            targets: NDArray[Any] = np.eye(shape[-1], dtype=np.float32)[labels]
            return targets
        wanted = f"targets [N{''.join(f', {d}' for d in shape)}]"
    raise DataError(
        f"The loss {loss} wants {wanted}, and the training labels are {labels.dtype}{list(labels.shape)}.",
        next_step="Give labels of that form, or name another loss in the recipe.",
    )
