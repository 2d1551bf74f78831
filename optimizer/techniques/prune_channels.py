"""`prune_channels`: whole channels go, so that the network itself is narrower: fewer products, less memory, less time.

What only goes together is taken out together: the channels of a residual stream in every layer that adds to it, those
of a depthwise layer with the ones it reads (see `optimizer.channels.trace`). What is left is an ordinary Keras model.

Without training (`epochs: 0`) the layers that lost inputs are refitted on calibration samples. With training the model
is fine-tuned after that, in one shot or in `steps` parts, each followed by its own fine-tuning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from optimizer import batchnorm
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.channels import account, choice, compensate, surgery
from optimizer.channels.scope import Scope
from optimizer.finetune import TrainingParams, finetune, training_needs, training_set

SUMMARY = "takes whole channels out and leaves a narrower network (smaller file, shorter latency)"
STAGE = Stage.STRUCTURE
COMPILE_TIME = False
MAKES: frozenset[Property] = frozenset()
PRESERVES: frozenset[Property] = frozenset()


class Params(TrainingParams):
    """Which channels go, and how many."""

    criterion: choice.Criterion = Field(
        default="l1",
        description="How a channel is judged: l1, l2, geometric_median, bn_scale by weights; taylor, obd by gradients "
        "on data; random as a control.",
    )
    selection: Literal["global", "uniform", "per_layer"] = Field(
        default="global",
        description="global spends a budget over all layers; uniform and per_layer take a share out of each.",
    )
    budget: Literal["macs", "parameters", "latency"] = Field(
        default="macs", description="global: what is kept in bounds; latency needs a latency_table."
    )
    keep: float = Field(default=0.5, gt=0, lt=1, description="global: the most of the budget's count that is left.")
    latency_table: str = Field(default="", description="A file of latencies by widths, measured on the board.")
    share: float = Field(default=0.5, gt=0, lt=1, description="uniform: the share of each group's channels that goes.")
    per_layer: dict[str, float] = Field(
        default={}, description="per_layer: layer name or pattern (* ?) -> share of its channels that goes."
    )
    scope: Scope = Field(
        default="channels",
        description="channels: residual streams too; filters: only inside blocks, the widths between them stay.",
    )
    include: tuple[str, ...] = Field(default=(), description="Layer names or patterns (* ?); default: all that can go.")
    exclude: tuple[str, ...] = Field(default=(), description="Layer names or patterns whose channels stay.")
    round_to: int = Field(default=8, ge=1, description="Widths are multiples of this: what kernels compute together.")
    min_channels: int = Field(default=8, ge=1, description="Fewest channels that a layer keeps.")
    max_share: float = Field(default=0.9, gt=0, lt=1, description="Largest share of one group that goes.")
    repair: compensate.Repair = Field(
        default="least_squares",
        description="On calibration samples, before any training: least_squares refits the layers that lost inputs, "
        "bias only their biases, none leaves them.",
    )
    steps: int = Field(default=1, ge=1, description="Parts that it is done in, each with its own `epochs` of training.")

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        given = self.model_fields_set
        only = {"budget": "global", "keep": "global", "share": "uniform", "per_layer": "per_layer"}
        defaults = type(self).model_fields
        for key, selection in only.items():
            written = key in given and getattr(self, key) != defaults[key].default
            if written and self.selection != selection:
                raise ValueError(f"{key} belongs to `selection: {selection}`, and selection is {self.selection}")
        if self.selection == "per_layer" and not self.per_layer:
            raise ValueError("`selection: per_layer` wants per_layer: {layer pattern: share}")
        if bad := [share for share in self.per_layer.values() if not 0.0 <= share < 1.0]:
            raise ValueError(f"a share in per_layer is at least 0 and below 1, not {bad[0]}")
        if (self.selection == "global" and self.budget == "latency") != bool(self.latency_table):
            raise ValueError("`budget: latency` and latency_table come together")
        if self.steps > 1 and self.epochs == 0:
            raise ValueError("steps are parts with training between them; take `epochs` of at least 1, or one step")
        return self


def needs(params: Params) -> Needs:
    """Training data where it trains, samples for gradients; those that layers are refitted on may be missing."""
    return replace(training_needs(params), calibration_data=params.criterion in choice.BY_GRADIENTS)


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses what cannot be chosen, fitted or trained.

    Raises:
        ConfigError: the latency table cannot be read.
        ModelError: the model has no graph or no channels that can go, a pattern matches nothing, a budget cannot be
            met, or the latency table lacks a layer.
        DataError: no data to judge channels on, or no labelled data to train on.
    """
    if params.epochs:
        training_set(params, context, step="prune_channels")
    choice.Chooser(model, _wanted(params), context, seed=_seed(params, context)).check(model)


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Takes channels out, refits what is left, and trains it where asked for.

    Raises:
        ConfigError, ModelError, DataError: as `check`, or as `finetune`.
    """
    seed = _seed(params, context)
    chooser = choice.Chooser(model, _wanted(params), context, seed=seed)
    before = account.Account(model)
    notes: list[str] = []
    for step in range(1, params.steps + 1):
        chosen = chooser.choose(model, part=step / params.steps)
        narrow = surgery.without(model, chosen.channels, chosen.gone)
        notes += _repair(model, chosen, narrow, params, context, seed)
        if params.epochs:
            label = "prune_channels" if params.steps == 1 else f"prune_channels-{step}"
            notes += finetune(narrow, params, context, label=label).notes
        model = narrow
    notes += batchnorm.reestimate_from(model, context, seed=seed)
    said = (*account.notes(before, account.Account(model), chooser), *account.table_notes(chooser, model))
    return Applied(model=model, notes=(*said, *notes))


def _repair(
    model: KerasModel, chosen: choice.Chosen, narrow: KerasModel, params: Params, context: Context, seed: int
) -> tuple[str, ...]:
    if params.repair == "none" or not chosen.gone:
        return ()
    samples = next((s for s in (context.calibration, context.train) if s is not None and not s.synthetic), None)
    if samples is None:
        return ("no layer is refitted: there are no real samples to do it on",)
    done = compensate.compensate(
        model, chosen.channels, chosen.gone, narrow, samples.x, repair=params.repair, seed=seed,
        progress=context.progress,
    )  # fmt: skip
    return account.repair_notes(done, params.repair, samples)


def _wanted(params: Params) -> choice.Wanted:
    return choice.Wanted.model_validate({key: getattr(params, key) for key in choice.Wanted.model_fields})


def _seed(params: Params, context: Context) -> int:
    return context.seed if params.seed is None else params.seed
