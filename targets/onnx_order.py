"""One spelling for one graph: exporters and quantizers iterate over Python sets, so names and order vary by run.

Equal graphs must become equal bytes, because artifacts are cached and pushed by their hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from targets.onnx_file import subgraphs

FIRST_GENERATED = 1_000_000
"""tf2onnx ends names that it makes up with `__` and a running number; made to count from here, they can be told from
the `__2` of a user's own layer name."""

_GENERATED = re.compile(r"(?<=__)\d{7,}|(?<=einsum)\d{7,}|(?<=_frozen_)\d+")
"""Running numbers, memory addresses, and TensorFlow's numbers of functions."""


def normalise(proto: Any) -> None:
    """Orders nodes and initializers by first use from the outputs back, merges equal initializers, renumbers names."""
    _order(proto.graph)
    _renumber(proto.graph)


def _order(graph: Any) -> None:
    """Depth first from the outputs, inputs in their order: depends on nothing but the graph. Innermost graphs first."""
    for node in graph.node:
        node.domain = node.domain  # an unset domain and an empty one mean the same, and are written differently
        for inner in subgraphs(node):
            _order(inner)
    _settle_aliases(graph)
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    done: set[int] = set()
    order: list[int] = []
    for value in graph.output:
        if value.name in makers and makers[value.name] not in done:
            _visit(graph, makers, makers[value.name], done, order)
    ordered = [_copy(graph.node[index]) for index in order]
    del graph.node[:]
    graph.node.extend(ordered)
    _merge_equal_initializers(graph)
    _sort_initializers(graph)


def _settle_aliases(graph: Any) -> None:
    """Two outputs with one value are one node and an Identity, in either order: here the first output comes first."""
    place = {value.name: index for index, value in enumerate(graph.output)}
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] in place:
            source, alias = node.input[0], node.output[0]
            if place[alias] < place.get(source, -1):
                swap = {source: alias, alias: source}
                for other in graph.node:
                    other.input[:] = [swap.get(name, name) for name in other.input]
                    other.output[:] = [swap.get(name, name) for name in other.output]
            node.name = node.output[0]


def _visit(graph: Any, makers: dict[str, int], start: int, done: set[int], order: list[int]) -> None:
    """Post-order without recursion: a deep network is deeper than Python's stack."""
    stack = [(start, iter(_reads(graph.node[start])))]
    done.add(start)
    while stack:
        index, reads = stack[-1]
        before = next((makers[name] for name in reads if name in makers and makers[name] not in done), None)
        if before is None:
            order.append(index)
            stack.pop()
        else:
            done.add(before)
            stack.append((before, iter(_reads(graph.node[before]))))


def _reads(node: Any) -> Iterator[str]:
    """Names a node depends on: its inputs, and whatever its subgraphs take from outside."""
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (value.name for value in graph.output)


def _copy(message: Any) -> Any:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def _merge_equal_initializers(graph: Any) -> None:
    """A layer that is used twice is exported twice. Keeps the one that is used first."""
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    kept: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for name in _in_order_of_use(graph):
        if name in by_name:
            nameless = _copy(by_name[name])
            nameless.ClearField("name")
            first = kept.setdefault(nameless.SerializeToString(deterministic=True), name)
            renamed[name] = first
    _rename(graph, lambda name: renamed.get(name, name))


def _sort_initializers(graph: Any) -> None:
    """By first use; unused ones go."""
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    used = [_copy(by_name[name]) for name in dict.fromkeys(_in_order_of_use(graph)) if name in by_name]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _in_order_of_use(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield from _reads(node)
    yield from (value.name for value in graph.output)


def _renumber(graph: Any) -> None:
    numbers: dict[str, str] = {}

    def fresh(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], str(len(numbers)))

    def spell(name: str) -> str:
        return _GENERATED.sub(fresh, name)

    _rename(graph, spell)
    for tensor in graph.initializer:
        tensor.name = spell(tensor.name)
    for value in (*graph.input, *graph.output):
        _respell_dims(value, spell)


def _rename(graph: Any, spell: Any) -> None:
    """Applies `spell` to every tensor and node name, but not to those of the outermost inputs and initializers."""
    for node in graph.node:
        node.name = spell(node.name)
        node.input[:] = [spell(name) for name in node.input]
        node.output[:] = [spell(name) for name in node.output]
        for inner in subgraphs(node):
            _rename(inner, spell)
            inner.name = spell(inner.name)
            del inner.value_info[:]
            for value in (*inner.input, *inner.output, *inner.initializer):
                value.name = spell(value.name)
            for value in (*inner.input, *inner.output):
                _respell_dims(value, spell)


def _respell_dims(value: Any, spell: Any) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.HasField("dim_param"):
            dim.dim_param = spell(dim.dim_param)
