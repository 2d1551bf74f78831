"""What a board built from an artifact before it ran it: an engine of its own runtime."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePart:
    """Milliseconds of one part of a run, on the board's own GPU clock."""

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """Where the time of a run goes. Taken in runs of their own, beside those that are judged.

    Attributes:
        to_device: the inputs' way to the GPU.
        compute: the engine itself.
        to_host: the outputs' way back.
        runs: how many were taken.
        sum_p50_ms: of the three together, run by run; None in records of earlier versions.
    """

    to_device: EnginePart
    compute: EnginePart
    to_host: EnginePart
    runs: int
    sum_p50_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLayer:
    """One layer of an engine. Under the profiler each is waited for: their sum is no latency.

    Attributes:
        kind: the runtime's word for it; None where it does not tell.
        precision: that it computes in; likewise.
        time_ms: mean of one run; None where it was not timed.
        sources: ONNX nodes that it was made of; empty where unknown.
        is_range: `sources` are the ends of a piece of the graph.
    """

    name: str
    kind: str | None
    precision: str | None
    time_ms: float | None
    sources: tuple[str, ...]
    is_range: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtexecTimes:
    """The same engine timed by NVIDIA's trtexec on the same board, to hold our figures against.

    Attributes:
        tool: the program with its version, for people.
        version: of its TensorRT.
        p50_ms, p95_ms: of what trtexec calls latency: inputs to the GPU, computing and outputs back, each by the GPU's
            clock, added up. Percentiles as trtexec takes them.
        to_device_p50_ms, compute_p50_ms, to_host_p50_ms: its parts.
        runs: how many were timed.
        ours_p50_ms: the same sum of our own runs; None where they were not taken apart.
        difference: what else differs in what is measured, in sentences.
        notes: what was asked for and not done.
    """

    tool: str
    version: str
    p50_ms: float
    p95_ms: float
    to_device_p50_ms: float
    compute_p50_ms: float
    to_host_p50_ms: float
    runs: int
    ours_p50_ms: float | None
    difference: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine on its board.

    Attributes:
        key: names it in the board's cache.
        sha256: of its bytes.
        cached: the board had it; else it was built in this session.
        because: why it was built; empty where it was there.
        seconds: that its build took, now or then.
        tensorrt: version that built it, by the board's own word.
        compute: capability of the GPU that it is for.
        precision: what the builder was allowed beside float32, or what the file says by its types.
        layer_precisions: how many of its layers compute in each; empty where the runtime does not tell.
        notes: what was asked for and not done, how memory was made do with.
        layer_count: None where the runtime does not tell.
        fake: what built it is a stand-in.
        builder: the program that built and ran it, where it was not TensorRT's Python binding: trtexec, alone.
        parts: None with a reason in `profile_reason`.
        layers: the slowest ones first.
        trtexec: None with a reason in `trtexec_reason`.
    """

    key: str
    sha256: str
    size_bytes: int
    cached: bool
    because: str
    seconds: float
    tensorrt: str
    cuda: str
    compute: str
    gpu: str
    precision: tuple[str, ...]
    layer_count: int | None
    layer_precisions: tuple[tuple[str, int], ...]
    device_memory_bytes: int | None
    notes: tuple[str, ...]
    fake: bool
    parts: EngineParts | None = None
    layers: tuple[EngineLayer, ...] = ()
    profile_reason: str = ""
    builder: str = ""
    trtexec: TrtexecTimes | None = None
    trtexec_reason: str = ""
