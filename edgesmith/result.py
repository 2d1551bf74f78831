"""`result.json`, schema version 1: the one document every report is made from, and others read.

A figure that could not be had is null with a sibling `<name>_reason`. Names are fixed: they only grow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgesmith.errors import InputError
from edgesmith.files import write_text
from edgesmith.types import Rung, Validity, Verdict

SCHEMA_VERSION: Literal[1] = 1


class Record(BaseModel):
    """Base: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FindingRecord(Record):
    """See `edgesmith.types.Finding`."""

    severity: Literal["error", "warning", "info"]
    code: str
    text: str
    next_step: str = ""


class DeviationRecord(Record):
    """Where an artifact does not follow the quantization plan, tensor by tensor."""

    layer: str
    tensor: str
    what: str
    why: str


class ArtifactRecord(Record):
    """The compiled file; `path` is relative to the run folder."""

    path: str
    format: str
    precision: str
    sha256: str
    size_bytes: int
    gzip_bytes: int
    sparsity: float | None = Field(description="Zeros / weights in the kernels, read back from the file.")
    sparsity_reason: str | None = None
    signature_inputs: tuple[str, ...] = ()
    signature_outputs: tuple[str, ...] = ()
    toolchain: dict[str, str] = {}
    deviations: tuple[DeviationRecord, ...] = Field(
        default=(), description="From the quantization plan; the runtime's own rules."
    )
    build: dict[str, Any] = Field(
        default={}, description="How the board is asked to build and run it; empty where it runs the file as it is."
    )


class LatencyRecord(Record):
    """Milliseconds for inputs in, invoke, outputs out. A percentile the sample count cannot support is null."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    n: int
    p95_low: float | None = Field(default=None, description="95 % interval of p95, by order statistics.")
    p95_high: float | None = None
    p95_high_reason: str | None = None
    p50_low: float | None = None
    p50_high: float | None = None
    mean: float | None = None
    p99_reason: str | None = None
    p95_reason: str | None = None
    p90_reason: str | None = None
    p50_reason: str | None = None
    samples_path: str | None = Field(default=None, description="Raw nanoseconds, .npy, relative to the run folder.")


class AccuracyRecord(Record):
    """The task metric from the board's own outputs, with its 95 % interval."""

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    higher_is_better: bool = True


class EnvironmentRecord(Record):
    """The board's state at one moment."""

    taken_at: str
    load_1m: float | None
    governor: str | None
    clock_khz: int | None
    temperature_c: float | None
    throttled: str | None
    memory_available_bytes: int | None
    throttling: tuple[str, ...] = Field(default=(), description="What held clocks down because of heat just then.")
    over_current: dict[str, int] | None = Field(default=None, description="Events since the board started; a Jetson's.")
    gpu_clock_khz: int | None = None
    power_mode: str | None = Field(default=None, description="Of a Jetson, by nvpmodel's name.")


class BoardRecord(Record):
    """What the agent found on the board."""

    machine: str
    system: str
    kernel: str
    python: str
    numpy: str | None
    model: str | None
    cpu: str | None
    cores: int
    memory_bytes: int | None
    runtimes: dict[str, str]
    emulated: bool
    agent_sha256: str
    runners: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    fake: bool = False
    power_mode: str | None = Field(default=None, description="The one it was found in, before any was set.")


class RailRecord(Record):
    """One power rail while an artifact was timed."""

    name: str
    mean_mw: float
    max_mw: float


class PowerRecord(Record):
    """What the board took while an artifact was timed. Idle power is part of all figures."""

    mean_mw: float
    max_mw: float
    rate_hz: float = Field(description="Reads a second.")
    statement: str = Field(description="What the rate makes uncertain; empty where it is enough.")
    covers: str = Field(description="What the figures are the total of.")
    source: str = Field(description='The chips that were read, or "tegrastats".')
    rails: tuple[RailRecord, ...] = Field(default=(), description="Those that make up the total.")


class PowerModeRecord(Record):
    """What the board was put into for the measurement, or was in anyway."""

    mode: str | None = Field(description="By nvpmodel's name.")
    mode_before: str | None
    clocks_locked: bool = Field(description="No clock of CPU and GPU could move.")
    loose: tuple[str, ...] = Field(default=(), description="Clocks that could, though they were to be held still.")
    restored: bool | None = Field(description="Whether it is as before; null where nothing was changed.")


class EnginePartRecord(Record):
    """One part of a run, on the board's own GPU clock."""

    p50_ms: float
    p95_ms: float


class EnginePartsRecord(Record):
    """Where the time of a run goes. Taken in runs of their own, after those that are judged."""

    to_device: EnginePartRecord
    compute: EnginePartRecord
    to_host: EnginePartRecord
    runs: int
    sum_p50_ms: float | None = Field(default=None, description="Of the three together, run by run.")


class EngineLayerRecord(Record):
    """One layer of an engine; each was waited for, so their sum is no latency."""

    name: str
    kind: str | None
    precision: str | None
    time_ms: float | None
    sources: tuple[str, ...] = Field(description="ONNX nodes that it was made of; empty where unknown.")
    is_range: bool = Field(description="`sources` are the ends of a piece of the graph.")


class TrtexecRecord(Record):
    """The same engine timed by NVIDIA's trtexec on the same board."""

    tool: str
    version: str = Field(description="Of its TensorRT.")
    p50_ms: float = Field(
        description="Of trtexec's latency: inputs to the GPU, computing and outputs back, each by the GPU's clock."
    )
    p95_ms: float
    to_device_p50_ms: float
    compute_p50_ms: float
    to_host_p50_ms: float
    runs: int
    ours_p50_ms: float | None = Field(
        description="The same sum of our own runs, what trtexec's p50 is to be held against; null where there is none."
    )
    difference: tuple[str, ...] = Field(description="What differs in what is measured.")
    notes: tuple[str, ...] = ()


class EngineRecord(Record):
    """What the board built from the artifact, and ran."""

    key: str = Field(description="Names it in the board's cache: a hash of everything it is valid for.")
    sha256: str
    size_bytes: int
    cached: bool = Field(description="The board had it already.")
    because: str = Field(description="Why it was built; empty where it was there.")
    seconds: float = Field(description="That its build took, now or then.")
    tensorrt: str
    cuda: str
    compute: str = Field(description="Compute capability of the GPU.")
    gpu: str
    precision: tuple[str, ...] = Field(description="What the builder was allowed beside float32.")
    layer_count: int | None
    layer_precisions: dict[str, int] = Field(description="How many layers compute in each, where the board tells.")
    device_memory_bytes: int | None
    notes: tuple[str, ...] = Field(description="What was asked for and not done; how memory was made do with.")
    fake: bool = Field(description="It is of a FAKE TensorRT, which runs on the CPU.")
    parts: EnginePartsRecord | None = None
    layers: tuple[EngineLayerRecord, ...] = Field(default=(), description="The slowest ones first.")
    profile_reason: str | None = Field(default=None, description="Why parts and layers are missing.")
    builder: str | None = Field(
        default=None, description="The program that built and ran it, where TensorRT's Python binding did not."
    )
    trtexec: TrtexecRecord | None = None
    trtexec_reason: str | None = Field(default=None, description="Why `trtexec` is missing.")


Variant = Literal["float", "compressed", "uniform"]
"""What an artifact was made of: the float model, what the recipe made of it, or the same with none of the layers in
float32 that the accuracy search kept: measured for what they cost, never judged."""


class FloatLayersRecord(Record):
    """What the layers that the search kept in float32 cost on one board, and what they buy.

    Against the same model without these exceptions (variant "uniform"), on the same board in the same lease.
    """

    cost_ms: float | None = Field(description="p50 with them less p50 without; below zero they make it faster.")
    cost_ms_reason: str | None = None
    ratio: float | None = Field(default=None, description="p50 with them / p50 without.")
    ratio_low: float | None = Field(default=None, description="From the 95 % intervals of both p50.")
    ratio_high: float | None = None
    gain_pp: float | None = Field(description="Of the task metric, that they buy; percentage points, + is better.")
    gain_pp_reason: str | None = None
    gain_low_pp: float | None = Field(default=None, description="95 % interval, both asked the same samples.")
    gain_high_pp: float | None = None
    uniform_verdict: Verdict | None = Field(
        default=None, description="What the budget says of the artifact without them; null where none is set."
    )


class DeviceResult(Record):
    """One artifact on one device."""

    device: str
    emulated: bool | None = Field(description="Null where the board was never reached.")
    fake: bool = Field(default=False, description="A scripted board: its figures are made up, for trying gates out.")
    target: str
    variant: Variant
    artifact: ArtifactRecord | None
    artifact_reason: str | None = None
    latency_ms: LatencyRecord | None
    latency_ms_reason: str | None = None
    accuracy: AccuracyRecord | None
    accuracy_reason: str | None = None
    accuracy_drop_pp: float | None = Field(
        default=None, description="Against the float artifact on the same board; percentage points, + is worse."
    )
    accuracy_drop_pp_reason: str | None = None
    agreement: float | None = Field(description="Top-1 agreement with the original model, from the board's outputs.")
    agreement_reason: str | None = None
    speedup_p50: float | None = Field(default=None, description="float p50 / this p50, same board, same lease.")
    speedup_p50_reason: str | None = None
    peak_rss_bytes: int | None
    peak_rss_bytes_reason: str | None = None
    energy_mj: float | None = Field(
        description="Of one inference: what `power.covers` names took over the timed runs, idle power included, by "
        "their number."
    )
    energy_mj_reason: str | None = None
    power: PowerRecord | None = Field(default=None, description="Null where `energy_mj` is, for the same reason.")
    power_mode: PowerModeRecord | None = Field(default=None, description="Null where the board has no power modes.")
    engine: EngineRecord | None = Field(default=None, description="Null where the board runs the artifact as it is.")
    validity: Validity
    validity_reasons: tuple[str, ...] = ()
    verdict: Verdict
    findings: tuple[FindingRecord, ...] = ()
    outputs_sha256: str | None = None
    runner: str | None = None
    threads: int | None = None
    timer_overhead_ns: int | None = None
    board: BoardRecord | None = None
    environment_before: EnvironmentRecord | None = None
    environment_after: EnvironmentRecord | None = None
    measured_at: str | None = None
    reused: bool = Field(default=False, description="Taken from an earlier, identical measurement, not measured now.")
    float_layers: FloatLayersRecord | None = Field(
        default=None, description="Of a compressed artifact, where the search kept layers in float32."
    )


class StepRecord(Record):
    """One step of the recipe: the report is an ablation. The first is the original model."""

    name: str
    params: dict[str, Any]
    seconds: float
    cached: bool
    size_bytes: int | None
    size_bytes_reason: str | None = None
    gzip_bytes: int | None
    gzip_bytes_reason: str | None = None
    packed_bytes: int | None = Field(default=None, description="Of the file that `edgesmith pack` writes.")
    packed_bytes_reason: str | None = None
    macs: int | None
    macs_reason: str | None = None
    parameters: int | None
    parameters_reason: str | None = None
    nonzero_parameters: int | None = None
    sparsity: float | None = None
    sparsity_reason: str | None = None
    accuracy: AccuracyRecord | None = Field(description="On the host, before compiling.")
    accuracy_reason: str | None = None
    agreement: float | None
    agreement_reason: str | None = None
    notes: tuple[str, ...] = ()


class DataRecord(Record):
    """One sample set."""

    role: Literal["train", "calibration", "evaluation"]
    source: str
    n: int
    sha256: str
    synthetic: bool


class LeaseHolderRecord(Record):
    """Who had a board before."""

    kind: Literal["run", "hold"]
    owner: str
    run_id: str
    held_s: float


class LeaseRecord(Record):
    """A board that was held for this run while it was measured."""

    device: str
    owner: str
    run_id: str
    waited_s: float
    taken_over: LeaseHolderRecord | None = Field(description="Whose lapsed lease was taken over; null where none was.")


class RecoveryRecord(Record):
    """One thing that was done about a board that failed: each at most once for a board in a run."""

    device: str
    rung: Rung
    reason: str = Field(description="The failure that made it necessary.")
    outcome: str = Field(description='"helped", "did not help", "not possible: ...", or until when a quarantine lasts.')
    seconds: float = Field(description="Until the board answered again, or it was known that it does not.")


class ParityDevice(Record):
    """How one board's answers differ from the reference's."""

    device: str
    identical: bool
    different: int = Field(description="Elements that are not equal.")
    max_abs_diff: float | None = Field(description="In `unit`, over all elements.")
    max_abs_diff_reason: str | None = None
    unit: Literal["LSB", "absolute"] = Field(description='"LSB": steps of the quantized output.')


class ParityRecord(Record):
    """Whether one artifact answers the same wherever it ran: raw outputs, element by element."""

    artifact_sha256: str
    target: str
    variant: Variant
    reference: str | None = Field(
        description="The first board that is not emulated; null where no other ran the artifact: then it is what this "
        "machine answered when it checked the artifact."
    )
    samples: int
    elements: int = Field(description="Of all outputs, for all samples.")
    devices: tuple[ParityDevice, ...]


class Work(Record):
    """What this run really did; an unchanged re-run shows zeros."""

    trained_steps: int = 0
    compiled_artifacts: int = 0
    bytes_sent: int = 0
    measurements: int = 0
    reused: tuple[str, ...] = Field(default=(), description="What was taken from the cache.")


class LayerQuantization(Record):
    """What quantizing one of the user's layers costs, and what was decided."""

    layer: str
    kinds: tuple[str, ...] = Field(description="ONNX op types of its ops that compute.")
    precision: Literal["int8", "int16", "int4", "float32"]
    reason: str = Field(default="", description="Why it is not of the scheme's own precision.")
    alone_db: float | None = Field(description="SQNR of the network's outputs with only this layer quantized.")
    alone_db_reason: str | None = None
    tensor_db: float | None = Field(default=None, description="SQNR of the layer's own output in the same network.")
    drop_pp: float | None = Field(default=None, description="Task metric lost with only this layer quantized.")
    drop_low_pp: float | None = None
    drop_high_pp: float | None = None


class CalibrationPoint(Record):
    """How far the ranges seen after some samples are from those of all of them."""

    samples: int
    distance: float = Field(description="Largest relative distance of the ranges, over 95 % of the tensors.")


class SearchRecord(Record):
    """The search for the layers to keep in float32."""

    budget_pp: float
    met: bool
    drop_pp: float = Field(description="Of the plan it ended in, on the tuning samples.")
    drop_low_pp: float | None = None
    drop_high_pp: float | None = None
    over_pp: float
    full_drop_pp: float | None = Field(default=None, description="With nothing kept in float32.")
    trials: int
    stopped: Literal["finished", "trials", "time"]
    metric: str
    samples: int
    source: str = Field(description="Which samples it was decided on; never those of the evaluation.")
    kept: tuple[str, ...] = Field(default=(), description="The layers it kept in float32, in the order of computing.")


class QuantizationRecord(Record):
    """The one plan that every target's artifact follows."""

    scheme: str
    chosen: str = Field(default="", description="The variant of the plan with the smallest error on held-out samples.")
    variants: tuple[dict[str, float | str | None], ...] = ()
    repairs: tuple[str, ...] = ()
    layers: tuple[LayerQuantization, ...] = ()
    kept_float: tuple[str, ...] = ()
    search: SearchRecord | None = None
    search_reason: str | None = None
    calibration_samples: int
    calibration_curve: tuple[CalibrationPoint, ...] = ()
    enough_samples: int | None = Field(default=None, description="From so many samples on, the ranges hardly moved.")
    enough_samples_reason: str | None = None
    seconds: float
    cached: bool


GateOutcome = Literal[
    "PASS",
    "IMPROVEMENT",
    "REGRESSION",
    "INCONCLUSIVE",
    "ENVIRONMENT CHANGED",
    "NO BASELINE",
    "MISSING",
    "NEWLY FAILING",
]
"""What became of something that was accepted."""


class GateCheckRecord(Record):
    """One figure against the accepted one."""

    what: Literal["latency", "size", "accuracy", "agreement"]
    outcome: GateOutcome
    text: str


class GateRecord(Record):
    """One artifact on one device against its baseline; `edgesmith gate`."""

    device: str
    target: str
    baseline: str | None = Field(description="Its file, relative to the folder of baselines; null where there is none.")
    outcome: GateOutcome
    text: str
    next_step: str = ""
    checks: tuple[GateCheckRecord, ...] = ()


class Result(Record):
    """The whole document."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    state: Literal["running", "finished", "interrupted", "failed"]
    verdict: Verdict | None
    verdict_reason: str | None = None
    exit_code: int | None
    started_at: str
    finished_at: str | None = None
    config_sha256: str
    config_path: str
    model: str = Field(description="Where the model came from.")
    model_sha256: str | None = None
    toolchain: dict[str, str]
    recipe: tuple[dict[str, dict[str, Any]], ...] = ()
    budget: dict[str, float | int | None] = {}
    measure: dict[str, float | int | bool | str] = Field(
        default={}, description="How it was measured, as configured; see Measure."
    )
    data: tuple[DataRecord, ...] = ()
    results: tuple[DeviceResult, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    quantization: QuantizationRecord | None = Field(
        default=None, description="Null where nothing was quantized, or each runtime's own quantizer did it."
    )
    findings: tuple[FindingRecord, ...] = ()
    parity: tuple[ParityRecord, ...] = ()
    work: Work = Work()
    leases: tuple[LeaseRecord, ...] = ()
    recovery: tuple[RecoveryRecord, ...] = ()
    gate: tuple[GateRecord, ...] = Field(default=(), description="Against what was accepted; empty for `run`.")

    def write(self, path: Path) -> None:
        """Writes the document crash-safely."""
        write_text(path, self.model_dump_json(indent=2) + "\n")


def read_result(path: Path) -> Result:
    """Reads a `result.json`.

    Raises:
        InputError: not there, or not of this schema.
    """
    try:
        return Result.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such result.", next_step="`edgesmith run` writes one; RUN is its folder."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: not a result of schema version {SCHEMA_VERSION}: {where}: {first['msg']}.") from None


def result_schema() -> dict[str, Any]:
    """The JSON schema of `result.json`, as published in docs/result.schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Result.model_json_schema(mode="serialization")}
