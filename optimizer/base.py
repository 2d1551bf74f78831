"""The contract of a technique: what a file in `optimizer/techniques/` has to offer."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from edgesmith.progress import Progress, Silent

if TYPE_CHECKING:
    from edgesmith.config import Section
    from edgesmith.types import SampleSet

KerasModel: TypeAlias = Any
"""A built Keras 3 model with a graph. `Any`, since keras ships no types and is imported late."""


class Stage(enum.IntEnum):
    """Where in a recipe a technique belongs. A recipe's steps never go back to a lower stage."""

    STRUCTURE = 10
    FACTORISE = 20
    SPARSIFY = 30
    CLUSTER = 40
    QUANTIZE = 50

    @property
    def reason(self) -> str:
        """Why nothing of a lower stage may come after it; ends an error text."""
        return {
            Stage.STRUCTURE: "removing channels changes the shape of every kernel around them",
            Stage.FACTORISE: "factorising replaces kernels by products of new, dense ones",
            Stage.SPARSIFY: "zeros hold only for the kernels they were made in",
            Stage.CLUSTER: "training or zeroing weights gives up the values they share",
            Stage.QUANTIZE: "integer weights come out of the compiler and cannot be trained or changed",
        }[self]


class Property(enum.StrEnum):
    """What a technique makes that a later one could destroy."""

    ZEROS = "zeros"
    SHARED_VALUES = "shared values"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a step cannot do without, given its parameters."""

    keras: bool = False
    training_data: bool = False
    labels: bool = False
    calibration_data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a step gets besides the model and its own parameters.

    Attributes:
        train: samples to fine-tune on; None where the config names none.
        calibration: representative samples; batch-norm statistics are re-estimated on them or on `train`.
        seed: of the run; a step may have its own.
        progress: where the step tells that it is alive.
        workdir: folder of this step alone; checkpoints go there and nothing else.
        root: the config's folder, where `package.module:function` is looked for first.
        original: opens the model as it was before the first step of the recipe, the teacher of a distillation; a new
            object, not to be changed. None where the step is used alone.
    """

    workdir: Path
    train: SampleSet | None = None
    calibration: SampleSet | None = None
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    root: Path | None = None
    original: Callable[[], KerasModel] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Applied:
    """What a step made.

    Attributes:
        model: the model to go on with.
        notes: what a reader of the report should know, one sentence each.
    """

    model: KerasModel
    notes: tuple[str, ...] = ()


class Technique(Protocol):
    """A module `optimizer/techniques/<name>.py`. Its file name is the key in a recipe; it is found, not registered.

    It imports no framework at module level, never writes but below `Context.workdir`, and never prints.

    Attributes:
        SUMMARY: one line for `edgesmith techniques`.
        STAGE: where it belongs in a recipe.
        COMPILE_TIME: the compilers do it; `apply` returns the model as it is.
        MAKES: what it leaves in the model that later steps have to keep.
        PRESERVES: what earlier steps made that it keeps.
        Params: its config schema; every field has a default or a description that says what to give.
        needs: what it cannot do without, for these parameters.
        check: refuses what cannot work on this model and this data, before any work is done. Seconds at most.
        apply: does it. Owns the model it is given: that object is changed and returned, or dropped.
    """

    SUMMARY: str
    STAGE: Stage
    COMPILE_TIME: bool
    MAKES: frozenset[Property]
    PRESERVES: frozenset[Property]
    Params: type[Section]
    needs: Callable[[Any], Needs]
    check: Callable[[KerasModel, Any, Context], None]
    apply: Callable[[KerasModel, Any, Context], Applied]
