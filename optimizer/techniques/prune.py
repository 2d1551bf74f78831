"""`prune`: zeros by magnitude while fine-tuning, on the schedules of TF-MOT.

Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv:1710.01878.
Zeros shrink the file after compression; they do not shorten the latency on a CPU with dense kernels.

Every prunable layer is pruned, the first and the last one too, as `tfmot.sparsity.keras.prune_low_magnitude` does on a
whole model. Where the classifier or the stem suffers, name it in `exclude`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from optimizer import batchnorm, magnitude, masks, schedules
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.finetune import TrainingParams, finetune, labelled, split, steps_per_epoch
from optimizer.kernels import Kernel, prunable_kernels, select

SUMMARY = "zeros the smallest weights of each layer while fine-tuning (smaller file, same latency)"
STAGE = Stage.SPARSIFY
COMPILE_TIME = False
MAKES = frozenset({Property.ZEROS})
PRESERVES = frozenset({Property.ZEROS})


class Params(TrainingParams):
    """How much, when and where."""

    schedule: Literal["polynomial", "constant"] = Field(
        default="polynomial", description="polynomial ramps up to final_sparsity; constant starts with it."
    )
    initial_sparsity: float = Field(default=0.0, ge=0, lt=1, description="Where a polynomial schedule starts.")
    final_sparsity: float = Field(default=0.5, gt=0, lt=1, description="Share of zeros in every pruned kernel.")
    begin_step: int | None = Field(default=None, ge=0, description="First step that prunes; default 0.")
    end_step: int | None = Field(
        default=None,
        ge=1,
        description="Last step that prunes; default: after 3/4 of training (polynomial), or never (constant).",
    )
    frequency: int | None = Field(
        default=None, ge=1, description="Renew the masks every so many steps; default: some fifty times in all."
    )
    power: float = Field(default=3.0, gt=0, description="Exponent of the polynomial schedule.")
    include: tuple[str, ...] = Field(default=(), description="Layer names or patterns (* ?); default: all prunable.")
    exclude: tuple[str, ...] = Field(default=(), description="Layer names or patterns to leave dense.")

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if self.schedule == "constant":
            if "initial_sparsity" in self.model_fields_set and self.initial_sparsity != 0:
                raise ValueError("a constant schedule has no initial_sparsity; take `schedule: polynomial`")
        elif self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity} is above final_sparsity {self.final_sparsity}: "
                f"zeros are not given back"
            )
        if self.begin_step is not None and self.end_step is not None and self.begin_step >= self.end_step:
            raise ValueError(f"begin_step {self.begin_step} must come before end_step {self.end_step}")
        return self


def needs(params: Params) -> Needs:
    """Training data with labels, unless it prunes in one shot."""
    return Needs(keras=True, training_data=params.epochs > 0, labels=params.epochs > 0)


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses patterns that match nothing and schedules that do not fit the training.

    Raises:
        ConfigError: the schedule does not reach its final sparsity.
        ModelError: a pattern matches no layer, or there is nothing to prune.
        DataError: no labelled training data.
    """
    _kernels(model, params)
    if params.epochs:
        _plan(params, context)


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Prunes a model in place: in one shot with `epochs: 0`, else while fine-tuning.

    Then batch-norm statistics are re-estimated, and every kernel is held to its count of zeros.

    Raises:
        ConfigError, ModelError, DataError: as `check`, or as `finetune`.
    """
    kernels = _kernels(model, params)
    seed = context.seed if params.seed is None else params.seed
    notes: tuple[str, ...] = ()
    if params.epochs:
        plan = _plan(params, context)
        pruner = magnitude.MagnitudePruner(kernels, schedules.build_schedule(plan))
        trained = finetune(model, params, context, label="prune", companions=(pruner,), eligible_step=plan.settled_step)
        notes = (*plan.notes, *trained.notes)
    magnitude.settle(kernels, params.final_sparsity)
    notes += batchnorm.reestimate_from(model, context, seed=seed)
    masks.assert_sparsity(kernels, params.final_sparsity)
    return Applied(model=model, notes=(*notes, _summary(model, kernels)))


def _kernels(model: KerasModel, params: Params) -> tuple[Kernel, ...]:
    return select(prunable_kernels(model), params.include, params.exclude)


def _plan(params: Params, context: Context) -> schedules.SchedulePlan:
    train, _ = labelled(context, step="prune")
    seed = context.seed if params.seed is None else params.seed
    per_epoch = steps_per_epoch(params, len(split(params, len(train), seed).train))
    return schedules.plan_schedule(
        kind=params.schedule,
        initial_sparsity=params.initial_sparsity,
        final_sparsity=params.final_sparsity,
        begin_step=params.begin_step,
        end_step=params.end_step,
        frequency=params.frequency,
        power=params.power,
        total_steps=params.epochs * per_epoch,
    )


def _summary(model: KerasModel, kernels: tuple[Kernel, ...]) -> str:
    counts = masks.zero_counts(model)
    pruned = masks.sparsity({kernel.name: counts[kernel.name] for kernel in kernels})
    return f"{pruned:.1%} zeros in {len(kernels)} of {len(counts)} prunable kernels"
