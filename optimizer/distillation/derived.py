"""A student made of its teacher: the same graph with fewer channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from optimizer import cost
from optimizer.base import KerasModel
from optimizer.channels import groups, scores, surgery

Init = Literal["inherit", "fresh"]

# What they hold was computed from data, or was not trained on purpose; drawing it anew would lose it.
_KEPT = ("Normalization", "Discretization", "StringLookup", "IntegerLookup", "TextVectorization")


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """A narrower network.

    Attributes:
        model: a new one; the teacher is as it was.
        notes: one sentence each, for the report.
    """

    model: KerasModel
    notes: tuple[str, ...]


def derive(model: KerasModel, width: float, init: Init, seed: int) -> Derived:
    """The same graph with `width` of the units of every group of channels, at least one of each.

    Args:
        model: the teacher; stays as it is.
        width: share of units that stay, rounded up.
        init: inherit: the weights of the strongest units, by the Euclidean norm of their filters; fresh: new ones, as
            a network that was never trained has. Frozen layers keep theirs.
        seed: of fresh weights.

    Raises:
        ModelError: nothing can be narrower; names the layers and what holds them.
    """
    channels = groups.find(model)
    if not channels.groups:
        held = "; ".join(f"{group.name}: {group.frozen}" for group in channels.frozen[:4])
        raise ModelError(
            f"No layer of {model.name} can be made narrower ({held or 'it has no layer with channels'}).",
            next_step="Give a `student` of your own.",
        )
    strength = scores.l2(channels)
    gone: list[int] = []
    for index, group in enumerate(channels.groups):
        stay = max(math.ceil(width * len(group)), 1)
        order = np.argsort(-strength[index], kind="stable") if index in strength else np.arange(len(group))
        gone += group.units[order[stay:]].tolist()
    if not gone:
        raise ModelError(
            f"At width {width:g} every layer of {model.name} keeps all of its units.", next_step="Lower `width`."
        )
    student = surgery.without(model, channels, gone)
    if init == "fresh":
        student = _drawn_anew(student, seed)
    units = sum(len(group) for group in channels.groups)
    what = "the strongest, with their weights" if init == "inherit" else "with fresh weights"
    size = f"{cost.parameters(model):,} to {cost.parameters(student):,} parameters"
    kept = f"{units - len(gone)} of {units} units in {len(channels.groups)} groups"
    notes = [f"student of width {width:g}: {kept}, {what}; {size}"]
    notes += [f"as wide as before: {g.name} ({g.frozen})" for g in channels.frozen]
    return Derived(student, tuple(notes))


def _drawn_anew(model: KerasModel, seed: int) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    fresh = keras.models.clone_model(model)
    # The walk that also sees wrapped and nested layers, in the same order for both.
    pairs = zip(fresh._flatten_layers(), model._flatten_layers(), strict=True)  # noqa: SLF001
    for new, old in pairs:
        if type(old).__name__ in _KEPT or (old.weights and not old.trainable):
            for variable, value in zip(new.weights, old.weights, strict=True):
                variable.assign(value)
    return fresh
