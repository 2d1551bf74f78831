"""The graph of a Keras model: its layer calls in the order they run. The one place that reads Keras' own record of it.

Keras 3 has no public walk over calls: `model.layers` lists each layer once, without what it was called on, so that
shared layers and skips are lost. `_nodes_by_depth` and the `_functional` of a Sequential model hold what is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgesmith.errors import ModelError


def is_model(layer: Any) -> bool:
    """Whether a layer is a network with a graph of its own, functional or Sequential."""
    return getattr(layer, "_nodes_by_depth", None) is not None or getattr(layer, "_functional", None) is not None


def functional(model: Any, purpose: str) -> Any:
    """The functional graph of a model, which a Sequential one keeps inside.

    Args:
        model: a Keras model.
        purpose: what cannot be done without it, "its channels cannot be followed".

    Raises:
        ModelError: it has none.
    """
    graph = getattr(model, "_functional", None) or model
    if getattr(graph, "_nodes_by_depth", None) is None:
        raise ModelError(
            f"The model {model.name} has no graph, so {purpose}.",
            next_step="Build it with the functional API or as a Sequential model.",
        )
    return graph


def nodes(graph: Any) -> Iterator[Any]:
    """The calls of a functional graph, each after those it takes its tensors from; inputs are no calls.

    A node has `operation` (the layer), `input_tensors`, `output_tensors` and `arguments`.
    """
    by_depth = graph._nodes_by_depth  # noqa: SLF001 - the only record of the calls and their order
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)
