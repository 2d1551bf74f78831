"""Keras 2 -> Keras 3: the graph is replayed layer by layer, and both nets have to agree on random input.

Keras 3 cannot open what Keras 2 saved, and an exported function has no layers to prune. Rebuilding keeps training,
surgery and export possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_tensorflow
from optimizer import keras2_ops
from optimizer.keras2_layers import Twin, copy_weights, is_model, recorded_training, safe_name, twin_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARITY_TOLERANCE = 1e-4
"""Largest absolute difference of an output, relative to the largest absolute value there (and to 1 at least)."""

_PARITY_SAMPLES = 2
# For dimensions the model leaves open. Deep nets shrink small images to nothing, so larger sides are tried in turn.
_OPEN_SIDES = (32, 128, 224)
_EMBEDDING_DEFAULT = 8


def rebuild(old: Any, *, keras: Any, tf_keras: Any, where: str) -> Any:
    """Rebuilds a Keras 2 model in Keras 3 and proves that it computes the same.

    Args:
        old: a tf_keras Functional or Sequential model. A `training=True` recorded on its augmentation and dropout
            layers is removed from it, as from the twin.
        keras: the Keras 3 package.
        tf_keras: the tf_keras package.
        where: the file, for messages.

    Returns:
        A Keras 3 functional model with the same layer names ("/" becomes "_"), weights and order of inputs and outputs.

    Raises:
        ModelError: a layer without counterpart, or outputs that differ; names the first layer that diverges.
    """
    try:
        return _checked(old, keras=keras, tf_keras=tf_keras)
    except ModelError as error:
        raise ModelError(f"{where}: {error.what}", next_step=error.next_step) from error


def _checked(old: Any, *, keras: Any, tf_keras: Any) -> Any:
    if not is_model(old) or not getattr(old, "inputs", None):
        raise ModelError(
            f"The model {old.name} ({type(old).__name__}) has no input shape, so it has no graph.",
            next_step="Start it with an Input layer (or input_shape=) and save it again.",
        )
    replay = _Replay(keras)
    new = replay.model(old, safe_name(old.name))
    _check_parity(old, new, replay, keras=keras, tf_keras=tf_keras)
    return new


class _Replay:
    """One rebuilding: each layer is made once, however often the graph calls it."""

    def __init__(self, keras: Any) -> None:
        self.keras = keras
        self.twins: dict[int, Any] = {}
        self.pairs: list[tuple[str, Any, Any]] = []  # (layer, Keras 2 tensor, Keras 3 tensor) of the top graph

    def model(self, old: Any, name: str) -> Any:
        """The twin of a model, weights included."""
        tensors: dict[int, Any] = {}
        names = _Names(safe_name(layer.name) for layer in old.layers)
        for tensor in old.inputs:
            tensors[id(tensor)] = self.keras.Input(
                batch_shape=tuple(tensor.shape),
                dtype=tensor.dtype.name,
                name=safe_name(tensor.node.layer.name),
            )
        copies: dict[int, tuple[Any, Any]] = {}
        pairs = []
        for node in _calls(old):
            layer = node.layer
            outputs = _flat(self._call(node, tensors, names))
            for before, after in zip(_flat(node.outputs), outputs, strict=True):
                tensors[id(before)] = after
                pairs.append((layer.name, before, after))
            twin = self.twins.get(id(layer))
            if isinstance(twin, Twin):
                copies[id(layer)] = (layer, twin.layer)
        for layer, made in copies.values():
            copy_weights(layer, made)
        self.pairs = pairs  # the outermost model ends last
        outputs = [tensors[id(tensor)] for tensor in old.outputs]
        inputs = [tensors[id(tensor)] for tensor in old.inputs]
        return self.keras.Model(_alone(inputs), _alone(outputs), name=name)

    def _call(self, node: Any, tensors: dict[int, Any], names: _Names) -> Any:
        layer = node.layer
        kind = type(layer).__name__
        args = _replaced(node.call_args, tensors)
        kwargs = {key: value for key, value in _replaced(node.call_kwargs, tensors).items() if value is not None}
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            return self._operation(layer, kind, args, kwargs, names)
        training = recorded_training(layer, kwargs.pop("training", None))
        if training is None:
            _switch_off_training(node)
        else:
            kwargs["training"] = training
        if kind in ("LSTM", "GRU", "SimpleRNN", "Bidirectional") and isinstance(args[0], list | tuple):
            # Keras 2 folds an initial state of Keras tensors into the first argument.
            sequence, *state = args[0]
            args = (sequence, *args[1:])
            kwargs["initial_state"] = state
        return self._twin(layer)(*args, **kwargs)

    def _twin(self, layer: Any) -> Any:
        if id(layer) not in self.twins:
            name = safe_name(layer.name)
            made = (
                self.model(layer, name)
                if is_model(layer)
                else twin_of(layer, keras=self.keras, name=name, nested=self.model)
            )
            self.twins[id(layer)] = made
        return self.twins[id(layer)]

    def _operation(self, layer: Any, kind: str, args: Any, kwargs: dict[str, Any], names: _Names) -> Any:
        symbol = layer.symbol if kind == "TFOpLambda" else "__operators__.getitem"
        if symbol not in keras2_ops.supported():
            raise unsupported_operation(symbol, layer.name)
        try:
            made = keras2_ops.apply(symbol, tuple(args), kwargs, keras=self.keras)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise ModelError(
                f"Layer {layer.name} calls tf.{symbol} in a way that has no counterpart in Keras 3: {error}.",
                next_step="Express that call with a Keras layer and save the model again.",
            ) from error
        history = getattr(made, "_keras_history", None)
        if history is not None:  # ops take no name; without one two of them may clash with layers of the file
            history.operation.name = names.unique(safe_name(layer.name))
        return made


class _Names:
    """Hands out names that no layer of the graph has."""

    def __init__(self, taken: Iterator[str]) -> None:
        self._given: set[str] = set()
        self._taken = set(taken)

    def unique(self, name: str) -> str:
        """`name`, or with a number when it was handed out before (one TensorFlow call used twice)."""
        candidate, count = name, 0
        while candidate in self._given or (count and candidate in self._taken):
            count += 1
            candidate = f"{name}_{count}"
        self._given.add(candidate)
        return candidate


def unsupported_operation(symbol: str, layer: str) -> ModelError:
    """The refusal of a TensorFlow function outside the list."""
    return ModelError(
        f"Layer {layer} is the TensorFlow function tf.{symbol}, which has no counterpart here and was not run.",
        next_step="Express it with Keras layers and save the model again.",
    )


def _calls(model: Any) -> Iterator[Any]:
    """Nodes of the graph, inputs left out, each after those it needs."""
    by_depth = model._nodes_by_depth  # noqa: SLF001 - the only place where Keras keeps the order of its graph
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if not node.is_input:
                yield node


def _switch_off_training(node: Any) -> None:
    """Makes the reference neither augment nor drop, where that is recorded in its graph."""
    if node.call_kwargs.get("training"):
        node.call_kwargs["training"] = False
        flat = import_tensorflow().nest.flatten((node.call_args, node.call_kwargs.values()))
        node._flat_arguments = flat  # noqa: SLF001 - what a tf_keras node really calls with


def _replaced(value: Any, tensors: dict[int, Any]) -> Any:
    """Call arguments with each Keras 2 tensor replaced by its Keras 3 counterpart."""
    if id(value) in tensors:
        return tensors[id(value)]
    if isinstance(value, dict):
        return {key: _replaced(part, tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_replaced(part, tensors) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [part for key in sorted(value) for part in _flat(value[key])]
    if isinstance(value, list | tuple):
        return [part for item in value for part in _flat(item)]
    return [value]


def _alone(values: list[Any]) -> Any:
    """Both Keras take a list for several inputs or outputs, and the thing itself for one."""
    return values[0] if len(values) == 1 else values


def _check_parity(old: Any, new: Any, replay: _Replay, *, keras: Any, tf_keras: Any) -> None:
    reference: list[NDArray[Any]] = []
    inputs: list[NDArray[Any]] = []
    for side in _OPEN_SIDES:
        inputs = _random_inputs(old, side)
        try:
            reference = _run(old, inputs)
            break
        except Exception as error:  # TensorFlow has no common class for "too small"
            if side == _OPEN_SIDES[-1]:
                raise ModelError(
                    f"The model does not run on random input of shape {[list(x.shape) for x in inputs]}: "
                    f"{str(error).strip().splitlines()[0].rstrip('.')}.",
                    next_step="Give every input dimension but the batch a fixed size, and save the model again.",
                ) from error
    rebuilt = _run(new, inputs)
    if all(_gap(a, b) <= PARITY_TOLERANCE for a, b in zip(reference, rebuilt, strict=True)):
        return
    before = tf_keras.Model(_alone(old.inputs), [tensor for _, tensor, _ in replay.pairs])
    after = keras.Model(_alone(new.inputs), [tensor for _, _, tensor in replay.pairs])
    for (layer, _, _), a, b in zip(replay.pairs, _run(before, inputs), _run(after, inputs), strict=True):
        if (gap := _gap(a, b)) > PARITY_TOLERANCE:
            raise ModelError(
                f"Rebuilt in Keras 3, layer {layer} gives other outputs than in Keras 2: they differ by {gap:.2g} of "
                f"the largest value (allowed {PARITY_TOLERANCE:g}).",
                next_step=f"Replace layer {layer} with a plain Keras layer, and save the model again.",
            )
    raise ModelError(
        "Rebuilt in Keras 3, the model gives other outputs than in Keras 2, though each layer agrees.",
        next_step="Save the model again with Keras 3.",
    )


def _gap(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Largest absolute difference over max(1, largest absolute reference); inf where shape or NaN differ."""
    if reference.shape != other.shape or not np.array_equal(np.isfinite(reference), np.isfinite(other)):
        return float("inf")
    finite = np.isfinite(reference)
    if not finite.any():
        return 0.0
    a, b = reference[finite].astype(np.float64), other[finite].astype(np.float64)
    return float(np.max(np.abs(a - b)) / max(1.0, float(np.max(np.abs(a)))))


def _run(model: Any, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    return [np.asarray(tensor) for tensor in _flat(model(_alone(inputs), training=False))]


def _random_inputs(model: Any, side: int) -> list[NDArray[Any]]:
    """Random input: normal where the net takes floats, valid indices where it takes integers or feeds an embedding."""
    rng = np.random.default_rng(0)
    vocabulary = min(_embedding_sizes(model), default=_EMBEDDING_DEFAULT)
    embedded = {
        id(tensor)
        for node in _calls(model)
        if type(node.layer).__name__ == "Embedding" or (is_model(node.layer) and list(_embedding_sizes(node.layer)))
        for tensor in _flat(node.call_args)
    }
    inputs = []
    for tensor in model.inputs:
        open_batch, *rest = tensor.shape
        shape = [open_batch or _PARITY_SAMPLES, *(side if size is None else size for size in rest)]
        dtype = np.dtype(tensor.dtype.name)
        if id(tensor) in embedded or dtype.kind not in "fc":
            inputs.append(rng.integers(0, vocabulary, size=shape).astype(dtype))
        else:
            inputs.append(rng.normal(size=shape).astype(dtype))
    return inputs


def _embedding_sizes(model: Any) -> Iterator[int]:
    for layer in model.layers:
        if type(layer).__name__ == "Embedding":
            yield int(layer.input_dim)
        elif is_model(layer):
            yield from _embedding_sizes(layer)
