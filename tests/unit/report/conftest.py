"""A full result with made-up, plausible figures. For the tests of the reports only: nothing here was measured."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgesmith.result import (
    AccuracyRecord,
    ArtifactRecord,
    BoardRecord,
    CalibrationPoint,
    DataRecord,
    DeviationRecord,
    DeviceResult,
    EnvironmentRecord,
    FindingRecord,
    FloatLayersRecord,
    LatencyRecord,
    LayerQuantization,
    QuantizationRecord,
    Result,
    SearchRecord,
    StepRecord,
    Work,
)
from edgesmith.types import Validity, Verdict

NO_SENSOR = "the board has no power sensor that edgesmith can read"
RUNNERS = {"tflite": "ai-edge-litert 2.3.0 (XNNPACK)", "onnxruntime": "onnxruntime 1.31.0 (CPU)"}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Made:
    """A run folder and the result that belongs to it."""

    result: Result
    run_dir: Path


def board(device: str, *, emulated: bool = False) -> BoardRecord:
    is_pi = device.startswith("pi")
    return BoardRecord(
        machine="aarch64" if is_pi else "x86_64",
        system="Linux",
        kernel="6.6.51+rpt-rpi-2712" if is_pi else "6.1.0-28-amd64",
        python="3.11.2",
        numpy="2.1.3",
        model="Raspberry Pi 5 Model B Rev 1.0" if is_pi else None,
        cpu="Cortex-A76" if is_pi else "AMD EPYC 9354",
        cores=4 if is_pi else 2,
        memory_bytes=8_253_997_056,
        runtimes={"ai-edge-litert": "2.3.0", "onnxruntime": "1.31.0"},
        emulated=emulated,
        agent_sha256=sha("agent"),
    )


def environment(at: str, celsius: float | None) -> EnvironmentRecord:
    return EnvironmentRecord(
        taken_at=at,
        load_1m=0.31,
        governor="performance" if celsius else None,
        clock_khz=2_400_000 if celsius else None,
        temperature_c=celsius,
        throttled="0x0" if celsius else None,
        memory_available_bytes=6_103_000_000,
    )


def artifact(target: str, variant: str) -> ArtifactRecord:
    is_float = variant == "float"
    size = {"tflite": (214_332, 73_128), "onnxruntime": (221_904, 86_517)}[target][not is_float]
    suffix = {"tflite": "tflite", "onnxruntime": "onnx"}[target]
    return ArtifactRecord(
        path=f"artifacts/{variant}.{suffix}",
        format=suffix,
        precision="float32" if is_float else "int8",
        sha256=sha(f"{target} {variant}"),
        size_bytes=size,
        gzip_bytes=int(size * (0.92 if is_float else 0.61)),
        sparsity=0.0 if is_float else 0.5,
        signature_inputs=("x: float32[1, 28, 28, 1]" if is_float else "x: int8[1, 28, 28, 1]",),
        signature_outputs=("y: float32[1, 10]" if is_float else "y: int8[1, 10]",),
        toolchain={"tensorflow": "2.21.0"},
    )


def latency(run_dir: Path, name: str, median_ms: float, n: int = 2000) -> LatencyRecord:
    rng = np.random.default_rng(int(sha(name)[:8], 16))
    samples = median_ms * 1e6 * np.exp(rng.normal(0, 0.03, n)) + rng.exponential(0.02 * median_ms * 1e6, n)
    samples[rng.integers(0, n, n // 150)] *= 1.6
    ns = samples.astype(np.int64)
    path = run_dir / "samples" / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, ns)
    p50, p90, p95, p99, low, high = (float(v) for v in np.percentile(ns, (50, 90, 95, 99, 94, 96)) / 1e6)
    return LatencyRecord(
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        n=n,
        p50_low=p50 * 0.99,
        p50_high=p50 * 1.01,
        p95_low=low,
        p95_high=high,
        mean=float(ns.mean() / 1e6),
        samples_path=f"samples/{name}.npy",
    )


def measured(
    run_dir: Path, device: str, target: str, variant: str, median_ms: float, float_ms: float, **changes: object
) -> DeviceResult:
    is_float = variant == "float"
    value = 0.9152 if is_float else {"tflite": 0.9130, "onnxruntime": 0.9127}[target]
    # What the judge says of every budget that is kept, and of the reference.
    kept = [("latency_p95_ms", "p95 latency"), ("latency_p50_ratio", "p50 latency"), ("accuracy_drop_pp", "top1")]
    kept = [("reference", "the float model")] if is_float else [*kept, ("size_bytes", "The file")]
    told = tuple(FindingRecord(severity="info", code=code, text=f"{what} ...: kept.") for code, what in kept)
    own = changes.pop("findings", ())
    fields: dict[str, object] = {
        "findings": (*own, *(t for t in told if t.code not in {o.code for o in own})),
        "device": device,
        "emulated": False,
        "target": target,
        "variant": variant,
        "artifact": artifact(target, variant),
        "latency_ms": latency(run_dir, f"{device}-{target}-{variant}", median_ms),
        "accuracy": AccuracyRecord(metric="top1", value=value, low=value - 0.0056, high=value + 0.0054, n=10_000),
        "accuracy_drop_pp": None if is_float else (0.9152 - value) * 100,
        "agreement": 1.0 if is_float else 0.9871,
        "speedup_p50": None if is_float else float_ms / median_ms,
        "peak_rss_bytes": 24_100_000 if is_float else 18_300_000,
        "energy_mj": None,
        "energy_mj_reason": NO_SENSOR,
        "validity": Validity.VALID,
        "verdict": Verdict.PASS,
        "outputs_sha256": sha(f"outputs {target} {variant}"),
        "runner": RUNNERS[target],
        "threads": 1,
        "timer_overhead_ns": 61,
        "board": board(device),
        "environment_before": environment("2026-11-22T10:00:00Z", 48.3 if device.startswith("pi") else None),
        "environment_after": environment("2026-11-22T10:00:31Z", 55.1 if device.startswith("pi") else None),
        "measured_at": "2026-11-22T10:00:31Z",
    }
    return DeviceResult.model_validate(fields | changes)


def pair(run_dir: Path, device: str, target: str, float_ms: float, ms: float, **changes: object) -> list[DeviceResult]:
    return [
        measured(run_dir, device, target, "float", float_ms, float_ms),
        measured(run_dir, device, target, "compressed", ms, float_ms, **changes),
    ]


def not_judged(why: str) -> tuple[FindingRecord, ...]:
    return tuple(
        FindingRecord(
            severity="warning",
            code=code,
            text=f"{code[8:11]} latency is not judged: {why}.",
            next_step="Cool the board or give it a stronger supply, then measure again.",
        )
        for code in ("latency_p95_ms", "latency_p50_ratio")
    )


def unreachable(device: str, target: str, variant: str) -> DeviceResult:
    why = f"{device} was never reached"
    return DeviceResult.model_validate(
        {
            "device": device,
            "emulated": None,
            "target": target,
            "variant": variant,
            "artifact": artifact(target, variant),
            "latency_ms": None,
            "latency_ms_reason": why,
            "accuracy": None,
            "accuracy_reason": why,
            "agreement": None,
            "agreement_reason": why,
            "peak_rss_bytes": None,
            "peak_rss_bytes_reason": why,
            "energy_mj": None,
            "energy_mj_reason": why,
            "validity": Validity.UNKNOWN,
            "verdict": Verdict.ERROR,
            "findings": (
                FindingRecord(
                    severity="error",
                    code="connection",
                    text=f"{device}: ssh to 10.0.0.7:22 refused after 10 s.",
                    next_step="Is the board on? `edgesmith devices probe` tries it alone.",
                ),
            ),
        }
    )


def steps() -> tuple[StepRecord, ...]:
    def accuracy(value: float) -> AccuracyRecord:
        return AccuracyRecord(metric="top1", value=value, low=value - 0.0055, high=value + 0.0055, n=10_000)

    common = {"macs": 4_812_544, "parameters": 50_186}
    return (
        StepRecord(
            name="original",
            params={},
            seconds=0.0,
            cached=False,
            size_bytes=231_448,
            gzip_bytes=203_120,
            packed_bytes=201_300,
            nonzero_parameters=50_186,
            sparsity=0.0,
            accuracy=accuracy(0.9152),
            agreement=1.0,
            **common,
        ),
        StepRecord(
            name="prune",
            params={"schedule": "polynomial", "final_sparsity": 0.5, "epochs": 2},
            seconds=41.7,
            cached=False,
            size_bytes=231_448,
            gzip_bytes=121_530,
            packed_bytes=98_700,
            nonzero_parameters=26_004,
            sparsity=0.5,
            accuracy=accuracy(0.9139),
            agreement=0.9902,
            notes=("Zeros shrink the file, not the latency, on a CPU with AVX.",),
            **common,
        ),
        StepRecord(
            name="quantize",
            params={"scheme": "int8"},
            seconds=6.1,
            cached=True,
            size_bytes=None,
            size_bytes_reason="int8 is made by each target's compiler",
            gzip_bytes=None,
            gzip_bytes_reason="int8 is made by each target's compiler",
            packed_bytes_reason="only Keras models can be packed",
            sparsity=0.5,
            accuracy=None,
            accuracy_reason="int8 is made by each target's compiler",
            agreement=None,
            agreement_reason="int8 is made by each target's compiler",
            **common,
        ),
    )


def build(run_dir: Path, results: list[DeviceResult], **changes: object) -> Made:
    fields: dict[str, object] = {
        "run_id": "2026-11-22T10-00-00-7f3a",
        "state": "finished",
        "verdict": Verdict.PASS,
        "exit_code": 0,
        "started_at": "2026-11-22T09:58:12Z",
        "finished_at": "2026-11-22T10:01:47Z",
        "config_sha256": sha("config"),
        "config_path": "edgesmith.yaml",
        "model": "Keras 3 fashion.keras",
        "model_sha256": sha("model"),
        "toolchain": {"edgesmith": "0.1.0", "keras": "3.15.1", "tensorflow": "2.21.0", "onnx": "1.23.0"},
        "recipe": (
            {"prune": {"schedule": "polynomial", "final_sparsity": 0.5, "epochs": 2}},
            {"quantize": {"scheme": "int8"}},
        ),
        "budget": {
            "latency_p95_ms": 2.0,
            "latency_p50_ratio": 0.9,
            "accuracy_drop_pp": 1.0,
            "size_bytes": 100_000,
            "agreement_min": None,
        },
        "measure": {
            "min_runs": 200,
            "min_seconds": 2.0,
            "windows": 8,
            "warmup_max_seconds": 10.0,
            "threads": 1,
            "timeout_seconds": 600.0,
        },
        "data": (
            DataRecord(role="train", source="data/train.npz", n=9000, sha256=sha("train"), synthetic=False),
            DataRecord(role="calibration", source="data/calibration.npz", n=256, sha256=sha("cal"), synthetic=False),
            DataRecord(role="evaluation", source="data/test.npz", n=10_000, sha256=sha("test"), synthetic=False),
        ),
        "results": tuple(results),
        "steps": steps(),
        "work": Work(trained_steps=1, compiled_artifacts=4, bytes_sent=8_412_331, measurements=4),
    }
    return Made(Result.model_validate(fields | changes), run_dir)


def passing(run_dir: Path) -> Made:
    """One device, two targets, all well."""
    return build(
        run_dir,
        [
            *pair(run_dir, "local", "tflite", 0.612, 0.241),
            *pair(run_dir, "local", "onnxruntime", 0.488, 0.303),
        ],
    )


def mixed(run_dir: Path) -> Made:
    """A pass, a failure, a reused row, an emulated board, a throttled one and one that was never reached."""
    too_slow = FindingRecord(
        severity="error",
        code="latency_p95_ms",
        text="p95 is 2.75 ms (2.71 to 2.80), the budget is 2 ms.",
        next_step="Raise the budget, or try a smaller model: pruning whole channels makes this one faster.",
    )
    emulated = FindingRecord(severity="info", code="emulated", text="Latency is emulation time, not judged.")
    slow = [
        r.model_copy(update={"emulated": True, "board": board("pi4-emulated", emulated=True)})
        for r in pair(
            run_dir,
            "pi4-emulated",
            "tflite",
            161.0,
            92.0,
            findings=(emulated, *not_judged("the board is emulated")),
            verdict=Verdict.INCONCLUSIVE,
        )
    ]
    hot = pair(
        run_dir,
        "pi3-shelf",
        "tflite",
        9.1,
        4.4,
        validity=Validity.THROTTLED,
        validity_reasons=("The firmware reported throttling (0x50005) during the measurement.",),
        verdict=Verdict.INCONCLUSIVE,
        findings=not_judged("it was measured while THROTTLED"),
    )
    return build(
        run_dir,
        [
            *pair(run_dir, "local", "tflite", 0.612, 0.241, reused=True),
            *pair(run_dir, "local", "onnxruntime", 0.488, 0.303),
            *pair(run_dir, "pi5-lab", "tflite", 2.94, 1.22),
            *pair(run_dir, "pi5-lab", "onnxruntime", 3.61, 2.55, verdict=Verdict.FAIL, findings=(too_slow,)),
            *slow,
            *hot,
            *(unreachable("jetson-nano", "onnxruntime", v) for v in ("float", "compressed")),
        ],
        verdict=Verdict.FAIL,
        exit_code=1,
        findings=(
            FindingRecord(
                severity="warning", code="prune", text="Unstructured zeros do not make XNNPACK faster on x86."
            ),
        ),
        data=(
            DataRecord(role="calibration", source="random (--allow-synthetic)", n=64, sha256=sha("r"), synthetic=True),
            DataRecord(role="evaluation", source="data/test.npz", n=10_000, sha256=sha("test"), synthetic=False),
        ),
    )


def nothing(run_dir: Path) -> Made:
    """Stopped before anything was measured."""
    return build(
        run_dir,
        [],
        state="interrupted",
        verdict=None,
        verdict_reason="Ctrl-C while training",
        exit_code=130,
        steps=(),
        data=(),
        finished_at=None,
        work=Work(),
    )


def many(run_dir: Path) -> Made:
    """Ten boards, two targets each."""
    results = []
    for number in range(10):
        for target, float_ms, ms in (("tflite", 2.9, 1.2), ("onnxruntime", 3.6, 1.9)):
            results += pair(run_dir, f"raspberry-pi-5-rack-{number:02d}", target, float_ms + number / 9, ms)
    return build(run_dir, results)


def unchanged(run_dir: Path) -> Made:
    """The second, identical run."""
    first = passing(run_dir)
    results = [r.model_copy(update={"reused": True}) for r in first.result.results]
    reused = ("2 steps", "4 artifacts", "4 measurements")
    return build(run_dir, results, work=Work(reused=reused))


def hostile(run_dir: Path) -> Made:
    name = "<script>alert(1)</script>|[red]`$x_1$\x1b[31m\u202e"
    results = [
        r.model_copy(update={"device": name, "runner": name}) for r in pair(run_dir, "local", "tflite", 0.6, 0.2)
    ]
    warning = FindingRecord(severity="warning", code="x", text=name, next_step=name)
    return build(run_dir, results, model=name, findings=(warning,))


def layer(name: str, alone_db: float | None, **changes: object) -> LayerQuantization:
    fields: dict[str, object] = {
        "layer": name,
        "kinds": ("Conv",),
        "precision": "int8",
        "alone_db": alone_db,
        "alone_db_reason": "quantizing it changes nothing" if alone_db is None else None,
        "tensor_db": None if alone_db is None else alone_db - 2.5,
    }
    return LayerQuantization.model_validate(fields | changes)


def search(**changes: object) -> SearchRecord:
    fields: dict[str, object] = {
        "budget_pp": 1.0,
        "met": True,
        "drop_pp": 0.42,
        "drop_low_pp": 0.11,
        "drop_high_pp": 0.73,
        "over_pp": 0.0,
        "full_drop_pp": 2.31,
        "trials": 14,
        "stopped": "finished",
        "metric": "top1",
        "samples": 2000,
        "source": "data/tuning.npz",
    }
    return SearchRecord.model_validate(fields | changes)


def plan(**changes: object) -> QuantizationRecord:
    """Two layers kept by the search, one by the user, and two that have no int8 kernel."""
    costly = "costs 1.8 pp of top1 (95 % 1.1 to 2.6)"
    alike = {"precision": "float32", "alone_db_reason": "it is not quantized", "kinds": ("LayerNormalization",)}
    no_kernel = {**alike, "reason": "no int8 kernel for LayerNormalization"}
    db = (29.7, 31.2, 33.9, 36.4, 38.8, 40.1, 41.9, 43.3, 44.6, 46.0, 47.7)
    fields: dict[str, object] = {
        "scheme": "int8-float-io",
        "chosen": "auto ranges, equalized, fitted weight scales",
        "variants": (
            {"name": "minmax ranges", "output_sqnr_db": 24.6, "agreement": 0.964, "loss": 0.0061},
            {"name": "auto ranges, fitted weight scales", "output_sqnr_db": 29.9, "agreement": 0.988, "loss": 0.0017},
            {
                "name": "auto ranges, equalized, fitted weight scales",
                "output_sqnr_db": 33.3,
                "agreement": 1.0,
                "loss": 0.0004,
            },
        ),
        "repairs": (
            "Cross-layer equalization scaled 800 channels in 12 groups: the estimated noise there falls by 2.6 dB.",
        ),
        "layers": (
            layer("block1_depthwise", 14.2, precision="float32", reason=costly, drop_pp=1.62, drop_low_pp=0.9),
            layer("stem", 21.8, precision="float32", reason="alone costs 0.6 pp of top1", drop_pp=0.6),
            *(layer(f"block{n}_pointwise", value) for n, value in enumerate(db)),
            layer("rescaling", None, kinds=("Mul",)),
            layer("norm1", None, **no_kernel),
            layer("norm2", None, **no_kernel),
            layer("head", None, **alike | {"kinds": ("Gemm",), "reason": "the user's keep_float"}),
        ),
        "kept_float": ("stem", "block1_depthwise", "norm1", "norm2", "head"),
        "search": search(),
        "calibration_samples": 256,
        "calibration_curve": tuple(
            CalibrationPoint(samples=n, distance=far)
            for n, far in ((8, 0.212), (16, 0.131), (32, 0.079), (64, 0.019), (128, 0.012), (256, 0.0))
        ),
        "enough_samples": 64,
        "seconds": 74.2,
        "cached": False,
    }
    return QuantizationRecord.model_validate(fields | changes)


def deviating(made: Made, deviations: tuple[DeviationRecord, ...], target: str = "tflite") -> Made:
    """The same run, its compressed files of one target with deviations."""
    results = tuple(
        r.model_copy(update={"artifact": r.artifact.model_copy(update={"deviations": deviations})})
        if r.artifact and r.variant == "compressed" and r.target == target
        else r
        for r in made.result.results
    )
    return Made(made.result.model_copy(update={"results": results}), made.run_dir)


def planned(run_dir: Path, **changes: object) -> Made:
    """A run with a plan; the .tflite file differs from it in three tensors."""
    made = passing(run_dir)
    twice = "LiteRT's LOGISTIC gives no other output"
    found = (
        DeviationRecord(layer="norm1", tensor="norm1/out", what="computed in float32", why="LiteRT has no such kernel"),
        DeviationRecord(layer="gate1", tensor="gate1/out", what="rounded twice, first with scale 0.0039", why=twice),
        DeviationRecord(layer="gate2", tensor="gate2/out", what="rounded twice, first with scale 0.0039", why=twice),
    )
    return deviating(Made(made.result.model_copy(update={"quantization": plan(**changes)}), run_dir), found)


def priced_run(
    run_dir: Path, *, kept: tuple[str, ...], metric: str = "top1", verdict: Verdict = Verdict.PASS, **paid: object
) -> Made:
    """One board and target, with layers in float32 and without; what they cost changed as asked."""
    fields: dict[str, object] = {
        "cost_ms": 0.0213,
        "ratio": 1.208,
        "ratio_low": 1.18,
        "ratio_high": 1.237,
        "gain_pp": 1.8,
        "gain_low_pp": 1.1,
        "gain_high_pp": 2.5,
        "uniform_verdict": Verdict.FAIL,
    }
    record = FloatLayersRecord.model_validate(fields | paid)
    not_judged = FindingRecord(severity="info", code="not_judged", text="not judged: what the float layers cost")

    def of(value: float, drop_pp: float, ms: float) -> dict[str, object]:
        accuracy = AccuracyRecord(metric=metric, value=value, low=None, high=None, n=1000)
        return {"accuracy": accuracy, "accuracy_drop_pp": drop_pp, "latency_ms": timed(ms)}

    def timed(ms: float) -> LatencyRecord:
        return LatencyRecord(p50=ms, p90=None, p95=None, p99=None, n=100)

    given = {"verdict": verdict, "float_layers": record, **of(0.912, 0.6, 0.1233)}
    without = {"verdict": Verdict.INCONCLUSIVE, "findings": (not_judged,), **of(0.894, 2.4, 0.102)}
    rows = [
        measured(run_dir, "pi5-lab", "tflite", "float", 0.31, 0.31),
        measured(run_dir, "pi5-lab", "tflite", "compressed", 0.123, 0.31, **given),
        measured(run_dir, "pi5-lab", "tflite", "uniform", 0.102, 0.31, **without),
    ]
    return build(run_dir, rows, quantization=plan(search=search(kept=kept)))


@pytest.fixture
def run_with_price(tmp_path: Path) -> Callable[..., Made]:
    """Builds `priced` with the price changed as asked."""
    return lambda kept=("stem", "dw3"), **changes: priced_run(tmp_path, kept=kept, **changes)


@pytest.fixture
def priced(run_with_price: Callable[..., Made]) -> Made:
    return run_with_price()


@pytest.fixture
def planned_run(tmp_path: Path) -> Made:
    return planned(tmp_path)


@pytest.fixture
def run_with_plan(tmp_path: Path) -> Callable[..., Made]:
    """Builds `planned_run` with a plan changed as asked."""
    return lambda **changes: planned(tmp_path, **changes)


@pytest.fixture
def passing_run(tmp_path: Path) -> Made:
    return passing(tmp_path)


@pytest.fixture
def mixed_run(tmp_path: Path) -> Made:
    return mixed(tmp_path)


@pytest.fixture
def empty_run(tmp_path: Path) -> Made:
    return nothing(tmp_path)


@pytest.fixture
def rack_run(tmp_path: Path) -> Made:
    return many(tmp_path)


@pytest.fixture
def unchanged_run(tmp_path: Path) -> Made:
    return unchanged(tmp_path)


@pytest.fixture
def hostile_run(tmp_path: Path) -> Made:
    return hostile(tmp_path)


@pytest.fixture
def one_pair(tmp_path: Path) -> Callable[..., Made]:
    """Builds a run from two rows of one board and target, the compressed one or the run changed as asked."""

    def make(*, run: Mapping[str, object] | None = None, **changes: object) -> Made:
        return build(tmp_path, pair(tmp_path, "pi5-lab", "tflite", 2.9, 1.2, **changes), **(run or {}))

    return make
