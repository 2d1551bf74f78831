"""Which layer of the user's each node of an exported graph belongs to."""

from __future__ import annotations

from typing import Any


class LayerNames:
    """Maps the scopes of tf2onnx's names to the layers of a live Keras model."""

    def __init__(self, live: Any) -> None:
        self.by_scope: dict[str, str] = {}
        graph = getattr(live, "_functional", None) or live
        self._add(graph, ())

    def _add(self, graph: Any, outer: tuple[str, ...]) -> None:
        for op in getattr(graph, "operations", None) or getattr(graph, "layers", []):
            name = "/".join((*outer, op.name))
            self.by_scope[name] = name
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
        """The layer in a scope like "functional_1/block_1/conv_1/Conv2D"; tracing adds "_1" to each of its parts."""
        scopes = text.split(":", maxsplit=1)[0].split("/")[1:]
        best: list[str] = []
        for scope in scopes:
            for spelling in (scope, scope.rpartition("_")[0]):
                if spelling and "/".join((*best, spelling)) in self.by_scope:
                    best.append(spelling)
                    break
            else:
                break
        return "/".join(best)
