"""The last layer of a network: found, and made anew for another number of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesmith.errors import DataError, ModelError
from edgesmith.frameworks import import_keras
from optimizer import losses, rewrite
from optimizer.base import KerasModel
from optimizer.graph import is_model
from targets.keras_model import one_or_list

# What may stand behind the head: it changes the form of the answers, or makes probabilities of them.
_BEHIND = frozenset({"Softmax", "Activation", "Identity", "Dropout", "Flatten", "Cast"})
_POOLS = {3: "GlobalAveragePooling1D", 4: "GlobalAveragePooling2D", 5: "GlobalAveragePooling3D"}
_WITHOUT_HEAD = "Cut the network behind its features (keras.Model(inputs, features)): a head is put on them."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Headed:
    """A network with a new head.

    Attributes:
        model: a new model, with the weights of the old one but for the head.
        head: path of the head in it.
        note: what was replaced, one sentence.
    """

    model: KerasModel
    head: str
    note: str


def with_classes(backbone: KerasModel, classes: int, *, seed: int) -> Headed:
    """A network that tells so many classes apart.

    A last Dense layer gives way to one with as many outputs as there are classes. It keeps its activation if that is
    softmax, or if it gives logits; other activations become softmax, since a sample has one class. Whatever stands
    before it (pooling, flattening) stays. A network that ends in features (`include_top=False`) gets global average
    pooling where they are a map, and a Dense layer with softmax.

    Args:
        backbone: built, with one output; stays as it is.
        classes: of the new task.
        seed: of the new weights.

    Raises:
        DataError: fewer than two classes.
        ModelError: the network has no head of a kind that is known here; says which layer stands in the way.
    """
    if classes < 2:
        raise DataError(f"A task of {classes} classes has nothing to tell apart.", next_step="Give two or more.")
    if len(backbone.outputs) != 1:
        raise ModelError(
            f"{backbone.name} has {len(backbone.outputs)} outputs: which of them the new task is for is not said.",
            next_step="Pass a model with one of them (keras.Model(inputs, output)).",
        )
    old, probabilities = _head(backbone)
    if old is None:
        return _put_on(backbone, classes, seed)
    path = next(path for path, layer in rewrite.layers(backbone).items() if layer is old)
    kept = old.activation.__name__ in ("softmax", "linear")
    activation = old.activation.__name__ if kept else "softmax"
    config = {**old.get_config(), "units": classes, "activation": activation, "trainable": True}
    new = type(old).from_config(config)
    features = int(old.kernel.shape[0])
    weights = _weights(features, classes, bias=old.use_bias, seed=seed)
    model = rewrite.replace(backbone, {path: rewrite.chain((new, weights))})
    answer = "softmax" if probabilities or activation == "softmax" else "logits"
    note = f"head {path}: {int(old.units)} outputs replaced by {classes} ({answer}), on {features} features"
    return Headed(model=model, head=path, note=note)


def layer(model: KerasModel, path: str) -> Any:
    """The head, after the network was rebuilt too: rebuilding keeps paths."""
    return rewrite.layers(model)[path]


def features_of(model: KerasModel, path: str) -> KerasModel:
    """The network up to what its head reads.

    Raises:
        ModelError: the head is inside a nested model, where its input cannot be had from outside.
    """
    if "/" in path:
        raise ModelError(
            f"The head {path} is inside a nested model, so the features that it reads cannot be kept.",
            next_step="Take the method filters, channels or full; or build the model flat.",
        )
    return import_keras().Model(one_or_list(model.inputs), layer(model, path).input, name="features")


def _head(model: KerasModel) -> tuple[Any, bool]:
    """The Dense layer that gives the answers, and whether a softmax follows it; None where the output is features."""
    tensor, probabilities = model.outputs[0], False
    while True:
        history = tensor._keras_history  # noqa: SLF001 - the only way back from a tensor to what made it
        made = history.operation
        kind = type(made).__name__
        if is_model(made):
            tensor = made.outputs[history.tensor_index]
        elif kind in _BEHIND and not _reshapes(made):
            activation = kind.lower() if kind == "Softmax" else getattr(made, "activation", None)
            name = getattr(activation, "__name__", activation)
            if name == "sigmoid":
                raise ModelError(
                    f"Layer {made.name} behind the head says yes or no to each class, and here a sample has one class.",
                    next_step=_WITHOUT_HEAD,
                )
            if name not in ("softmax", "linear", None):
                return None, False  # activated features
            probabilities = probabilities or name == "softmax"
            tensor = made._inbound_nodes[history.node_index].input_tensors[0]  # noqa: SLF001 - likewise
        elif kind == "Dense" and (probabilities or made.activation.__name__ in ("softmax", "sigmoid", "linear")):
            return _checked(made, tensor), probabilities
        elif probabilities or losses.last_activation(model) in ("softmax", "sigmoid"):
            raise ModelError(
                f"The answers come from layer {made.name} ({kind}), which is no Dense layer: what would be replaced "
                "is not known.",
                next_step=_WITHOUT_HEAD,
            )
        else:
            return None, False


def _reshapes(made: Any) -> bool:
    """Whether a layer behind the head does more than pass answers on."""
    return type(made).__name__ == "Flatten" and len(made.input.shape) != 2


def _checked(head: Any, answers: Any) -> Any:
    if len(answers.shape) != 2:
        raise ModelError(
            f"The head {head.name} answers for every position of a map {tuple(answers.shape[1:-1])}, not for a sample.",
            next_step="Transfer is for classifiers; " + _WITHOUT_HEAD[0].lower() + _WITHOUT_HEAD[1:],
        )
    if len(head._inbound_nodes) != 1:  # noqa: SLF001 - how often a layer is called
        raise ModelError(f"The head {head.name} is called more than once.", next_step=_WITHOUT_HEAD)
    return head


def _put_on(backbone: KerasModel, classes: int, seed: int) -> Headed:
    """A head for a network that ends in features."""
    keras = import_keras()
    features = backbone.outputs[0]
    shape = tuple(features.shape)
    pool = ""
    if len(shape) in _POOLS:
        pool = _POOLS[len(shape)]
        name = rewrite.free_name(backbone, "pool")
        features = getattr(keras.layers, pool)(name=name)(features)
    elif len(shape) != 2:
        raise ModelError(f"{backbone.name} ends in {shape}, and a head reads features or a map of them.")
    if features.shape[-1] is None:
        raise ModelError(f"{backbone.name} ends in an open number of features.", next_step="Fix its input size.")
    name = rewrite.free_name(backbone, "head")
    head = keras.layers.Dense(classes, activation="softmax", name=name)
    model = keras.Model(one_or_list(backbone.inputs), head(features), name=backbone.name)
    head.set_weights(_weights(int(features.shape[-1]), classes, bias=True, seed=seed))
    before = f" behind {pool}" if pool else ""
    note = f"the network ends in features: head {name} of {classes} outputs (softmax) put on{before}"
    return Headed(model=model, head=name, note=note)


def _weights(features: int, classes: int, *, bias: bool, seed: int) -> list[Any]:
    """Uniform after Glorot and Bengio, as Keras has it for a Dense layer, and zeros."""
    limit = math.sqrt(6.0 / (features + classes))
    kernel = np.random.default_rng([seed, 21]).uniform(-limit, limit, (features, classes)).astype(np.float32)
    return [kernel, np.zeros(classes, np.float32)] if bias else [kernel]
