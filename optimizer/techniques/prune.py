"""`prune`: zeros in kernels, gradually on the schedules of TF-MOT, in rounds, or at once.

Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv:1710.01878.
Zeros shrink the file after compression; they do not shorten the latency on a CPU with dense kernels. Two zeros in every
four input channels ("2:4") shorten it on GPUs with sparse tensor cores (NVIDIA Ampere and later).

Every prunable layer is pruned, the first and the last one too, as `tfmot.sparsity.keras.prune_low_magnitude` does on a
whole model. Where the classifier or the stem suffers, name it in `exclude`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import DataError, ModelError
from optimizer import batchnorm, losses, magnitude, masks, schedules
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.finetune import finetune, split, steps_per_epoch, training_needs, training_set
from optimizer.kernels import Kernel, prunable_kernels, select
from optimizer.saliency import fisher, moments, surgeon
from optimizer.saliency.layouts import Layout, layouts
from optimizer.saliency.patterns import Blocks, NOfM
from optimizer.saliency.selection import Selection
from optimizer.saliency.settings import ROUNDS, PruneParams

SUMMARY = "zeros the weights that matter least, while fine-tuning or without (smaller file, same latency but for 2:4)"
STAGE = Stage.SPARSIFY
COMPILE_TIME = False
MAKES = frozenset({Property.ZEROS})
PRESERVES = frozenset({Property.ZEROS})

Params = PruneParams


def needs(params: Params) -> Needs:
    """Training data, unless it prunes without training; calibration data where samples decide what goes."""
    trained = training_needs(params)
    return Needs(
        keras=True,
        training_data=trained.training_data,
        labels=trained.labels,
        calibration_data=params.criterion != "magnitude",
    )


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses patterns that match nothing, schedules that do not fit the training, criteria without samples.

    Raises:
        ConfigError: the schedule does not reach its final sparsity.
        ModelError: a pattern matches no layer, or there is nothing to prune.
        DataError: no labelled training data, or no real samples for obd or obs.
    """
    _targets(model, params)
    if params.epochs:
        training_set(params, context, step="prune")
        if params.gradual:
            _plan(params, context)
    if params.criterion != "magnitude":
        _samples(params, context)


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Prunes a model in place, then re-estimates batch-norm statistics and holds every kernel to its zeros.

    Raises:
        ConfigError, ModelError, DataError: as `check`, or as `finetune`.
    """
    kernels, selection, notes = _targets(model, params)
    seed = context.seed if params.seed is None else params.seed
    if params.gradual and params.epochs:
        notes += _while_training(model, kernels, selection, params, context)
    else:
        notes += _in_rounds(model, kernels, selection, params, context, seed)
    magnitude.settle(kernels, params.final_sparsity, selection)
    notes += batchnorm.reestimate_from(model, context, seed=seed)
    selection.check(kernels, params.final_sparsity)
    return Applied(model=model, notes=(*notes, _summary(model, kernels)))


def _targets(model: KerasModel, params: Params) -> tuple[tuple[Kernel, ...], Selection, tuple[str, ...]]:
    """The kernels to prune, how, and a note on those that are left."""
    chosen = select(prunable_kernels(model), params.include, params.exclude)
    found = layouts(model, chosen)
    left = {kernel.name: _why_not(found[kernel.name], params) for kernel in chosen}
    kernels = tuple(kernel for kernel in chosen if not left[kernel.name])
    told = "; ".join(f"{name} ({why})" for name, why in left.items() if why)
    if not kernels:
        raise ModelError(
            f"No layer can be pruned by {params.criterion} with granularity {params.granularity}: {told}.",
            next_step="Take `criterion: magnitude` with `granularity: element`, or other layers.",
        )
    selection = Selection(
        layouts=found, pattern=params.pattern, scope=params.scope, adaptive=params.criterion == "magnitude"
    )
    return kernels, selection, (f"left dense: {told}",) if told else ()


def _why_not(layout: Layout, params: Params) -> str:
    pattern = params.pattern
    taps, inputs, outputs = layout.matrices(np.empty(layout.shape, np.bool_)).shape
    if isinstance(pattern, NOfM):
        if not layout.sums:
            return "it is looked up, not summed over"
        if inputs <= pattern.n:
            return f"it has {inputs} input channel{'' if inputs == 1 else 's'}"
    if isinstance(pattern, Blocks) and taps == 1 and inputs <= pattern.rows and outputs <= pattern.columns:
        return f"its {inputs} x {outputs} weights are one block"
    return moments.why_not(layout) if params.criterion == "obs" else ""


def _plan(params: Params, context: Context) -> schedules.SchedulePlan:
    train = training_set(params, context, step="prune")
    seed = context.seed if params.seed is None else params.seed
    per_epoch = steps_per_epoch(params, len(split(params, len(train), seed).train))
    return schedules.plan_schedule(
        kind="polynomial" if params.schedule == "polynomial" else "constant",
        initial_sparsity=params.initial_sparsity,
        final_sparsity=params.final_sparsity,
        begin_step=params.begin_step,
        end_step=params.end_step,
        frequency=params.frequency,
        power=params.power,
        total_steps=params.epochs * per_epoch,
    )


def _while_training(
    model: KerasModel, kernels: Sequence[Kernel], selection: Selection, params: Params, context: Context
) -> tuple[str, ...]:
    plan = _plan(params, context)
    pruner = magnitude.MagnitudePruner(kernels, schedules.build_schedule(plan), selection)
    names = {kernel.name for kernel in kernels}
    others = magnitude.holding([kernel for kernel in prunable_kernels(model) if kernel.name not in names])
    trained = finetune(
        model, params, context, label="prune", companions=(pruner, others), eligible_step=plan.settled_step
    )
    return (*plan.notes, *trained.notes)


def _in_rounds(
    model: KerasModel,
    kernels: Sequence[Kernel],
    selection: Selection,
    params: Params,
    context: Context,
    seed: int,
) -> tuple[str, ...]:
    """Prunes, fine-tunes, and so on; once, without or with training, where the schedule is not iterative."""
    steps: tuple[float, ...] = (params.final_sparsity,)
    if params.schedule == "iterative":
        steps = schedules.rounds_to(params.final_sparsity, params.rounds or ROUNDS)
    notes: tuple[str, ...] = ()
    for i, sparsity in enumerate(steps):
        if i and params.criterion != "magnitude":
            batchnorm.reestimate_from(model, context, seed=seed)  # those of training lag behind
        said = _zero(model, kernels, selection, sparsity, params, context, seed)
        if params.epochs:
            label = "prune" if len(steps) == 1 else f"prune-{i + 1}"
            held = magnitude.holding(prunable_kernels(model))
            said += finetune(model, params, context, label=label, companions=(held,)).notes
        ahead = "" if len(steps) == 1 else f"round {i + 1}, {sparsity:.1%}: "
        notes += tuple(f"{ahead}{text}" for text in said)
    return notes


def _zero(
    model: KerasModel,
    kernels: Sequence[Kernel],
    selection: Selection,
    sparsity: float,
    params: Params,
    context: Context,
    seed: int,
) -> tuple[str, ...]:
    """Prunes once, by the criterion."""
    notes: tuple[str, ...] = ()
    if params.criterion == "obs":
        x = _samples(params, context)
        loss = surgeon.operate(
            model, kernels, selection, sparsity, x, damping=params.damping, progress=context.progress
        )
        worst, change = loss.worst
        told = (
            f"surgery on {len(x)} samples: layers' outputs change by {loss.change:.2%} of their power "
            f"({loss.by_magnitude:.2%} by magnitude without it), most in {worst}, {change:.2%}"
        )
        return (told,)
    if params.criterion == "obd":
        x = _samples(params, context)
        likelihood, notes = _likelihood(model, params, context)
        scores = fisher.saliencies(model, kernels, x, likelihood, seed=seed, progress=context.progress)
        notes += (f"second derivatives on {len(x)} samples, outputs taken as {likelihood}",)
    else:
        scores = {kernel.name: np.abs(kernel.value()) for kernel in kernels}
    for name, mask in selection.masks(scores, sparsity).items():
        kernel = next(each for each in kernels if each.name == name)
        weights = kernel.value()
        kernel.assign(np.where(mask, weights, np.zeros((), weights.dtype)))
    return notes


def _samples(params: Params, context: Context) -> NDArray[Any]:
    """Real samples, the calibration set's where there is one; the same ones for the same seed."""
    real = [each for each in (context.calibration, context.train) if each is not None and not each.synthetic]
    if not real:
        raise DataError(
            f"{params.criterion} looks at what real samples do in the network, and there are none.",
            next_step="Give `data.calibration` (labels are not needed), or take `criterion: magnitude`.",
        )
    seed = context.seed if params.seed is None else params.seed
    order = np.random.default_rng([seed, 4]).permutation(len(real[0]))[: params.saliency_samples]
    return np.asarray(real[0].x[np.sort(order)])


def _likelihood(model: KerasModel, params: Params, context: Context) -> tuple[fisher.Likelihood, tuple[str, ...]]:
    """What the outputs mean, by the loss and the last activation."""
    if len(model.outputs) != 1:
        return "squared error", (f"the model has {len(model.outputs)} outputs: their squared change is the loss",)
    activation = losses.last_activation(model)
    loss = params.loss
    if loss == "auto" and activation not in ("softmax", "sigmoid"):
        if context.train is None or context.train.y is None:
            return "squared error", (
                "the outputs are taken for numbers, for there are no labels; where they are logits, name the loss",
            )
        loss = losses.choose_loss(model, "auto", context.train.y, context.root).text.split()[0]
    if loss in ("sparse_categorical_crossentropy", "categorical_crossentropy") or activation == "softmax":
        return "softmax" if activation == "softmax" else "logits", ()
    if loss == "binary_crossentropy" or activation == "sigmoid":
        return "sigmoid" if activation == "sigmoid" else "binary logits", ()
    return "squared error", ()


def _summary(model: KerasModel, kernels: Sequence[Kernel]) -> str:
    counts = masks.zero_counts(model)
    pruned = masks.sparsity({kernel.name: counts[kernel.name] for kernel in kernels})
    return f"{pruned:.1%} zeros in {len(kernels)} of {len(counts)} prunable kernels"
