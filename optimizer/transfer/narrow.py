"""Makes a network narrower before it is trained, and pays for it out of the budget.

A choice by weights costs nothing that counts; by gradients it costs a sample's part in a training step for each sample.
Then layers that lost inputs are refitted on samples of the new task (`optimizer.channels.compensate`), as many as a
share of the budget pays for: the original runs once, the narrow network once for every refitted layer, and each fit is
a least-squares problem. Where that share pays for too few samples they stay as cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from calibration.samples import some
from edgesmith.errors import ModelError
from edgesmith.types import SampleSet
from optimizer import cost
from optimizer.base import Context, KerasModel
from optimizer.channels import choice, compensate, linear, surgery
from optimizer.channels.groups import find
from optimizer.techniques.prune_channels import Params
from optimizer.transfer.budget import Ledger, forward_flops, training_flops

Criterion = Literal["l1", "l2", "geometric_median", "bn_scale", "taylor"]

# Of what is left when it begins: training is what the budget is for.
_SHARE: Final = 0.1
_FEWEST: Final = 16
_MOST_REFITTED, _MOST_JUDGED = 256, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for, in the words of `prune_channels`."""

    scope: Literal["filters", "channels"]
    keep: float
    criterion: Criterion
    seed: int


def check(model: KerasModel, wanted: Wanted, context: Context) -> None:
    """Refuses what cannot be taken out.

    Raises:
        ModelError: no channels can go, or not as many.
    """
    _chooser(model, wanted, context).check(model)


def narrowed(
    model: KerasModel, wanted: Wanted, context: Context, train: SampleSet, ledger: Ledger
) -> tuple[KerasModel, tuple[str, ...]]:
    """A narrower network, its layers refitted as far as the budget reaches.

    Args:
        model: stays as it is.
        wanted: what is asked for.
        context: for its progress and folder.
        train: samples of the new task.
        ledger: what is spent is entered.

    Returns:
        The network, and what was done, one sentence each.

    Raises:
        ModelError: no channels can go, or not as many.
    """
    notes: list[str] = []
    if wanted.criterion == "taylor":
        context, said = _evidence(model, wanted, context, train, ledger)
        notes.append(said)
    chosen = _chooser(model, wanted, context).choose(model)
    narrow = surgery.without(model, chosen.channels, chosen.gone)
    macs = cost.count_macs(model), cost.count_macs(narrow)
    notes.append(
        f"{wanted.scope} by {wanted.criterion}: multiply-accumulates {macs[0]:,} to {macs[1]:,} "
        f"({macs[1] / macs[0]:.1%}), parameters {cost.parameters(model):,} to {cost.parameters(narrow):,}"
    )
    refitted = _refitted(narrow, chosen)
    samples = min(_MOST_REFITTED, len(train)) if refitted else 0
    while samples >= _FEWEST and _repair_flops(model, narrow, refitted, samples) > _SHARE * ledger.left:
        samples -= max(samples // 8, 1)
    if samples < _FEWEST:
        why = f": {_SHARE:.0%} of the budget do not pay for it" if refitted else ""
        return narrow, (*notes, f"no layer refitted{why}")
    ledger.spend("refitting layers that lost inputs", _repair_flops(model, narrow, refitted, samples))
    done = compensate.compensate(
        model, chosen.channels, chosen.gone, narrow, some(train, samples, wanted.seed).x,
        repair="least_squares", seed=wanted.seed, progress=context.progress,
    )  # fmt: skip
    notes.append(f"layers that lost inputs: {len(done.fitted)} refitted by least squares on {samples} samples")
    return narrow, tuple(notes)


def _evidence(
    model: KerasModel, wanted: Wanted, context: Context, train: SampleSet, ledger: Ledger
) -> tuple[Context, str]:
    each = training_flops(model)
    samples = min(_MOST_JUDGED, len(train), ledger.affords(each, share=_SHARE))
    if samples < _FEWEST:
        raise ModelError(
            f"{_SHARE:.0%} of the budget pay for gradients of {samples} samples, too few to judge channels by.",
            next_step="Take the criterion l1, or give more.",
        )
    ledger.spend("gradients to judge channels by", samples * each)
    judged = some(train, samples, wanted.seed)
    return (
        Context(workdir=context.workdir, train=judged, seed=wanted.seed, progress=context.progress),
        f"channels judged by gradients on {samples} samples of the new task",
    )


def _chooser(model: KerasModel, wanted: Wanted, context: Context) -> choice.Chooser:
    params = Params(scope=wanted.scope, keep=wanted.keep, criterion=wanted.criterion, epochs=0)
    asked = choice.Wanted.model_validate({key: getattr(params, key) for key in choice.Wanted.model_fields})
    return choice.Chooser(model, asked, context, seed=wanted.seed)


def _refitted(narrow: KerasModel, chosen: choice.Chosen) -> tuple[str, ...]:
    """Paths of the layers that `compensate` will fit: those that lost inputs and are plain sums over channels."""
    before, after = chosen.channels.layers, find(narrow).layers
    return tuple(
        path
        for path, layer in before.items()
        if linear.is_linear(layer) and linear.matrix(layer).shape[1] != linear.matrix(after[path]).shape[1]
    )


def _repair_flops(model: KerasModel, narrow: KerasModel, refitted: Sequence[str], samples: int) -> int:
    """What `compensate` computes, with so many samples; at most."""
    total = samples * (forward_flops(model) + len(refitted) * forward_flops(narrow))
    before, after = find(model).layers, find(narrow).layers
    places = _places(narrow)
    for path in refitted:
        groups, read, made = linear.matrix(after[path]).shape
        old: Any = linear.matrix(before[path])
        rows = min(compensate.rows_wanted(before[path]), samples * places[id(after[path])])
        products = rows * (old.size + 2 * groups * read * made + groups * read**2)
        total += 2 * products + groups * (2 * read**3 // 3 + 2 * read**2 * made)
    return total


def _places(model: KerasModel) -> dict[int, int]:
    """By id of a layer, how many rows it reads of one sample."""
    found: dict[int, int] = {}
    for layer, reads, makes in cost.calls(model):
        if linear.is_linear(layer):
            dense = type(layer).__name__ == "Dense"
            count = cost.product(layer, reads[0][1:-1]) if dense else cost.positions(layer, makes[0])
            found[id(layer)] = found.get(id(layer), 0) + count
    return found
