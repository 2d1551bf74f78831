"""Models, samples, recipes and what they are compiled to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesmith.types.quant import Deviation

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dim = int | str | None
"""A dimension: a number, a symbolic name (ONNX), or None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the name the format knows it by.
        shape: with the batch dimension first; None or a name where it is dynamic.
        dtype: numpy name, e.g. "float32".
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What goes into a model and what comes out, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that was read, checked and normalised.

    Attributes:
        kind: "keras" (always Keras 3 inside) or "onnx"; "ready" is compiled already and is only measured.
        path: the normalised file: a Keras 3 `.keras`, or the `.onnx`.
        sha256: of what the user gave (the original), or of what made it (a step's key): names the content.
        signature: inputs and outputs.
        origin: where it came from, for people: "Keras 2 SavedModel models/kws".
        parameters: number of weights; None where a ready model is not opened for it.
        macs: multiply-accumulates for one sample; None where it could not be counted.
        lambdas: holds Lambda layers, code of the file, which the user allowed to run.
        quantized: what says that it is quantized already, "QLinearConv conv1"; empty for a float model.
    """

    kind: Literal["keras", "onnx", "ready"]
    path: Path
    sha256: str
    signature: Signature
    origin: str
    parameters: int | None
    macs: int | None = None
    lambdas: bool = False
    quantized: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleSet:
    """Samples, with labels where there are any.

    Attributes:
        role: what they are for.
        x: [N, ...] in the dtype the model takes.
        y: int64 [N] class indices, or float32 [N, ...] targets; None where the source has no labels.
        sha256: over dtype, shape and bytes of x and y.
        source: where they came from and how they were prepared, for the report.
        synthetic: made up by --allow-synthetic; shown in red.
        class_names: of an image folder, in index order; else empty.
    """

    role: Literal["train", "calibration", "evaluation"]
    x: NDArray[Any]
    y: NDArray[Any] | None
    sha256: str
    source: str
    synthetic: bool = False
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)


class Scheme(enum.StrEnum):
    """How numbers are stored and computed. Dynamic range is never called int8."""

    NONE = "none"
    """float32 throughout."""
    INT8 = "int8"
    """Full integer: int8 activations and per-channel weights, int8 in and out where the runtime has it."""
    INT8_FLOAT_IO = "int8-float-io"
    """Full integer inside, float32 in and out."""
    INT16X8 = "int16x8"
    """int16 activations, int8 weights: nearly float accuracy, and slow where the runtime has no kernels made for it."""
    INT4_WEIGHTS = "int4-weights"
    """int8 activations, int4 weights in the matrix products that the runtime has int4 kernels for."""
    FLOAT16 = "float16"
    """Weights stored as float16; computed in float32 or float16 as the runtime likes."""
    DYNAMIC = "dynamic"
    """int8 weights, activations quantized at run time from their own range; no calibration."""

    @property
    def needs_calibration(self) -> bool:
        """Whether ranges of activations have to be observed."""
        return self in (Scheme.INT8, Scheme.INT8_FLOAT_IO, Scheme.INT16X8, Scheme.INT4_WEIGHTS)

    @property
    def precision(self) -> str:
        """The word in a report's precision column."""
        return "float32" if self is Scheme.NONE else str(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """One step of a recipe, parameters already checked by the technique's own `Params`."""

    name: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Steps in order."""

    steps: tuple[StepSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a target can make and run. Data, so that a recipe is refused before any work.

    Attributes:
        target: its key.
        model_kinds: kinds of `Model` it compiles.
        schemes: what it can produce.
        runner: the agent's runner that executes its artifacts.
        per_isa: the artifact differs by the board's instruction set; else one serves all boards.
        per_runtime: it differs by the version of the runtime on the board and by the board's GPU.
        jetson_only: boards without the runner are none of its business, unless they are Jetsons.
        needs_plan: schemes that need calibration are made from a quantization plan and not otherwise.
        stand_in: key of the target whose runner checks an artifact on this machine, computing every node as it is
            written; empty where the artifact's own runner does.
        notes: what a user should know, one sentence each.
    """

    target: str
    model_kinds: frozenset[str]
    schemes: frozenset[Scheme]
    runner: str
    per_isa: bool = False
    per_runtime: bool = False
    jetson_only: bool = False
    needs_plan: bool = False
    stand_in: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A compiled model, ready to be pushed.

    Attributes:
        target: key of the target that made it.
        format: file format: "tflite" or "onnx".
        precision: `Scheme.precision` of what is inside.
        signature: as the runtime sees it.
        toolchain: package -> version that made it.
        made_from: sha256 of the `Model`.
        sparsity: zeros in its weight kernels / weights in them, read back from the file; None where they could not
            be read: a ready model on a board without the package for it.
        deviations: where it does not follow the plan it was made from.
        build: options for what the board still makes of it, and for its runner, as plain JSON; empty where there are
            none.
    """

    target: str
    path: Path
    format: str
    precision: str
    sha256: str
    signature: Signature
    toolchain: Mapping[str, str]
    made_from: str
    size_bytes: int
    gzip_bytes: int
    sparsity: float | None
    deviations: tuple[Deviation, ...] = ()
    build: Mapping[str, Any] = field(default_factory=dict)
