"""`edgesmith.yaml` -> checked, frozen settings. An unknown key is an error with a suggestion and file:line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from edgesmith import yaml_lines
from edgesmith.types import MeasureProtocol, PowerRequest, Tolerance

SectionT = TypeVar("SectionT", bound=BaseModel)


class Section(BaseModel):
    """Base of every config section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(Section):
    """Where samples come from and how they are prepared.

    `source` is one of: a `.npz` with arrays `x` and (where labelled) `y`; a folder `class/name.jpg|png`;
    `package.module:function` that returns or yields `(x, y)`.
    """

    source: str
    samples: int | None = Field(default=None, ge=1, description="Take this many, spread evenly over the classes.")
    part: tuple[float, float] | None = Field(
        default=None,
        description="For one source that serves several sets: the share [from, to) of its samples, by their content.",
    )
    resize: tuple[int, int] | None = Field(default=None, description="Image folder: height, width (bilinear).")
    color: Literal["rgb", "grayscale"] | None = Field(default=None, description="Image folder; default: by the model.")
    scale: float = Field(default=1.0, description="Multiply pixels or values by this, after decoding.")
    offset: float = Field(default=0.0, description="Add this, after scaling.")

    @field_validator("part")
    @classmethod
    def _part_is_a_share(cls, part: tuple[float, float] | None) -> tuple[float, float] | None:
        if part is not None and not 0.0 <= part[0] < part[1] <= 1.0:
            raise ValueError("must be two shares, rising, from 0.0 to 1.0")
        return part


def _source(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[DataSource, BeforeValidator(_source)]


class Data(Section):
    """The three sets. `train` is only needed where a step fine-tunes."""

    train: Source | None = None
    calibration: Source | None = None
    evaluation: Source


class Task(Section):
    """What accuracy means."""

    metric: str = Field(default="top1", description="top1, top5, mae, agreement, or package.module:function")


class Budget(Section):
    """The bar a compressed model has to pass. A ratio is against the float model on the same board, same lease."""

    latency_p50_ms: float | None = Field(default=None, gt=0)
    latency_p95_ms: float | None = Field(default=None, gt=0)
    latency_p50_ratio: float | None = Field(default=None, gt=0)
    latency_p95_ratio: float | None = Field(default=None, gt=0)
    accuracy_min: float | None = None
    accuracy_drop_pp: float | None = Field(default=None, ge=0, description="Percentage points lost, at most.")
    agreement_min: float | None = Field(default=None, ge=0, le=1)
    size_bytes: int | None = Field(default=None, gt=0)
    size_ratio: float | None = Field(default=None, gt=0)
    peak_rss_bytes: int | None = Field(default=None, gt=0)


class Measure(Section):
    """How latency and energy are taken; see `MeasureProtocol`."""

    min_runs: int = Field(default=200, ge=10)
    min_seconds: float = Field(default=2.0, gt=0)
    windows: int = Field(default=8, ge=2)
    warmup_max_seconds: float = Field(default=10.0, gt=0)
    threads: int = Field(default=1, ge=1)
    timeout_seconds: float = Field(default=600.0, gt=0)
    power_mode: str | None = Field(
        default=None, min_length=1, description="A Jetson's, by name: set for the measurement and put back after it."
    )
    lock_clocks: bool = Field(default=False, description="A Jetson's clocks are held still meanwhile.")

    def protocol(self) -> MeasureProtocol:
        """The record that crosses to the device side."""
        power = PowerRequest(mode=self.power_mode, lock_clocks=self.lock_clocks)
        return MeasureProtocol(**self.model_dump(exclude={"power_mode", "lock_clocks"}), power=power)


class Gate(Section):
    """What counts as a change against an accepted baseline; see docs/gate.md."""

    baselines: Path = Field(default=Path("baselines"), description="Folder of the accepted figures and files.")
    lineage: str | None = Field(
        default=None, min_length=1, description="Name that versions of this model share; default: the model file's."
    )
    percentile: Literal[50, 95] = Field(default=50, description="Of the latency.")
    percent: float = Field(default=2.5, gt=0, description="A change of latency that matters, in percent ...")
    ms: float = Field(default=0.0, ge=0, description="... and in milliseconds: it has to be both.")
    confidence: float = Field(default=0.99, gt=0.5, lt=1, description="Of the interval that has to lie beyond both.")
    looks: int = Field(default=4, ge=1, description="Measurements in turns at most, before it is INCONCLUSIVE.")
    recorded_percent: float = Field(
        default=10.0, gt=0, description="Tolerance where the accepted file was not kept to be measured in turns."
    )
    accuracy_drop_pp: float = Field(default=0.5, ge=0, description="Percentage points lost against the baseline.")
    size_percent: float = Field(default=1.0, ge=0, description="How much larger the file may be.")

    def tolerance(self) -> Tolerance:
        """Of the latency, as the device side takes it."""
        return Tolerance(percent=self.percent, ms=self.ms, confidence=self.confidence, looks=self.looks)


class Verify(Section):
    """How far a compiled artifact may be from the Keras or ONNX model; None = the default for its precision."""

    samples: int = Field(default=64, ge=1)
    min_sqnr_db: float | None = None
    min_cosine: float | None = None


class TensorRt(Section):
    """How Jetsons build and run their engines; what is left out is decided by the file and the board."""

    opset: int | None = Field(
        default=None, ge=13, description="ONNX operator set of the files, at most; default: the newest the board reads."
    )
    dla_core: int | None = Field(
        default=None,
        ge=0,
        description="Deep learning accelerator that float16 and int8 files run on; what it lacks, the GPU computes.",
    )
    cuda_graph: bool = Field(default=False, description="A run is recorded once and then launched as a whole.")
    cuda: Literal["auto", "ctypes", "pycuda", "cuda-bindings"] = Field(
        default="auto", description="What calls CUDA on the board."
    )
    workspace_bytes: int | None = Field(
        default=None, ge=1 << 20, description="Memory for kernels; default: by what the board has free."
    )
    optimization_level: int | None = Field(
        default=None, ge=0, le=5, description="How long kernels are searched, from TensorRT 8.6 on; default: its own."
    )
    version_compatible: bool = Field(
        default=False, description="The engine runs on later versions of TensorRT, too; from 8.6 on, and slower."
    )
    sparsity: Literal["auto", "never"] = Field(
        default="auto", description="auto: kernels for two zeros in every four weights, where file and GPU have them."
    )
    trtexec: Literal["auto", "never", "only"] = Field(
        default="auto", description="NVIDIA's own tool beside our runner, where the board has it; only: alone."
    )
    build_timeout_seconds: float = Field(default=3600.0, gt=0, description="For each engine.")

    @field_validator("cuda", mode="before")
    @classmethod
    def _package_is_its_name(cls, name: object) -> object:
        return "cuda-bindings" if name == "cuda.bindings" else name

    def options(self) -> dict[str, Any]:
        """What the board's builder and runner are asked for, as plain JSON: only what differs from the defaults."""
        asked = self.model_dump(exclude={"opset"}, exclude_defaults=True)
        return {**asked, "sparsity": False} if self.sparsity == "never" else asked


def _mapping_step(value: object) -> object:
    """`- prune` alone means `- prune: {}`."""
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict):
        return {key: {} if params is None else params for key, params in value.items()}
    return value


def _named_recipe(value: object) -> object:
    """`recipe: balanced` means a list with that step alone; what it stands for is known to the optimizer."""
    return [value] if isinstance(value, str) else value


RecipeStep = Annotated[dict[str, dict[str, Any]], BeforeValidator(_mapping_step)]


class Config(Section):
    """The whole file."""

    model: Path
    reference: Path | None = Field(
        default=None, description="Beside a ready model (a .tflite or .onnx without recipe): its float version."
    )
    data: Data
    task: Task = Task()
    recipe: Annotated[tuple[RecipeStep, ...], BeforeValidator(_named_recipe)] = Field(
        default=(), description="Steps in their order, or the name of a ready recipe."
    )
    targets: tuple[str, ...] = Field(default=(), description="Default: every target that the model and board allow.")
    devices: tuple[str, ...] = Field(default=("local",), min_length=1)
    budget: Budget = Budget()
    measure: Measure = Measure()
    gate: Gate = Gate()
    verify: Verify = Verify()
    tensorrt: TensorRt = TensorRt()
    seed: int = 0
    allow_lambda: bool = Field(default=False, description="Keras Lambda layers run code of the file: only if trusted.")

    @field_validator("recipe")
    @classmethod
    def _one_name_per_step(cls, steps: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for index, step in enumerate(steps):
            if len(step) != 1:
                raise ValueError(f"step {index + 1} must have exactly one name, it has {sorted(step) or 'none'}")
        return steps


class LoadedConfig:
    """A config with the file it came from: paths resolved against it, lines known for messages.

    Attributes:
        config: the checked settings, as written (paths not resolved).
        path: the file.
        root: its folder; relative paths mean this.
    """

    def __init__(self, config: Config, path: Path, document: yaml_lines.Document) -> None:
        self.config = config
        self.path = path
        self.root = path.resolve().parent
        self._document = document

    def resolve(self, path: str | Path) -> Path:
        """A path of the config as seen from here."""
        return self.root / Path(path).expanduser()

    def measured_in(self, power_mode: str | None, *, lock_clocks: bool) -> LoadedConfig:
        """The same with another power mode, where one is given, and with clocks held still, where that is asked."""
        measure = self.config.measure
        changed = measure.model_copy(
            update={
                "power_mode": measure.power_mode if power_mode is None else power_mode,
                "lock_clocks": measure.lock_clocks or lock_clocks,
            }
        )
        return LoadedConfig(self.config.model_copy(update={"measure": changed}), self.path, self._document)

    def where(self, *keys: str | int) -> str:
        """`file:line` of a key, for messages."""
        return self._document.where(keys)

    def check(self, section: type[SectionT], value: object, at: Sequence[str | int]) -> SectionT:
        """Validates a part of the config whose keys are known only now, such as a step's parameters.

        Args:
            section: its schema.
            value: what the config holds there.
            at: the keys that lead there, for messages.

        Raises:
            ConfigError: every problem, one a line, each with file:line.
        """
        return self._document.check(section, value, at)


def load_config(path: Path) -> LoadedConfig:
    """Reads and checks a config file.

    Raises:
        ConfigError: not found, not YAML, an unknown key, a wrong type; names file, line and key.
    """
    document = yaml_lines.read(path, what="config", hint="`edgesmith init MODEL DATA` writes one.")
    return LoadedConfig(document.check(Config), path, document)
