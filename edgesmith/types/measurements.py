"""What is measured, how it compares, and what is judged of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgesmith.types.boards import BoardInfo, Environment
from edgesmith.types.engines import Engine
from edgesmith.types.power import Power, PowerRequest, PowerState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureProtocol:
    """How latency is taken. Part of a measurement's identity.

    Attributes:
        min_runs: timed runs at least.
        min_seconds: timed seconds at least.
        windows: artifacts of one device take turns this often (A B A B ...).
        warmup_max_seconds: past this without a flat moving median the run is not judged.
        threads: of the runtime.
        timeout_seconds: for one artifact, everything included but the power mode's change.
        power: what the board is put into meanwhile.
    """

    min_runs: int = 200
    min_seconds: float = 2.0
    windows: int = 8
    warmup_max_seconds: float = 10.0
    threads: int = 1
    timeout_seconds: float = 600.0
    power: PowerRequest = field(default_factory=PowerRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What counts as a change of latency.

    Attributes:
        percent: of the reference's latency.
        ms: and at least so much.
        confidence: of the interval that has to lie beyond both.
        looks: measurements at most, before it is INCONCLUSIVE.
    """

    percent: float = 2.5
    ms: float = 0.0
    confidence: float = 0.99
    looks: int = 4

    @property
    def confidence_of_a_look(self) -> float:
        """So that all looks together err no more than `1 - confidence`."""
        return 1.0 - (1.0 - self.confidence) / self.looks


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
        outputs: raw outputs of the runtime for every evaluation sample, one array per model output, [N, ...]; None
            with `outputs_reason` where what ran it hands out none, and `outputs_next_step` for what would.
        outputs_sha256: over `outputs`, before any dequantization; None where there are none.
        output_quantization: (scale, zero_point) per output; None where it is not quantized.
        peak_rss_bytes: of the process that held only this artifact; None with `peak_rss_reason`.
        warmup_flat: the moving median became flat within the cap.
        timer_overhead_ns: median cost of reading the clock twice; stated, not subtracted. None where no clock of ours
            took the times.
        validity: with `validity_reasons`.
        runner: what executed it, e.g. "ai-edge-litert 2.3.0 (XNNPACK)".
        power: what the board took meanwhile; None where nobody asked it.
        power_state: what it was measured in; None where it was not told.
        engine: what the board had built of the artifact; None where it runs it as it is.
    """

    device: str
    artifact_sha256: str
    samples_ns: NDArray[np.int64]
    warmup_ns: NDArray[np.int64]
    windows: NDArray[np.int64]
    outputs: tuple[NDArray[Any], ...] | None
    outputs_sha256: str | None
    output_quantization: tuple[tuple[float, int] | None, ...]
    peak_rss_bytes: int | None
    peak_rss_reason: str | None
    warmup_flat: bool
    timer_overhead_ns: int | None
    validity: Validity
    validity_reasons: tuple[str, ...]
    environment_before: Environment
    environment_after: Environment
    board: BoardInfo
    runner: str
    protocol: MeasureProtocol
    taken_at: str
    power: Power | None = None
    power_state: PowerState | None = None
    engine: Engine | None = None
    outputs_reason: str = ""
    outputs_next_step: str = ""

    @property
    def fake(self) -> bool:
        """Whether the figures say nothing of a real board: a scripted one, or a stand-in for its runtime."""
        return self.board.fake or (self.engine is not None and self.engine.fake)


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
