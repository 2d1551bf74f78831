"""Reads tensors inside a network while it computes: what goes into its last activation, what a named layer gives out.

The network itself is not rebuilt. While it is called, one method of the layer in question notes its tensor and does
what it always did, so logits are exact, and nested models need no care.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from optimizer.base import KerasModel
from optimizer.graph import functional, is_model, nodes
from optimizer.losses import TRANSPARENT

# Their `activation` is the last thing that their call does. That of an LSTM, for one, is not.
_WITH_ACTIVATION = frozenset(
    {"Activation", "Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D"}
    | {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"}
    | {"DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"}
)

_PURPOSE = "nothing can be read inside it"


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """A place to listen at.

    Attributes:
        layer: a Keras layer or operation that the network calls once.
        side: "activation" = what its activation is applied to; "input" and "output" are its own.
    """

    layer: Any
    side: Literal["activation", "input", "output"]


@contextlib.contextmanager
def listening(taps: Sequence[Tap]) -> Iterator[list[Any]]:
    """Within it, calling the network fills the list: a tensor for each tap."""
    heard: list[Any] = [None] * len(taps)
    with contextlib.ExitStack() as stack:
        for index, tap in enumerate(taps):
            stack.enter_context(_noting(tap, heard, index))
        yield heard


@contextlib.contextmanager
def _noting(tap: Tap, heard: list[Any], index: int) -> Iterator[None]:
    if tap.side == "activation":
        activation = tap.layer.activation

        def noting_activation(x: Any) -> Any:
            heard[index] = x
            return activation(x)

        tap.layer.activation = noting_activation
        try:
            yield
        finally:
            tap.layer.activation = activation
        return
    hidden = vars(tap.layer).get("call")  # by another tap on the same layer
    call = tap.layer.call

    def noting_call(*args: Any, **kwargs: Any) -> Any:
        given = call(*args, **kwargs)
        heard[index] = (args[0] if args else next(iter(kwargs.values()))) if tap.side == "input" else given
        return given

    tap.layer.call = noting_call
    try:
        yield
    finally:
        if hidden is None:
            del tap.layer.call  # hides the method of the class; without it the method is back
        else:
            tap.layer.call = hidden


def before_activation(model: KerasModel, index: int) -> Tap | None:
    """Where to hear the logits of an output that comes out of a softmax or sigmoid.

    Returns:
        None where they cannot be heard: another layer computes activation and sum in one, calls it more than once, or
        takes its softmax over another axis than the last.
    """
    keras = import_keras()
    graph = functional(model, _PURPOSE)
    tensor = graph.outputs[index]
    while True:
        history = tensor._keras_history  # noqa: SLF001 - the only way back from a tensor to what made it
        operation = history.operation
        kind = type(operation).__name__
        if _calls(graph, operation) != 1:
            return None
        if is_model(operation):
            graph = functional(operation, _PURPOSE)
            tensor = graph.outputs[history.tensor_index]
        elif kind in TRANSPARENT:
            tensor = operation._inbound_nodes[history.node_index].input_tensors[0]  # noqa: SLF001 - likewise
        elif kind in ("Softmax", "Sigmoid"):
            last = getattr(operation, "axis", -1) in (-1, len(tensor.shape) - 1)
            return Tap(operation, "input") if last else None
        else:
            return Tap(operation, "activation") if isinstance(operation, keras.Layer) and _splits(kind) else None


def output_of(model: KerasModel, path: str) -> tuple[Tap, tuple[int | None, ...]]:
    """Where to hear a layer, and the shape of what it gives out, without the batch axis.

    Args:
        model: with a graph.
        path: the layer's name, with those of the models around it: "backbone/conv1".

    Raises:
        ModelError: there is no such layer, or it is called more than once, or gives out several tensors.
    """
    graph: Any = functional(model, _PURPOSE)
    *around, name = path.split("/")
    for each in around:
        nested = _named(graph, each, path)
        if not is_model(nested):
            raise ModelError(f"'{path}': {each} is no model, so there is nothing inside it.")
        graph = functional(nested, _PURPOSE)
    layer = _named(graph, name, path)
    calls = [node for node in nodes(graph) if node.operation is layer]
    if len(calls) != 1 or len(calls[0].output_tensors) != 1:
        raise ModelError(
            f"The output of layer '{path}' cannot be matched: it is called {len(calls)} times, "
            f"or gives out several tensors.",
            next_step="Name a layer that is called once.",
        )
    return Tap(layer, "output"), tuple(calls[0].output_tensors[0].shape[1:])


def _splits(kind: str) -> bool:
    return kind in _WITH_ACTIVATION


def _named(graph: Any, name: str, path: str) -> Any:
    names = [layer.name for layer in graph.layers]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        raise ModelError(
            f"The model {graph.name} has no layer '{name}' (for '{path}').",
            next_step=f"Did you mean '{close[0]}'?" if close else f"Its layers: {', '.join(names[:12])}.",
        )
    layer = graph.layers[names.index(name)]
    if _calls(graph, layer) != 1:
        raise ModelError(
            f"'{path}': layer {name} is called {_calls(graph, layer)} times, so it has no single output.",
            next_step="Name a layer that is called once.",
        )
    return layer


def _calls(graph: Any, operation: Any) -> int:
    return sum(node.operation is operation for node in nodes(graph))
