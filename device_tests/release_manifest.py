"""`manifest.json` of a release: what an application on the board needs to know, and what proves the release.

Names are fixed: they only grow. The board's agent reads `name`, `version`, `model`, `files`, `runner`, `threads`,
`build`, `engine` and `smoke`, and what it reads it checks again.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgesmith.types import TensorSpec

SCHEMA_VERSION: Literal[1] = 1
FILE = "manifest.json"


class Part(BaseModel):
    """Base: frozen, no NaN; a later edgesmith may have written more than this one knows."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FilePart(Part):
    """A file of the release, beside the manifest."""

    file: str
    sha256: str
    size_bytes: int


class QuantizationPart(Part):
    """real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int


class TensorPart(Part):
    """An input or output as the runtime sees it; null in `shape` is a free size, the batch comes first."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str
    quantization: QuantizationPart | None = None

    @classmethod
    def of(cls, spec: TensorSpec, quantization: tuple[float, int] | None) -> TensorPart:
        """The part for a tensor of a signature."""
        pair = None if quantization is None else QuantizationPart(scale=quantization[0], zero_point=quantization[1])
        return cls(name=spec.name, shape=spec.shape, dtype=spec.dtype, quantization=pair)


class PreprocessingPart(Part):
    """How the samples that the model was judged on were prepared: an application has to do the same.

    Attributes:
        text: every step that was taken, in words.
        dtype: of a sample before a quantized input's own scale and zero point; commas between several inputs.
        low, high: smallest and largest value among the smoke inputs, as a check; of several inputs one each.
        resize, color, scale, offset: as configured; None and 1, 0 where nothing was done.
    """

    text: str
    dtype: str
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    resize: tuple[int, int] | None = None
    color: str | None = None
    scale: float = 1.0
    offset: float = 0.0


class AccuracyPart(Part):
    """The task metric on this board, in the run."""

    metric: str
    value: float
    n: int


class EnginePart(Part):
    """The engine that the board built from the model; it runs on that board's GPU with that TensorRT, and no other.

    Attributes:
        file: what an application gives to TensorRT.
        key: names it among the engines that the board keeps.
        precision: what the builder was allowed beside float32.
        fake: what built it is a stand-in for TensorRT.
        is_measured: it is the very engine that the run measured, byte for byte.
        note: why it is not; empty where it is.
    """

    file: str
    key: str
    sha256: str
    size_bytes: int
    tensorrt: str
    cuda: str
    compute: str
    gpu: str
    precision: tuple[str, ...]
    fake: bool
    is_measured: bool
    note: str


class MeasuredEnginePart(Part):
    """The engine that the run measured."""

    key: str
    sha256: str
    size_bytes: int
    tensorrt: str


class MeasuredPart(Part):
    """What the run measured on this board."""

    p50_ms: float
    p95_ms: float | None
    accuracy: AccuracyPart | None
    measured_at: str | None
    runner: str | None = Field(description="Runtime and version that were measured.")
    emulated: bool
    engine: MeasuredEnginePart | None = Field(default=None, description="Null where none was built.")


class OutputPart(Part):
    """An expected output.

    Attributes:
        tolerance: largest difference allowed: in steps for integers, absolute for floats.
    """

    file: str
    tolerance: float


class SmokePart(Part):
    """The check the release has to pass before it answers."""

    inputs: str
    inputs_dtype: str
    outputs: tuple[OutputPart, ...]
    runs: int
    p50_limit_ms: float


class Manifest(Part):
    """The whole file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    version: str
    model: str = Field(description="File name of the model.")
    files: tuple[FilePart, ...]
    format: str
    precision: str
    inputs: tuple[TensorPart, ...]
    outputs: tuple[TensorPart, ...]
    runner: str
    runtime: dict[str, str] = Field(description="Package and version on the board when it was deployed.")
    threads: int
    build: dict[str, Any] = Field(default={}, description="How the board makes its engine from the model, and runs it.")
    engine: EnginePart | None = Field(default=None, description="Null where the board runs the model as it is.")
    preprocessing: PreprocessingPart
    measured: MeasuredPart
    smoke: SmokePart
    run_id: str
    device: str
    made_by: str
    deployed_at: str = Field(description="By the workstation's clock.")
    previous: str | None = Field(description="The release that was current when this one came.")

    @property
    def model_sha256(self) -> str:
        """Of the model's file."""
        return next(entry.sha256 for entry in self.files if entry.file == self.model)

    def stale_engine(self, tensorrt: str | None) -> str:
        """Why its engine does not run with the TensorRT that the board has now; empty where it does, or has none."""
        if self.engine is None or tensorrt in (None, self.engine.tensorrt) or self.build.get("version_compatible"):
            return ""
        return f"its engine is for TensorRT {self.engine.tensorrt}, {tensorrt} is there now: deploy again"

    def same_content(self, other: Manifest) -> bool:
        """Whether both would give an application the same: figures, times and the release before may differ."""
        return all(
            getattr(self, field) == getattr(other, field)
            for field in ("name", "model", "files", "format", "threads", "build", "preprocessing", "inputs", "outputs")
        )

    def content(self) -> bytes:
        """The file's bytes."""
        return (self.model_dump_json(indent=2) + "\n").encode()
