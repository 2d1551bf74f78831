"""Which layer of the user's each node of an exported graph belongs to."""

from __future__ import annotations

import re
from typing import Any


class LayerNames:
    """Maps the scopes of tf2onnx's names to the layers of a live Keras model."""

    def __init__(self, live: Any) -> None:
        self._root = str(live.name)
        self._layers: set[str] = set()
        self._add(getattr(live, "_functional", None) or live, ())

    def _add(self, graph: Any, outer: tuple[str, ...]) -> None:
        for op in getattr(graph, "operations", None) or getattr(graph, "layers", []):
            name = "/".join((*outer, op.name))
            self._layers.add(name)
            if hasattr(op, "layers"):
                self._add(getattr(op, "_functional", None) or op, (*outer, op.name))

    def of_nodes(self, proto: Any) -> dict[str, str]:
        """Node name -> layer. What the exporter put in between belongs to the layer whose result it rearranges.

        The kernel's name comes first: a convolution that batch normalization was folded into goes by the latter's.
        """
        stored = {tensor.name for tensor in proto.graph.initializer}
        found: dict[str, str] = {}
        owners: dict[str, str] = {}
        for node in proto.graph.node:
            kernels = [name for name in node.input[1:2] if name in stored]
            layer = next(filter(None, (self.of(text) for text in (*kernels, node.name, *node.output))), "")
            layer = layer or next((owners[name] for name in node.input if name in owners), "") or str(node.name)
            found[node.name] = layer
            owners.update(dict.fromkeys(node.output, layer))
        return found

    def of(self, text: str) -> str:
        """The layer in a scope like "functional_1/block_1/conv_1/Conv2D"; "" where it names none."""
        scopes = text.split(":", maxsplit=1)[0].split("/")
        numbered = scopes[0] != self._root
        best: list[str] = []
        for scope in scopes[1:]:
            known = (name for name in _spellings(scope, numbered=numbered) if "/".join((*best, name)) in self._layers)
            if (name := next(known, None)) is None:
                break
            best.append(name)
        return "/".join(best)


def _spellings(scope: str, *, numbered: bool) -> tuple[str, ...]:
    """Names that a scope may stand for, likeliest first.

    Tracing a model again puts a number behind every scope, the model's own first: then "conv_1" is layer "conv", and
    layer "conv_1" is "conv_1_1". A layer that is called twice gets one more.
    """
    once = re.sub(r"_\d+$", "", scope)
    twice = re.sub(r"_\d+$", "", once)
    return (once, twice, scope) if numbered else (scope, once, twice)
