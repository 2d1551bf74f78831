"""`distill`: another, smaller network learns to answer as the original one does.

Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2. The student is the
user's own, or the original graph with fewer channels. It needs no labels.

This step replaces the network. Every other step that fine-tunes can learn from the original model, too: it has a
parameter of the same name.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from edgesmith.errors import ConfigError, ModelError
from optimizer import batchnorm
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.distillation.derived import Derived, Init, derive
from optimizer.distillation.lesson import check_outputs
from optimizer.distillation.settings import Distill
from optimizer.distillation.taps import output_of
from optimizer.finetune import TrainingParams, finetune, training_needs, training_set
from optimizer.load import load_model, open_keras

SUMMARY = "trains a narrower network, or one of your own, to answer as the original does (smaller and faster)"
STAGE = Stage.STRUCTURE
COMPILE_TIME = False
MAKES: frozenset[Property] = frozenset()
PRESERVES: frozenset[Property] = frozenset()


class Params(TrainingParams):
    """Who learns, and how."""

    student: str | None = Field(
        default=None, description="Keras file of a network with the same inputs and outputs, trained or not."
    )
    width: float | None = Field(
        default=None, gt=0, lt=1, description="Share of the original's channels; 0.5 where there is no `student`."
    )
    init: Init = Field(
        default="inherit",
        description="Of a student by `width`: inherit the weights of its strongest channels, or fresh ones.",
    )
    epochs: int = Field(default=10, ge=0, description="Passes over the training data; 0 = none.")
    learning_rate: float = Field(default=1e-3, gt=0, description="At the start.")
    distill: Distill | None = Field(
        default=Distill(), description="How it learns from the original model; null: from labels alone, to compare."
    )

    @model_validator(mode="before")
    @classmethod
    def _half_as_wide(cls, given: Any) -> Any:
        nobody = isinstance(given, dict) and given.get("student") is None and given.get("width") is None
        return {**given, "width": 0.5} if nobody else given

    @model_validator(mode="after")
    def _one_student(self) -> Params:
        if self.student is not None and self.width is not None:
            raise ValueError("give either `student: path.keras` or `width`, such as 0.5")
        if self.student is not None and "init" in self.model_fields_set:
            raise ValueError("a `student` of your own has its weights; `init` goes with `width`")
        if self.init == "fresh" and self.epochs == 0:
            raise ValueError("fresh weights that are not trained answer nothing; give epochs, or `init: inherit`")
        return self


def needs(params: Params) -> Needs:
    """Training data; labels only where there is no teacher."""
    return training_needs(params)


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses a student that does not fit, and layers that cannot be matched.

    Raises:
        ConfigError: the student's file is not there.
        ModelError: it cannot be read, has other inputs or outputs, or the original cannot be made narrower.
        DataError: no training data.
    """
    student = _student(model, params, context).model
    check_outputs(student, model)
    for mine, other in params.distill.pairs() if params.distill is not None else ():
        output_of(student, mine)
        output_of(model, other)
    if params.epochs:
        training_set(params, _taught(model, context), step="distill")


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Trains the student.

    Its teacher is the original model, or where the step is used alone the model it is given. Batch-norm statistics are
    re-estimated afterwards.

    Raises:
        ConfigError, ModelError, DataError: as `check`, or as `finetune`.
    """
    seed = context.seed if params.seed is None else params.seed
    derived = _student(model, params, context)
    notes = derived.notes
    if params.epochs:
        notes += finetune(derived.model, params, _taught(model, context), label="distill").notes
    return Applied(model=derived.model, notes=(*notes, *batchnorm.reestimate_from(derived.model, context, seed=seed)))


def _taught(model: KerasModel, context: Context) -> Context:
    return context if context.original is not None else replace(context, original=lambda: model)


def _student(model: KerasModel, params: Params, context: Context) -> Derived:
    if params.width is not None:
        return derive(model, params.width, params.init, context.seed if params.seed is None else params.seed)
    path = (context.root or Path()) / Path(str(params.student)).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"student: there is no {path}.", next_step="Give the path of a Keras model, as seen from the config."
        )
    with tempfile.TemporaryDirectory() as folder:  # for the normalised copy, which is read back at once
        loaded = load_model(path, workdir=Path(folder))
        if loaded.kind != "keras":
            raise ModelError(f"The student {path.name} is an ONNX model, which cannot be trained here.")
        student = open_keras(loaded)
    return Derived(student, (f"student {path.name}, {loaded.parameters or 0:,} parameters",))
