"""Puts something else in the place of layers: the same network around it, rebuilt, with its weights.

A replacement may be a chain of layers or any other piece of graph with one input and one output. It stands wherever the
old layer was called: in nested models, and twice where the layer was shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from edgesmith.frameworks import import_keras
from optimizer.base import KerasModel
from optimizer.graph import functional, is_model

Weights = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """What stands where a layer stood.

    Attributes:
        call: symbolic tensor -> symbolic tensor, through layers made once, however often it is called.
        weights: what those layers hold, in the order of `Layer.get_weights`.
    """

    call: Callable[[Any], Any]
    weights: tuple[tuple[Any, Weights], ...]


def chain(*parts: tuple[Any, Weights]) -> Replacement:
    """Layers one after the other, each with its weights."""

    def call(x: Any) -> Any:
        for layer, _ in parts:
            x = layer(x)
        return x

    return Replacement(call, parts)


def layers(model: KerasModel) -> dict[str, Any]:
    """Every layer by its path, "backbone/conv1": those of nested models too, shared ones once, wrapped ones not."""
    keras = import_keras()
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(outer: Any, prefix: str) -> None:
        for layer in outer.layers:
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            path = f"{prefix}/{layer.name}" if prefix else str(layer.name)
            if is_model(layer):
                walk(layer, path)
            else:
                found[path] = layer

    walk(model, "")
    return found


def free_name(model: KerasModel, wanted: str) -> str:
    """A layer name that the model does not have yet: the wanted one, or that with a number."""
    taken = {path.rpartition("/")[2] for path in layers(model)}
    number = 2
    name = wanted
    while name in taken:
        name, number = f"{wanted}{number}", number + 1
    return name


def replace(model: KerasModel, replacements: Mapping[str, Replacement]) -> KerasModel:
    """A network with other layers in some places.

    Args:
        model: a built Keras 3 functional or Sequential model; stays as it is.
        replacements: by path of the layer, as `layers` gives it.

    Returns:
        A new model of the same names, with the weights of all that stayed. A Sequential one with a replaced layer
        comes back as a functional one.

    Raises:
        InternalError: a path that the model does not have.
        ModelError: the model has no graph.
    """
    found = layers(model)
    if unknown := [path for path in replacements if path not in found]:
        raise InternalError(f"the model has no layer {unknown[0]} to replace")
    return _Rewriting({id(found[path]): new for path, new in replacements.items()}).of(model)


class _Rewriting:
    """One rebuilding."""

    def __init__(self, replacements: Mapping[int, Replacement]) -> None:
        self._keras = import_keras()
        self._replacements = replacements
        self._made: dict[int, tuple[Any, Any]] = {}  # by id of the old one: (old, new)

    def of(self, model: KerasModel) -> KerasModel:
        made = self._model(model, None)
        for old, new in self._made.values():
            if not is_model(old):
                for variable, before in zip(new.variables, old.variables, strict=True):
                    variable.assign(np.asarray(before.numpy()))
        for replacement in self._replacements.values():
            for layer, weights in replacement.weights:
                layer.set_weights(list(weights))
        return made

    def _model(self, model: Any, shapes: Any) -> Any:
        """A model or nested model, built on inputs of these shapes; None: on its own."""
        # A Sequential cannot hold a branch, and Keras clones one layer for each of its layers.
        graph = functional(model, "its layers cannot be replaced") if self._changes(model) else model
        inputs = None
        if shapes is not None:
            inputs = self._keras.tree.map_structure(
                lambda x, given: self._keras.Input(batch_shape=given.shape, dtype=x.dtype, name=x.name),
                graph.input,
                shapes,
            )
        made = self._keras.models.clone_model(
            graph,
            clone_function=self._layer,
            call_function=None if isinstance(graph, self._keras.Sequential) else self._call,
            input_tensors=inputs,
        )
        if graph is not model:  # the graph inside a Sequential model has another name
            made = self._keras.Model(made.inputs[0], made.outputs[0], name=model.name)
        return made

    def _changes(self, model: Any) -> bool:
        return any(
            self._changes(layer) if is_model(layer) else id(layer) in self._replacements for layer in model.layers
        )

    def _layer(self, layer: Any) -> Any:
        """A layer, built anew; a nested model, or one to be replaced, as it is until it is called."""
        if is_model(layer) or not isinstance(layer, self._keras.Layer) or id(layer) in self._replacements:
            return layer
        if id(layer) not in self._made:
            self._made[id(layer)] = (layer, type(layer).from_config(layer.get_config()))
        return self._made[id(layer)][1]

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        replacement = self._replacements.get(id(layer))
        if replacement is not None:
            return replacement.call(args[0])
        if is_model(layer):
            if id(layer) not in self._made:
                self._made[id(layer)] = (layer, self._model(layer, args[0]))
            layer = self._made[id(layer)][1]
        return layer(*args, **kwargs)
