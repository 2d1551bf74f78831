"""`low_rank`: layers as products of smaller ones, with the ranks that the energy, the error or a budget asks for.

Dense layers and 1x1 convolutions become two layers; k x k convolutions two (fewer outputs, then 1x1; or k x 1, then
1 x k) or three (Tucker-2). See `optimizer.factors.products` for the decompositions and the papers they are from. With
real samples at hand every factor is fitted to the layer's output on them, in closed form, not to its weights.

The last layer of each product keeps the old name, with bias and activation; those before it are `<name>_a` and
`<name>_b`. A layer whose product would have more weights or more multiply-accumulates stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from edgesmith.errors import DataError, ModelError
from edgesmith.types import SampleSet
from optimizer import batchnorm, cost, layer_patterns, rewrite
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.factors import build, choose, maps
from optimizer.factors.moments import second_moments
from optimizer.factors.products import Form, Matrix, Product, products
from optimizer.factors.reconstruct import reconstruct
from optimizer.finetune import TrainingParams, finetune, training_needs, training_set

SUMMARY = "layers as products of smaller ones: fewer weights and multiply-accumulates where the layer allows it"
STAGE = Stage.FACTORISE
COMPILE_TIME = False
MAKES: frozenset[Property] = frozenset()
PRESERVES: frozenset[Property] = frozenset({Property.ZEROS})

_WHAT = "Dense or convolution layer that can be factorised"


class Params(TrainingParams):
    """Which ranks, for which layers, and how the factors are found."""

    rank: Literal["energy", "error", "budget"] = Field(
        default="energy",
        description="energy: every layer keeps this share of its kernel's squared singular values; error: every layer "
        "loses at most this share of its output on calibration samples; budget: the whole network keeps this share of "
        "its cost, with the least error.",
    )
    energy: float = Field(default=0.9, gt=0, lt=1, description="Share to keep, for `rank: energy`.")
    error: float = Field(default=0.05, gt=0, lt=1, description="Relative squared error, for `rank: error`.")
    keep: float = Field(default=0.7, gt=0, lt=1, description="Share of the network's cost, for `rank: budget`.")
    count: choose.Count = Field(default="macs", description="What `rank: budget` counts.")
    forms: tuple[Form, ...] = Field(
        default=("svd", "spatial", "tucker"),
        min_length=1,
        description="For k x k convolutions. svd: fewer outputs, then 1x1; spatial: k x 1, then 1 x k; tucker: 1x1, a "
        "narrower k x k, 1x1. The best for each layer is taken. Dense and 1x1 always take svd.",
    )
    fit: Literal["auto", "weights", "activations"] = Field(
        default="auto",
        description="activations: factors are fitted to the layer's output on calibration (or training) samples; "
        "weights: to its kernel; auto: activations where there are real samples.",
    )
    reconstruct: bool = Field(
        default=True,
        description="With real samples: fits the last factor of each layer in turn to what the layer made before, so "
        "that it makes up for the factors before it.",
    )
    samples: int = Field(default=256, ge=1, description="Samples that are run for that, at most.")
    multiple: int = Field(default=4, ge=1, description="Ranks are multiples of this, which kernels of CPUs like.")
    include: tuple[str, ...] = Field(default=(), description="Layer names or patterns (* ?); default: all it can.")
    exclude: tuple[str, ...] = Field(default=(), description="Layer names or patterns to leave as they are.")

    @model_validator(mode="after")
    def _errors_are_of_activations(self) -> Params:
        if self.rank == "error" and self.fit == "weights":
            raise ValueError("rank: error is an error on activations; take `fit: auto`, or `rank: energy`")
        return self


def needs(params: Params) -> Needs:
    """Training data unless `epochs` is 0; samples where an error is measured on them."""
    return replace(training_needs(params), calibration_data=params.rank == "error" or params.fit == "activations")


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses a model without layers to factorise, patterns that match nothing, and missing data.

    Raises:
        ModelError: no layer is left to factorise, or costs cannot be counted and a budget asks for them.
        DataError: fine-tuning without labels, or an error to measure without real samples.
    """
    found, left = maps.find(model)
    _selected(found, left, params)
    if params.rank == "budget" and params.count == "macs":
        cost.count_macs(model)
    _samples(params, context)
    if params.epochs:
        training_set(params, context, step="low_rank")


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Factorises, then fine-tunes unless `epochs` is 0, then re-estimates batch-norm statistics.

    Raises:
        ModelError: no layer would get smaller, or a budget is out of reach.
        DataError: as `check`, or as `finetune`.
    """
    seed = context.seed if params.seed is None else params.seed
    found, left = maps.find(model)
    layers = _selected(found, left, params)
    samples = _samples(params, context)
    moments: Mapping[str, Matrix] = {}
    x = None
    if samples is not None:
        x = samples.x[np.sort(np.random.default_rng([seed, 5]).permutation(len(samples))[: params.samples])]
        moments = second_moments(model, list(layers.values()), x, seed=seed, progress=context.progress)
    plans = _planned(model, layers, moments, params)
    original, before = model, cost.parameters(model)
    model = rewrite.replace(
        model,
        {
            path: build.replacement(
                model, layers[path], plan.product.stages(plan.option.ranks), plan.product.kernels(plan.option.ranks)
            )
            for path, plan in plans.items()
        },
    )
    notes = [
        f"{len(plans)} of {len(found)} layers became products: {before:,} parameters to {cost.parameters(model):,}",
        *(_told(layers[path], plan) for path, plan in plans.items()),
        _fitted_to(samples, params),
        *maps.grouped({**left, **_kept(layers, plans, params)}),
    ]
    if x is not None and params.reconstruct:
        chosen = [layers[path] for path in layers if path in plans]
        reconstruct(original, model, chosen, x, seed=seed, progress=context.progress)
        notes.append(f"{len(chosen)} layers fitted in turn to what they made before, on {len(x)} samples")
    if params.epochs:
        notes += finetune(model, params, context, label="low_rank").notes
    notes += batchnorm.reestimate_from(model, context, seed=seed)
    return Applied(model=model, notes=tuple(notes))


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What one layer becomes; `error` on activations where those are known."""

    product: Product
    option: choose.Option


def _selected(found: Mapping[str, maps.Linear], left: Mapping[str, str], params: Params) -> dict[str, maps.Linear]:
    if not found:
        reasons = "; ".join(f"'{path}': {reason}" for path, reason in left.items())
        raise ModelError(f"low_rank: the model has no {_WHAT}{f' ({reasons})' if reasons else ''}.")
    chosen = layer_patterns.select(list(found), params.include, params.exclude, what=_WHAT)
    return {path: found[path] for path in chosen}


def _samples(params: Params, context: Context) -> SampleSet | None:
    """Real samples to look at activations on; None where weights alone decide."""
    if params.fit == "weights":
        return None
    real = next((s for s in (context.calibration, context.train) if s is not None and not s.synthetic), None)
    if real is None and (params.fit == "activations" or params.rank == "error"):
        raise DataError(
            "low_rank measures errors on activations, and there are no real calibration or training samples.",
            next_step="Give `data.calibration`, or take `rank: energy` or `budget` with `fit: weights`.",
        )
    return real


def _planned(
    model: KerasModel,
    layers: Mapping[str, maps.Linear],
    moments: Mapping[str, Matrix],
    params: Params,
) -> dict[str, _Plan]:
    """What every layer becomes that becomes something."""
    made: dict[str, dict[Form, Product]] = {}
    found: dict[str, list[choose.Option]] = {}
    for path, linear in layers.items():
        kernel = linear.kernel()
        ways = {one.form: one for one in products(kernel, moments.get(path), params.forms)}
        made[path] = ways
        # Energy is of the weights, whatever the factors are fitted to.
        judged = products(kernel, None, params.forms) if params.rank == "energy" else list(ways.values())
        found[path] = choose.options(linear, judged, multiple=params.multiple)
    if not any(found.values()):
        raise ModelError(
            f"low_rank: no layer gets smaller. At every rank that is a multiple of {params.multiple}, the product has "
            f"more weights or multiply-accumulates than the layer itself: {', '.join(layers)}.",
            next_step="Leave low_rank out: it pays in wide layers. A smaller `multiple` allows smaller ranks.",
        )
    if params.rank == "budget":
        total = cost.count_macs(model) if params.count == "macs" else cost.parameters(model)
        chosen = choose.under_budget(layers, found, total=total, keep=params.keep, count=params.count)
    else:
        limit = 1 - params.energy if params.rank == "energy" else params.error
        within = {path: choose.within(options, limit) for path, options in found.items()}
        chosen = {path: option for path, option in within.items() if option is not None}
        if not chosen:
            least = min((option.error, path) for path, options in found.items() for option in options)
            raise ModelError(
                f"low_rank: no layer gets smaller at {_limit(params)}. The least that a smaller product loses is "
                f"{least[0]:.1%}, in '{least[1]}'.",
                next_step="Leave low_rank out, or allow it to lose more.",
            )
    return {path: _Plan(made[path][option.form], option) for path, option in chosen.items()}


def _fitted_to(samples: SampleSet | None, params: Params) -> str:
    if samples is not None:
        return f"factors fitted to activations on {samples.role} samples"
    why = "" if params.fit == "weights" else ": there are no real samples"
    return f"factors fitted to the weights{why}"


def _limit(params: Params) -> str:
    return f"energy {params.energy:g}" if params.rank == "energy" else f"error {params.error:g}"


def _kept(layers: Mapping[str, maps.Linear], plans: Mapping[str, _Plan], params: Params) -> dict[str, str]:
    why = (
        "the budget is met without them"
        if params.rank == "budget"
        else f"at {_limit(params)} a product would have more weights or multiply-accumulates"
    )
    return dict.fromkeys((path for path in layers if path not in plans), why)


def _told(linear: maps.Linear, plan: _Plan) -> str:
    option, whole = plan.option, linear.whole
    ranks = " and ".join(map(str, option.ranks))
    return (
        f"{linear.path}: {option.form}, rank {ranks} of {' and '.join(map(str, plan.product.most))}, "
        f"{option.macs / linear.macs(whole):.0%} of the multiply-accumulates, "
        f"{option.parameters / linear.parameters(whole):.0%} of the weights, "
        f"error {plan.product.error(option.ranks):.2%}"
    )
