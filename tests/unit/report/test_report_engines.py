"""Engines in the report: trtexec's figures beside ours, and what differs in what is measured."""

from __future__ import annotations

from pathlib import Path

from edgesmith.report.html import render_html
from edgesmith.report.markdown import render_markdown
from edgesmith.result import EnginePartRecord, EnginePartsRecord, EngineRecord, TrtexecRecord, read_result
from tests.unit.report.conftest import Made, build, pair

PART = EnginePartRecord(p50_ms=0.4, p95_ms=0.5)
ENGINE = EngineRecord(
    key="ab" * 32,
    sha256="cd" * 32,
    size_bytes=4_000_000,
    cached=True,
    because="",
    seconds=93.0,
    tensorrt="10.3.0.30",
    cuda="12.6",
    compute="8.7",
    gpu="Orin",
    precision=("fp16", "int8"),
    layer_count=21,
    layer_precisions={"int8": 21},
    device_memory_bytes=1_000_000,
    notes=(),
    fake=False,
    parts=EnginePartsRecord(to_device=PART, compute=PART, to_host=PART, runs=100, sum_p50_ms=1.2),
)
TRTEXEC = TrtexecRecord(
    tool="trtexec of TensorRT 10.3.0",
    version="10.3.0",
    p50_ms=1.5,
    p95_ms=1.75,
    to_device_p50_ms=0.25,
    compute_p50_ms=1.0,
    to_host_p50_ms=0.125,
    runs=1999,
    ours_p50_ms=1.2,
    difference=("Both run one query at a time.", "The <rest> differs."),
)


def made(run_dir: Path, engine: EngineRecord, **more: object) -> Made:
    # The conftest's sizes know no tensorrt; nothing here goes by the target.
    rows = pair(run_dir, "orin", "onnxruntime", 0.9, 0.5)
    return build(run_dir, [rows[0], rows[1].model_copy(update={"engine": engine, **more})])


def test_both_figures_are_told_with_what_differs(tmp_path: Path):
    run = made(tmp_path, ENGINE.model_copy(update={"trtexec": TRTEXEC}))
    page = render_html(run.result, run.run_dir)
    told = (
        "trtexec of TensorRT 10.3.0: p50 1.50 ms, p95 1.75 ms (1999 runs); ours, added up from the same parts: p50 1.20"
    )
    assert told in page
    assert "1.25 times that" in page
    assert "alone, latency is its own figure" not in page
    assert "Both run one query at a time. The &lt;rest&gt; differs." in page
    assert f"orin, onnxruntime compressed: {told}" in render_markdown(run.result)
    path = tmp_path / "result.json"
    run.result.write(path)
    assert read_result(path) == run.result


def test_why_there_are_none_is_told(tmp_path: Path):
    run = made(tmp_path, ENGINE.model_copy(update={"trtexec_reason": "this board has no trtexec"}))
    assert "this board has no trtexec" in render_html(run.result, run.run_dir)
    assert "trtexec" not in render_markdown(run.result)


def test_an_engine_of_trtexecs_has_times_and_no_accuracy(tmp_path: Path):
    why = "trtexec timed it alone"
    none = {"accuracy": None, "accuracy_reason": why, "agreement": None, "agreement_reason": why}
    engine = ENGINE.model_copy(update={"builder": "trtexec of TensorRT 10.3.0", "device_memory_bytes": None})
    run = made(tmp_path, engine, accuracy_drop_pp=None, accuracy_drop_pp_reason=why, **none)
    page = render_html(run.result, run.run_dir)
    assert "compute capability 8.7, by trtexec of TensorRT 10.3.0" in page
    assert why in page
    assert "alone, latency is its own figure" in page
    assert why in render_markdown(run.result)
