"""What pruning channels did, in sentences for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgesmith.errors import ModelError
from edgesmith.types import SampleSet
from optimizer import cost
from optimizer.base import KerasModel
from optimizer.channels import scope
from optimizer.channels.choice import Chooser
from optimizer.channels.compensate import Repair, Repaired
from optimizer.channels.groups import find

_MOST_NAMES = 8


class Account:
    """The widths and the cost of a network at one moment.

    Attributes:
        widths: name and key of a group -> units.
        macs: multiply-accumulates of one sample; None where they cannot be counted.
        parameters: weights.
    """

    def __init__(self, model: KerasModel) -> None:
        self.widths: Mapping[tuple[object, ...], tuple[str, int]] = {
            group.key: (group.name, len(group)) for group in find(model).groups
        }
        self.parameters = cost.parameters(model)
        try:
            self.macs: int | None = cost.count_macs(model)
        except ModelError:
            self.macs = None


def notes(before: Account, after: Account, chooser: Chooser) -> tuple[str, ...]:
    """What was taken out, what it saves, what stays and why."""
    return (
        *_widths(before, after, chooser),
        _saved(before, after),
        *_left(chooser),
    )


def table_notes(chooser: Chooser, narrow: KerasModel) -> tuple[str, ...]:
    """What the latency table says of it; nothing without one."""
    if (found := chooser.by_table(narrow)) is None:
        return ()
    before_ms, after_ms, left_out = found
    less = f"; it does not count {_names(left_out)}" if left_out else ""
    return (f"by the latency table {before_ms:.4g} ms to {after_ms:.4g} ms ({after_ms / before_ms:.1%}){less}",)


def repair_notes(done: Repaired, repair: Repair, samples: SampleSet) -> tuple[str, ...]:
    """What was refitted."""
    found = []
    if done.fitted:
        how = "refitted by least squares" if repair == "least_squares" else "given the mean of what is gone as bias"
        found.append(f"layers that lost inputs: {len(done.fitted)} {how}, on {samples.role} samples")
    if done.left:
        why = "no plain sum over channels, or no bias"
        found.append(f"layers that lost inputs and stay as cut ({why}): {_names(done.left)}")
    return tuple(found)


def _widths(before: Account, after: Account, chooser: Chooser) -> tuple[str, ...]:
    wanted = chooser.wanted
    changed = [
        f"{name} {units} to {after.widths[key][1]}"
        for key, (name, units) in before.widths.items()
        if key in after.widths and after.widths[key][1] != units
    ]
    total = f"of {len(before.widths)} groups of channels"
    if not changed:
        return (f"no channels taken out {total}: every width allowed is further from what was asked for",)
    asked = {
        "global": f"at most {wanted.keep:.0%} of {wanted.budget}",
        "uniform": f"{wanted.share:.0%} of each",
        "per_layer": "shares by layer",
    }[wanted.selection]
    return (f"{len(changed)} {total} narrowed by {wanted.criterion} ({asked}): {_names(changed)}",)


def _saved(before: Account, after: Account) -> str:
    parts = [f"parameters {before.parameters:,} to {after.parameters:,} ({after.parameters / before.parameters:.1%})"]
    if before.macs and after.macs is not None:
        parts.insert(0, f"multiply-accumulates {before.macs:,} to {after.macs:,} ({after.macs / before.macs:.1%})")
    return ", ".join(parts)


def _left(chooser: Chooser) -> Iterable[str]:
    if held := chooser.held_by_rounding():
        wanted = chooser.wanted
        yield (
            f"too narrow for multiples of {wanted.round_to} and at least {wanted.min_channels} channels, "
            f"so left whole: {_names(held)}"
        )
    if unscored := chooser.unscored():
        yield f"no batch normalization with a scale holds them, so left whole: {_names(unscored)}"
    if outside := chooser.outside():
        yield f"left whole by scope, include and exclude: {_names(outside)}"
    for reason, names in list(scope.frozen_reasons(chooser.channels).items())[:_MOST_NAMES]:
        yield f"channels stay, since {reason}: {_names(names)}"


def _names(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES else ""
    return ", ".join(every[:_MOST_NAMES]) + more
