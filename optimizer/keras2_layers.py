"""The Keras 3 twin of one Keras 2 layer: same name, same maths, weights copied by name.

A Keras 2 config is filtered to what the Keras 3 constructor takes. That may drop a setting that matters, so nothing
here is trusted on its own: `optimizer.keras2` compares the outputs of both nets and refuses what differs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from edgesmith.errors import ModelError

_RENAMED_CLASSES = {"SyncBatchNormalization": "BatchNormalization", "ThresholdedReLU": "ReLU"}
_RENAMED_KEYS = {"LeakyReLU": {"alpha": "negative_slope"}, "ThresholdedReLU": {"theta": "threshold"}}
_KINDS = {"initializer": "initializers", "regularizer": "regularizers", "constraint": "constraints"}
_RECURRENT = frozenset({"LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"})
# Identity at inference: a `training=True` recorded in the graph is only there for fitting.
_ONLY_IN_TRAINING = ("Random", "Dropout", "SpatialDropout", "GaussianDropout", "GaussianNoise", "AlphaDropout")


@dataclass(frozen=True, slots=True)
class Twin:
    """A Keras 3 layer, and what has to follow it to equal the Keras 2 layer."""

    layer: Any
    after: tuple[Any, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Applies the layer and what follows it."""
        outputs = self.layer(*args, **kwargs)
        for step in self.after:
            outputs = step(outputs)
        return outputs


def twin_of(old: Any, *, keras: Any, name: str, nested: Callable[[Any, str], Any]) -> Twin:
    """Makes the twin, without weights.

    Args:
        old: a tf_keras layer that is no model.
        keras: the Keras 3 package.
        name: of the new layer; Keras 3 does not allow "/" in it.
        nested: makes the twin of a model inside a wrapper, given the model and its name.

    Raises:
        ModelError: the layer, or a setting of it, has no counterpart in Keras 3.
    """
    kind = type(old).__name__
    config = dict(old.get_config())
    if kind in ("Bidirectional", "TimeDistributed"):
        return Twin(_wrapper(old, kind, config, keras=keras, name=name, nested=nested))
    if kind == "Lambda":
        return Twin(keras.layers.Lambda(old.function, arguments=dict(old.arguments), name=name))
    if kind in ("AddLoss", "AddMetric"):
        return Twin(keras.layers.Identity(name=name))
    _refuse_state(old, kind, config)
    cls = getattr(keras.layers, _RENAMED_CLASSES.get(kind, kind), None)
    if cls is None:
        raise ModelError(
            f"Layer {old.name} is {kind}, which Keras 3 does not have.",
            next_step=f"Replace {kind} in the model with layers that Keras 3 has, and save it again.",
        )
    for before, now in _RENAMED_KEYS.get(kind, {}).items():
        config[now] = config.pop(before)
    if cls is keras.layers.BatchNormalization:
        config["axis"] = _single_axis(old, config["axis"])
        config["synchronized"] = kind == "SyncBatchNormalization"
    after: tuple[Any, ...] = ()
    if _function_name(config.get("activation")) == "hard_sigmoid":
        config["activation"] = "linear"
        after = _hard_sigmoid(keras, name)
    settings = {
        key: _converted(key, _plain(value), layer=old.name, keras=keras)
        for key, value in config.items()
        if key in _parameters(cls)
    }
    try:
        made = cls(**settings | {"name": name, "dtype": _dtype(config.get("dtype"))})
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"Layer {old.name} ({kind}) cannot be made in Keras 3: {error}.",
            next_step="Change that setting of the layer and save the model again.",
        ) from error
    made.trainable = bool(config.get("trainable", True))  # not every constructor takes it
    return Twin(made, after)


def copy_weights(old: Any, new: Any) -> None:
    """Sets the weights of a built twin: by name where names tell them apart, else by position.

    Raises:
        ModelError: number or shape of the weights differ.
    """
    for part in ("forward_layer", "backward_layer", "layer"):
        if type(old).__name__ in ("Bidirectional", "TimeDistributed") and hasattr(old, part):
            if hasattr(old, "forward_layer") and part == "layer":
                continue
            copy_weights(getattr(old, part), getattr(new, part))
    if type(old).__name__ in ("Bidirectional", "TimeDistributed") or is_model(old):
        return  # the layers inside a model have twins, and copies, of their own
    values = [(_leaf(weight.name), weight.numpy()) for weight in old.weights]
    targets = [(_leaf(weight.name), weight) for weight in new.weights]
    by_name = dict(values)
    if len(by_name) == len(values) and sorted(by_name) == sorted(name for name, _ in targets):
        values = [(name, by_name[name]) for name, _ in targets]
    shapes = [tuple(value.shape) for _, value in values]
    wanted = [tuple(weight.shape) for _, weight in targets]
    if shapes != wanted:
        raise ModelError(
            f"Layer {old.name} ({type(old).__name__}): its weights have shapes {shapes} in Keras 2 and {wanted} in "
            "Keras 3.",
            next_step="Replace the layer with one that both versions build alike, and save the model again.",
        )
    new.set_weights([value for _, value in values])
    if type(new).__name__ == "Normalization":
        new.finalize_state()


def recorded_training(old: Any, flag: Any) -> bool | None:
    """What to do with a `training` argument recorded in the graph: None drops it.

    Raises:
        ModelError: the layer is fixed to training mode, and that changes its output at inference.
    """
    if flag is None or type(old).__name__.startswith(_ONLY_IN_TRAINING):
        return None
    if flag in (False, 0):
        return False
    if not is_model(old):
        raise ModelError(
            f"Layer {old.name} ({type(old).__name__}) is called with training=True in the graph, so it would normalise "
            "each batch by itself on the board.",
            next_step="Build the model without training=True on that call.",
        )
    return None


def is_model(layer: Any) -> bool:
    """Whether a tf_keras layer is a model with a graph of its own."""
    return hasattr(layer, "_nodes_by_depth")


def _wrapper(
    old: Any, kind: str, config: dict[str, Any], *, keras: Any, name: str, nested: Callable[[Any, str], Any]
) -> Any:
    def inner(layer: Any) -> Any:
        part = safe_name(layer.name)
        if is_model(layer):
            return nested(layer, part)
        made = twin_of(layer, keras=keras, name=part, nested=nested)
        if made.after:
            raise ModelError(
                f"Layer {old.name} ({kind}) wraps {layer.name}, whose hard_sigmoid Keras 3 computes differently.",
                next_step="Use sigmoid there, or put the activation after the wrapper.",
            )
        return made.layer

    if kind == "TimeDistributed":
        return keras.layers.TimeDistributed(inner(old.layer), name=name)
    backward = inner(old.backward_layer) if "backward_layer" in config else None
    return keras.layers.Bidirectional(
        inner(old.forward_layer), merge_mode=old.merge_mode, backward_layer=backward, name=name
    )


def _refuse_state(old: Any, kind: str, config: dict[str, Any]) -> None:
    for flag in ("stateful", "time_major"):
        if kind in _RECURRENT and config.get(flag):
            raise ModelError(
                f"Layer {old.name} ({kind}) has {flag}=True, which cannot be rebuilt in Keras 3 with the same result.",
                next_step=f"Build the model with {flag}=False and save it again.",
            )


def _single_axis(old: Any, axis: Any) -> int:
    axes = [int(a) for a in axis] if isinstance(axis, Iterable) else [int(axis)]
    if len(axes) != 1:
        raise ModelError(
            f"Layer {old.name} (BatchNormalization) normalises over axes {axes}; Keras 3 takes one.",
            next_step="Reshape so that one axis is left, and save the model again.",
        )
    return axes[0]


def _hard_sigmoid(keras: Any, name: str) -> tuple[Any, Any]:
    """Keras 2: clip(0.2 x + 0.5, 0, 1). Keras 3 computes relu6(x + 3) / 6 under the same name."""
    return (
        keras.layers.Rescaling(0.2, offset=0.5, name=f"{name}_hard_sigmoid_scale"),
        keras.layers.ReLU(max_value=1.0, name=f"{name}_hard_sigmoid_clip"),
    )


def _parameters(cls: type) -> set[str]:
    """Names that the constructor takes, through `**kwargs` up to the base layer."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self", "name", "dtype", "trainable"}


def _converted(key: str, value: Any, *, layer: str, keras: Any) -> Any:
    if value is None:
        return None
    if key.endswith("activation"):
        return _activation(_function_name(value), layer=layer, keras=keras)
    kind = _KINDS.get(key.rpartition("_")[2])
    if kind is None or not isinstance(value, dict):
        return value
    cls = getattr(getattr(keras, kind), str(value.get("class_name")), None)
    if cls is None:
        raise ModelError(
            f"Layer {layer}: its {key} is {value.get('class_name')}, which Keras 3 does not have.",
            next_step="Use one of Keras' own and save the model again.",
        )
    return cls(**{k: v for k, v in dict(value.get("config") or {}).items() if k in _parameters(cls)})


def _activation(name: str, *, layer: str, keras: Any) -> str:
    try:
        keras.activations.get(name)
    except ValueError:
        known = False
    else:
        known = name != "hard_sigmoid"
    if not known:
        raise ModelError(
            f"Layer {layer}: its activation {name} is not in Keras 3, or computes something else there.",
            next_step="Use another activation (sigmoid for hard_sigmoid), and save the model again.",
        )
    return name


def _function_name(value: Any) -> str:
    """Keras 2 writes an activation as its name, or as {"class_name": "function", "config": name}."""
    if isinstance(value, dict):
        return str(value.get("config"))
    return str(value)


def _dtype(value: Any) -> Any:
    """Keras 2 writes a mixed-precision policy as a dict; its name says it all."""
    if isinstance(value, dict):
        return dict(value.get("config") or {}).get("name", "float32")
    return value


def _plain(value: Any) -> Any:
    """Without the list and dict wrappers of tf_keras, and without numpy scalars."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _leaf(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def safe_name(name: str) -> str:
    """A Keras 2 layer name as Keras 3 allows it."""
    return name.replace("/", "_")
