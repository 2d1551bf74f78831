"""`transferred_filters`: a filter bank made from a smaller one by negation, quarter turns and reflections.

Filters of a trained layer that are nearly transforms of each other share one base filter, found by least squares, and
keep sharing it while they are fine-tuned. Two forms come out:

- `bank`: the layer stays as it is, with a kernel that is expanded from the bases. The network is neither faster nor, as
  a Keras or TFLite file, smaller; a packed file that stores bases and transforms is.
- `activation`: negation pairs alone, where the other half of the outputs is computed as -x: half of the layer's
  multiply-accumulates and weights. Only where everything that reads the channels can take them in another order.

See `optimizer.filters` for the papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from optimizer import batchnorm, cost, layer_patterns, rewrite
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.channels import groups
from optimizer.factors.maps import grouped, zeros_in
from optimizer.filters import match, negation, order
from optimizer.filters.bank import TransferredBank
from optimizer.filters.sharing import SharedFilters
from optimizer.filters.transforms import NEGATION, Kind, Transform, allowed
from optimizer.finetune import TrainingParams, finetune, training_needs, training_set

SUMMARY = "filters that are turned, mirrored or negated copies of fewer ones (smaller packed file, or half the work)"
STAGE = Stage.FACTORISE
COMPILE_TIME = False
MAKES = frozenset({Property.SHARED_VALUES})
PRESERVES = frozenset({Property.ZEROS})

_WHAT = "Dense or convolution layer whose filters can be shared"
_SHARED = ("Dense", "Conv1D", "Conv2D", "Conv3D")


class Params(TrainingParams):
    """What may be shared, in which form, and where."""

    form: Literal["bank", "activation"] = Field(
        default="bank",
        description="bank: kernels are expanded from bases, which only a packed file stores smaller; activation: "
        "negation pairs, where half of the outputs is computed as the negative of the other half.",
    )
    transforms: tuple[Kind, ...] = Field(
        default=(),
        description="negate, rotate (quarter turns), flip (reflections). Default: all three; negate for "
        "`form: activation`.",
    )
    members: int = Field(default=2, ge=2, le=16, description="Most filters that share one base.")
    min_correlation: float = Field(
        default=0.0, ge=0, le=1, description="Filters less alike than this, by cosine, stay by themselves."
    )
    scale: bool = Field(default=False, description="Each filter has a size of its own, found once and then fixed.")
    include: tuple[str, ...] = Field(default=(), description="Layer names or patterns (* ?); default: all it can.")
    exclude: tuple[str, ...] = Field(default=(), description="Layer names or patterns to leave as they are.")

    @model_validator(mode="after")
    def _activations_are_negated(self) -> Params:
        if self.form == "activation":
            if set(self.transforms) - {"negate"}:
                raise ValueError("activations can be negated, not turned or mirrored; take `form: bank`")
            if self.members != 2 or self.scale:
                raise ValueError("`form: activation` has pairs of one size: members is 2 and scale is false")
        return self


def makes(params: Params) -> frozenset[Property]:
    """Negatives that are computed leave no sharing for a later step to keep; expanded kernels do."""
    return MAKES if params.form == "bank" else frozenset()


def needs(params: Params) -> Needs:
    """Training data unless `epochs` is 0, with labels unless it learns from the original model."""
    return training_needs(params)


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses a model without filters to share, patterns that match nothing, and missing data.

    Raises:
        ModelError: no layer is left whose filters could share.
        DataError: fine-tuning without what it learns from.
    """
    _chosen(model, params)
    if params.epochs:
        training_set(params, context, step="transferred_filters")


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Matches filters, fits bases, fine-tunes them unless `epochs` is 0, and re-estimates batch-norm statistics.

    Raises:
        ModelError: no two filters are alike enough.
        DataError: as `finetune`.
    """
    seed = context.seed if params.seed is None else params.seed
    layers, left = _chosen(model, params)
    network = groups.find(model) if params.form == "activation" else None
    orderable: dict[str, groups.Group] = {}
    if network is not None:
        orderable, fixed = _orderable(network, layers)
        left |= fixed
        layers = {path: layers[path] for path in orderable}
    banks: dict[str, TransferredBank] = {}
    far: dict[str, float] = {}
    for path, layer in layers.items():
        kernel = np.asarray(layer.kernel.numpy())
        bank = match.matched(
            kernel,
            _transforms(kernel, params),
            members=params.members,
            least=params.min_correlation,
            scale=params.scale,
        )
        if len(bank.base) < kernel.shape[-1]:
            banks[path] = bank
            far[path] = float(np.sum((kernel - bank.expand()) ** 2) / np.sum(kernel.astype(np.float64) ** 2))
        else:
            left[path] = f"no two of its filters have a correlation of {params.min_correlation:g}"
    if not banks:
        raise ModelError(
            f"transferred_filters: no layer can share filters: {'; '.join(grouped(left))}.",
            next_step="Lower min_correlation, allow more transforms, or leave the step out.",
        )
    shared = SharedFilters({path: layers[path].kernel for path in banks}, banks)
    shared.project()
    notes = [
        *(_told(path, shared.banks[path], far[path]) for path in banks),
        *grouped(left),
    ]
    if params.epochs:
        notes += finetune(model, params, context, label="transferred_filters", companions=(shared,)).notes
        shared.project()
    shared.check()
    notes += batchnorm.reestimate_from(model, context, seed=seed)
    if network is None:
        return Applied(model=model, notes=(*notes, _stored(shared.banks)))
    before = cost.parameters(model)
    for path, bank in shared.banks.items():
        order.reorder(network, orderable[path], path, negation.in_order(bank))
    model = rewrite.replace(model, {path: _negated(model, layers[path], bank) for path, bank in shared.banks.items()})
    notes.append(
        f"negatives are computed from the outputs of {len(banks)} layers: {before:,} parameters to "
        f"{cost.parameters(model):,}"
    )
    return Applied(model=model, notes=tuple(notes))


def _chosen(model: KerasModel, params: Params) -> tuple[dict[str, Any], dict[str, str]]:
    """Layers whose filters may share, and those with a kernel whose filters may not, with the reason."""
    keras = import_keras()
    plain = tuple(getattr(keras.layers, name) for name in _SHARED)
    found: dict[str, Any] = {}
    left: dict[str, str] = {}
    for path, layer in rewrite.layers(model).items():
        if type(layer) in plain:
            reason = _reason(keras, layer, params)
            if reason:
                left[path] = reason
            else:
                found[path] = layer
        elif any(variable.name.endswith("kernel") for variable in getattr(layer, "weights", ())):
            left[path] = f"the filters of {type(layer).__name__} are not shared"
    if not found:
        raise ModelError(f"transferred_filters: the model has no {_WHAT} ({'; '.join(grouped(left)) or 'no kernels'}).")
    chosen = layer_patterns.select(list(found), params.include, params.exclude, what=_WHAT)
    return {path: found[path] for path in chosen}, left


def _reason(keras: Any, layer: Any, params: Params) -> str:
    if not isinstance(layer.kernel, keras.Variable):
        return "its kernel is computed, not stored: LoRA or a quantized layer"
    if params.form == "activation" and (type(layer).__name__ == "Conv3D" or getattr(layer, "groups", 1) != 1):
        return "a convolution of three axes or of groups"
    return zeros_in(np.asarray(layer.kernel.numpy()))


def _transforms(kernel: Any, params: Params) -> tuple[Transform, ...]:
    if params.form == "activation":
        return (NEGATION,)
    return allowed(kernel.shape[:-2], params.transforms or ("negate", "rotate", "flip"))


def _orderable(network: groups.Channels, layers: Mapping[str, Any]) -> tuple[dict[str, groups.Group], dict[str, str]]:
    """Layers whose channels can come in another order, and why the others' cannot."""
    found: dict[str, groups.Group] = {}
    left: dict[str, str] = {}
    taken: dict[int, str] = {}
    for path in layers:
        group = order.orderable(network, path)
        if isinstance(group, str):
            left[path] = f"its channels have to stay in order: {group}"
        elif id(group) in taken:
            left[path] = f"its channels meet those of {taken[id(group)]}, whose order decides"
        elif holder := order.holds_zeros(network, group):
            left[path] = f"its channels have to stay in order: {holder} has zeros of an earlier step"
        else:
            found[path] = group
            taken[id(group)] = path
    return found, left


def _negated(model: KerasModel, layer: Any, bank: TransferredBank) -> rewrite.Replacement:
    """With the bank as it is after the channels, its own and those it reads, have come to their new places."""
    moved = bank.reordered(negation.in_order(bank)).fitted(np.asarray(layer.kernel.numpy()))
    return negation.replacement(model, layer, moved)


def _told(path: str, bank: TransferredBank, far: float) -> str:
    return f"{path}: {len(bank.base)} bases for {len(bank.members)} filters, {far:.1%} of the kernel's square given up"


def _stored(banks: Mapping[str, TransferredBank]) -> str:
    weights = sum(bank.base[0].size * len(bank.members) for bank in banks.values())
    stored = sum(bank.weights for bank in banks.values())
    bits = sum(bank.index_bits for bank in banks.values())
    return (
        f"bases hold {stored:,} of {weights:,} weights, and {(bits + 7) // 8:,} bytes say which filter is which; "
        "only a packed file is smaller by that, and nothing is faster"
    )
