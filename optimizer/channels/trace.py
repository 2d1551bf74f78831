"""Walks a network and writes down which axes of its weights hold which channels.

Every layer that makes channels gets new numbers for them; they are handed on through the graph as the tensors are
reshaped, padded and put together, and united where two meet that can only go together: in a sum, at a depthwise kernel,
at every position of an image. What no rule understands keeps its channels, and says so.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimizer import graph
from optimizer.base import KerasModel
from optimizer.channels.atoms import Atoms, Ids, uniform
from optimizer.channels.lanes import Lanes


class Role(enum.StrEnum):
    """What a layer does with channels along an axis of a weight."""

    MAKES = "makes"
    """Computes them: each is a sum over all that the layer reads."""
    HOLDS = "holds"
    """Treats each by itself: bias, normalization, depthwise kernel, slope."""
    READS = "reads"
    """Sums over them."""


@dataclass(frozen=True, slots=True, eq=False)
class Touch:
    """An axis of a weight whose entries belong to channels.

    Attributes:
        layer: path of the layer, "backbone/conv1".
        weight: its name within the layer, "kernel" or "_query_dense.kernel".
        axis: of the weight.
        role: what the layer does with these channels there.
        ids: the channel of every entry along the axis.
    """

    layer: str
    weight: str
    axis: int
    role: Role
    ids: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """A number in a layer's config that counts channels.

    Attributes:
        layer: path of the layer.
        key: in its config.
        ids: it is the number of these that are left; entries that are equal count each.
        index: where the config holds a tuple: which of its numbers; None for a plain one.
    """

    layer: str
    key: str
    ids: Ids
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: the Keras layer or operation.
        path: its name, with those of the models around it.
        inputs: of its tensors.
        shapes: of its outputs, without the batch axis.
        arguments: (positional, keyword) it was called with.
    """

    layer: Any
    path: str
    inputs: tuple[Lanes, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    @property
    def kind(self) -> str:
        """Class of the layer."""
        return type(self.layer).__name__


Rule = Callable[[Call, "Trace"], Sequence[Lanes] | None]
"""What a call makes of its inputs' lanes; None where the rule does not cover this call."""


@dataclass(slots=True, eq=False)
class Trace:
    """What the walk has found.

    Attributes:
        atoms: the channels.
        touches: by (layer, weight, axis).
        settings: what configs count.
        layers: path -> layer, each once.
        joined: channels that a sum or a concatenation joins with those of another branch.
    """

    atoms: Atoms = field(default_factory=Atoms)
    touches: dict[tuple[str, str, int], Touch] = field(default_factory=dict)
    settings: dict[tuple[str, str, int | None], Setting] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    _paths: dict[int, str] = field(default_factory=dict)

    def touch(self, call: Call, weight: str, axis: int, ids: Ids, role: Role = Role.HOLDS) -> None:
        """Notes an axis. A layer that is called again reads and makes the same channels."""
        key = (call.path, weight, axis)
        if key in self.touches:
            self.atoms.unite(self.touches[key].ids, ids)
        else:
            self.touches[key] = Touch(*key, role, ids)

    def setting(self, call: Call, key: str, ids: Ids, index: int | None = None) -> None:
        """Notes a count in the config."""
        self.settings.setdefault((call.path, key, index), Setting(call.path, key, ids, index))

    def join(self, inputs: Sequence[Lanes]) -> None:
        """Notes that branches meet: what they bring is wide as the network around them wants it."""
        if len(inputs) > 1:
            for lanes in inputs:
                self.joined.update(np.unique(lanes.ids).tolist())

    def channels(self, lanes: Lanes, axis: int = -1) -> Ids:
        """The channels along one axis: whatever lies at the same place of it goes together."""
        lanes = lanes.along(axis)
        ids = lanes.ids
        axis %= ids.ndim
        for other in range(ids.ndim):
            if other != axis and ids.shape[other] > 1:
                if not uniform(ids, other):
                    self.atoms.unite(ids, ids.take([0], axis=other))
                ids = ids.take([0], axis=other)
        return ids.reshape(-1)

    def kept(self, call: Call, why: str) -> tuple[Lanes, ...]:
        """The channels of all inputs stay; those of the outputs are new, and stay as well."""
        reason = f"{call.path} ({call.kind}) {why}"
        for lanes in call.inputs:
            self.atoms.freeze(lanes.ids, reason)
        return self.fixed(call.shapes, reason)

    def fixed(self, shapes: Sequence[Sequence[int | None]], reason: str) -> tuple[Lanes, ...]:
        """Tensors nothing can be taken out of."""
        found = []
        for shape in shapes:
            ids = self.atoms.new(1)
            self.atoms.freeze(ids, reason)
            found.append(Lanes(ids.reshape((1,) * len(shape)), tuple(shape)))
        return tuple(found)

    def path_of(self, layer: Any, prefix: str) -> str:
        """A layer's name; the one it was first met under."""
        path = f"{prefix}/{layer.name}" if prefix else str(layer.name)
        path = self._paths.setdefault(id(layer), path)
        self.layers.setdefault(path, layer)
        return path


def trace(model: KerasModel) -> Trace:
    """The channels of a whole network.

    Args:
        model: a built Keras 3 functional or Sequential model.

    Raises:
        ModelError: it has no graph.
    """
    found = Trace()
    inner = graph.functional(model, "its channels cannot be followed")
    given = found.fixed([tensor.shape[1:] for tensor in inner.inputs], "an input of the model")
    for lanes in _run(inner, given, "", found):
        found.atoms.freeze(lanes.ids, "an output of the model")
    return found


def _run(inner: Any, given: Sequence[Lanes], prefix: str, found: Trace) -> tuple[Lanes, ...]:
    """Walks a graph, a nested one once for each of its calls; returns what its outputs hold."""
    from optimizer.channels.rules import rule_for

    lanes = {id(tensor): one for tensor, one in zip(inner.inputs, given, strict=True)}
    for node in graph.nodes(inner):
        layer = node.operation
        path = found.path_of(layer, prefix)
        inputs = tuple(lanes[id(tensor)] for tensor in node.input_tensors)
        if graph.is_model(layer):
            within = graph.functional(layer, "its channels cannot be followed")
            made: Sequence[Lanes] = _run(within, inputs, path, found)
        else:
            call = Call(
                layer=layer,
                path=path,
                inputs=inputs,
                shapes=tuple(tuple(tensor.shape[1:]) for tensor in node.output_tensors),
                arguments=(node.arguments.args, node.arguments.kwargs),
            )
            answer = rule_for(layer)(call, found)
            made = found.kept(call, "is no layer that channels are followed through") if answer is None else answer
        lanes.update((id(tensor), one) for tensor, one in zip(node.output_tensors, made, strict=True))
    return tuple(lanes[id(tensor)] for tensor in inner.outputs)
