"""What training costs, in floating-point operations (FLOPs), and who spent what of a budget.

A multiply-accumulate is two FLOPs; which ones a layer has is said in `optimizer.cost`. For one sample, a layer of m
multiply-accumulates costs

| pass | FLOPs | where |
|---|---|---|
| forward | 2 m | always |
| backward to its weights | 2 m | where the layer is trained |
| backward to its inputs | 2 m | where anything before it is trained |

so that training all of a network costs three forward passes, less what the first layer need not hand on; training the
last layer alone costs one forward pass and that layer's own weights, and where its features are kept, the forward pass
only once. Not counted, as in the usual counters: biases, normalizations, activations, pooling, the loss, and the
optimizer's step, which is a few FLOPs a weight and batch.

Evaluating a finished network is no training and is not counted either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgesmith.errors import ConfigError, InternalError
from optimizer import cost, graph
from optimizer.base import KerasModel


def forward_flops(model: KerasModel) -> int:
    """FLOPs of a forward pass of one sample.

    Raises:
        ModelError: they cannot be counted; names the layer.
    """
    return 2 * cost.count_macs(model)


def training_flops(model: KerasModel) -> int:
    """FLOPs of one sample's part in a training step: forward, and backward as far as layers are trained.

    Raises:
        ModelError: as `forward_flops`, or the model has no graph.
    """
    inside = graph.functional(model, "the cost of its training cannot be counted")
    return _Walk().of(inside, dict.fromkeys(map(id, inside.inputs), False))


class _Walk:
    """Goes through a graph and adds up; knows of every tensor whether a gradient is wanted there."""

    def of(self, inside: Any, wanted: dict[int, bool]) -> int:
        """FLOPs of one call of a graph; `wanted` holds its inputs, and its outputs after that."""
        total = 0
        for node in graph.nodes(inside):
            layer = node.operation
            before = any(wanted[id(tensor)] for tensor in node.input_tensors)
            if graph.is_model(layer):
                inner = graph.functional(layer, "the cost of its training cannot be counted")
                passed = {id(t): wanted[id(given)] for t, given in zip(inner.inputs, node.input_tensors, strict=True)}
                total += self.of(inner, passed)
                after = [passed[id(tensor)] for tensor in inner.outputs]
            else:
                shapes = [[tuple(t.shape) for t in tensors] for tensors in (node.input_tensors, node.output_tensors)]
                trained = bool(getattr(layer, "trainable_variables", ()))
                total += 2 * cost.layer_macs(layer, shapes[0], shapes[1]) * (1 + trained + before)
                after = [before or trained] * len(node.output_tensors)
            wanted.update(zip(map(id, node.output_tensors), after, strict=True))
        return total


@dataclass(slots=True)
class Ledger:
    """A budget, and what was spent of it on what.

    Attributes:
        budget: FLOPs.
        spent: by what it was spent on, in order.
    """

    budget: float
    spent: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """FLOPs spent."""
        return sum(self.spent.values())

    @property
    def left(self) -> int:
        """FLOPs that may still be spent."""
        return int(self.budget) - self.total

    def affords(self, each: int, *, share: float = 1.0) -> int:
        """How often something can be paid out of a share of what is left."""
        return max(int(self.left * share) // max(each, 1), 0)

    def spend(self, what: str, flops: int) -> None:
        """Enters something.

        Raises:
            InternalError: it is more than is left; what is spent is planned before.
        """
        if flops > self.left:
            raise InternalError(f"{what} would cost {flops:,} FLOPs of {self.left:,} that are left")
        self.spent[what] = self.spent.get(what, 0) + flops


def too_small(budget: float, what: str, least: int) -> ConfigError:
    """The error where a budget does not reach for the least there is to do."""
    return ConfigError(
        f"--train-flops {budget:.3g} does not reach: {what} takes {least:.3g}.",
        next_step="Give more, take the method last-layer, or a smaller backbone.",
    )
