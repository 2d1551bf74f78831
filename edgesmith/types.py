"""The frozen records that cross a stage border. No dict crosses one."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEASE_DIR = "auto"
"""Where a board's lease lies: the board chooses, the same for all its users (`device_tests.agent.lease_file`). In
memory: neither a full disk nor a read-only home stands in its way, and it is gone after a restart, as its owner is."""

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
    """

    kind: Literal["keras", "onnx", "ready"]
    path: Path
    sha256: str
    signature: Signature
    origin: str
    parameters: int | None
    macs: int | None = None
    lambdas: bool = False


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
    FLOAT16 = "float16"
    """Weights stored as float16; computed in float32 or float16 as the runtime likes."""
    DYNAMIC = "dynamic"
    """int8 weights, activations quantized at run time from their own range; no calibration."""

    @property
    def needs_calibration(self) -> bool:
        """Whether ranges of activations have to be observed."""
        return self in (Scheme.INT8, Scheme.INT8_FLOAT_IO)

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
        notes: what a user should know, one sentence each.
    """

    target: str
    model_kinds: frozenset[str]
    schemes: frozenset[Scheme]
    runner: str
    per_isa: bool = False
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A board as the inventory knows it. Holds no secret: keys are named by path.

    Attributes:
        name: what the user calls it; "local" is this machine.
        transport: how it is reached.
        board: profile name, or "auto".
        python: interpreter on the board.
        workdir: folder on the board, relative to the login folder or absolute; a cache, removable at any time.
        releases: folder on the board for what `deploy` puts there; stays.
        host_key: pinned fingerprint "SHA256:..."; empty = known_hosts decides.
        jump: reached by way of this host, "user@host:port", or another device of the inventory.
        power: command of this machine, as a list, that cuts and restores the board's power; empty: there is none.
        reboot: command of the board, as a list, that restarts it; empty: not allowed.
        lease_dir: absolute folder on the board where its one lease lies, the same for all who share it; or "auto".
        script: what a fake board does; None for real ones.
    """

    name: str
    transport: Literal["local", "ssh", "fake"]
    board: str = "auto"
    host: str = ""
    port: int = 22
    user: str = ""
    identity_file: Path | None = None
    known_hosts: Path | None = None
    host_key: str = ""
    python: str = "python3"
    workdir: str = ".cache/edgesmith"
    releases: str = ".local/share/edgesmith/releases"
    jump: Device | str = ""
    power: tuple[str, ...] = ()
    reboot: tuple[str, ...] = ()
    lease_dir: str = LEASE_DIR
    script: Path | None = None
    labels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """Who wants a board, and how long they would wait for it.

    Attributes:
        owner: for people: "ann@workstation".
        run_id: of the run that needs it; for people, too.
        token: secret-free random word that names this one claim: the same token may come back after a lost link.
        ttl_s: the lease lapses when nobody has renewed it for so long.
        wait_s: patience while somebody else holds the board.
    """

    owner: str
    run_id: str
    token: str
    ttl_s: float = 60.0
    wait_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """Who holds a board, as the board itself tells it. Times are by the board's own uptime, never by a wall clock.

    Attributes:
        kind: "run" for a run's lease, which needs a heartbeat; "hold" for a person's reservation, which does not.
        held_s: for how long.
        expires_in_s: until it lapses; 0.0 where it has.
    """

    kind: Literal["run", "hold"]
    owner: str
    run_id: str
    held_s: float
    expires_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A board that is ours.

    Attributes:
        taken_over: the holder whose lapsed lease was taken over; None where the board was free.
        waited_s: for the holder before us.
    """

    device: str
    owner: str
    run_id: str
    token: str
    ttl_s: float
    taken_over: LeaseHolder | None
    waited_s: float


class Rung(enum.StrEnum):
    """What is done about a board that fails, in this order, each at most once in a run."""

    RECONNECT = "reconnect"
    KILL_AGENT = "kill the stale agent"
    REBOOT = "reboot"
    POWER = "power command"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryStep:
    """One rung that was climbed.

    Attributes:
        reason: the error that made it necessary.
        outcome: "helped", "did not help", or "not possible: ..."; of a quarantine, until when.
        seconds: until the board answered again, or it was known that it does not; the work after it is not counted.
    """

    device: str
    rung: Rung
    reason: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The board's state at one moment. None: the board has no such sensor, or it could not be read."""

    taken_at: str
    load_1m: float | None
    governor: str | None
    clock_khz: int | None
    temperature_c: float | None
    throttled: str | None
    memory_available_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardInfo:
    """What the agent found on the board.

    Attributes:
        runtimes: package -> version, of the runtimes that import there.
        runners: keys of the agent's runners that have their runtime there, e.g. ("tflite", "onnxruntime").
        emulated: runs under an emulator: its latency is emulation time and is never judged.
        fake: a scripted board: its latency is made up, judged all the same, and every report says so.
    """

    machine: str
    system: str
    kernel: str
    python: str
    numpy: str | None
    model: str | None
    cpu: str | None
    cores: int
    memory_bytes: int | None
    runtimes: Mapping[str, str]
    emulated: bool
    agent_sha256: str
    runners: tuple[str, ...] = ()
    fake: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureProtocol:
    """How latency is taken. Part of a measurement's identity.

    Attributes:
        min_runs: timed runs at least.
        min_seconds: timed seconds at least.
        windows: artifacts of one device take turns this often (A B A B ...).
        warmup_max_seconds: past this without a flat moving median the run is not judged.
        threads: of the runtime.
        timeout_seconds: for one artifact, everything included.
    """

    min_runs: int = 200
    min_seconds: float = 2.0
    windows: int = 8
    warmup_max_seconds: float = 10.0
    threads: int = 1
    timeout_seconds: float = 600.0


class Validity(enum.StrEnum):
    """Whether a measurement may be judged."""

    VALID = "VALID"
    THROTTLED = "THROTTLED"
    NOISY = "NOISY"
    BUSY = "BUSY"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """Raw samples of one artifact on one board, with their surroundings.

    Attributes:
        artifact_sha256: of what ran, as verified on the board.
        samples_ns: int64 [n], one per timed run, in the order taken: inputs in, invoke, outputs out.
        warmup_ns: int64 [m], the runs before; never judged.
        windows: int64 [n], the index of the window each sample belongs to.
        outputs: raw outputs of the runtime for every evaluation sample, one array per model output, [N, ...].
        outputs_sha256: over `outputs`, before any dequantization.
        output_quantization: (scale, zero_point) per output; None where it is not quantized.
        peak_rss_bytes: of the process that held only this artifact; None with `peak_rss_reason`.
        warmup_flat: the moving median became flat within the cap.
        timer_overhead_ns: median cost of reading the clock twice; stated, not subtracted.
        validity: with `validity_reasons`.
        runner: what executed it, e.g. "ai-edge-litert 2.3.0 (XNNPACK)".
    """

    device: str
    artifact_sha256: str
    samples_ns: NDArray[np.int64]
    warmup_ns: NDArray[np.int64]
    windows: NDArray[np.int64]
    outputs: tuple[NDArray[Any], ...]
    outputs_sha256: str
    output_quantization: tuple[tuple[float, int] | None, ...]
    peak_rss_bytes: int | None
    peak_rss_reason: str | None
    warmup_flat: bool
    timer_overhead_ns: int
    validity: Validity
    validity_reasons: tuple[str, ...]
    environment_before: Environment
    environment_after: Environment
    board: BoardInfo
    runner: str
    protocol: MeasureProtocol
    taken_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A task metric with its 95 % interval.

    Attributes:
        value: in the metric's own unit: a fraction 0..1 for top1, top5 and agreement.
        low, high: None where no interval is known for the metric.
        n: samples.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How close a model's outputs are to the reference's, over real samples.

    Attributes:
        sqnr_db: 10 log10(sum ref^2 / sum (ref - other)^2); inf where they are equal.
        cosine: of the flattened outputs.
        max_abs: largest absolute difference.
        top1_agreement: fraction of samples with the same arg-max; None for outputs that are no class scores.
        n: samples.
    """

    sqnr_db: float
    cosine: float
    max_abs: float
    top1_agreement: float | None
    n: int


class Verdict(enum.StrEnum):
    """The outcome for one artifact on one device.

    ERROR is infrastructure and never counts against a model. INCONCLUSIVE never passes and never fails silently.
    """

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing a reader should know.

    Attributes:
        severity: "error" decided the verdict, "warning" may explain it, "info" is worth knowing.
        code: stable word for machines, e.g. "latency_p95_ms".
        text: what, with the numbers.
        next_step: what to do; empty where nothing.
    """

    severity: Literal["error", "warning", "info"]
    code: str
    text: str
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with what decided it."""

    verdict: Verdict
    findings: tuple[Finding, ...] = field(default=())
