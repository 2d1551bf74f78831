"""The whole way on this machine, through the command line, as a user types it."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgesmith.result import result_schema
from tests.e2e.project import Project


@pytest.fixture
def project(digits: Project) -> Project:
    return digits


def result_of(project: Project, run: str = "runs/latest") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((project.root / run / "result.json").read_text())
    return document


def test_the_result_follows_the_published_schema_and_holds_no_invented_figure(project: Project):
    result = result_of(project, "first")
    jsonschema.validate(result, result_schema())
    assert result["state"] == "finished"
    assert result["verdict"] == "PASS"
    rows = {(row["target"], row["variant"]): row for row in result["results"]}
    assert set(rows) == {(t, v) for t in ("onnxruntime", "tflite") for v in ("float", "compressed")}
    for row in rows.values():
        assert row["latency_ms"]["n"] >= 50
        assert row["accuracy"]["n"] == 647
        assert row["accuracy"]["value"] > 0.9
        assert row["energy_mj"] is None
        assert row["energy_mj_reason"]


def test_the_sparsity_asked_for_is_in_the_shipped_files(project: Project):
    for row in result_of(project, "first")["results"]:
        if row["variant"] == "compressed":
            assert row["artifact"]["sparsity"] >= 0.45  # a pruned kernel's share; biases and conv1 are in the count
        else:
            assert row["artifact"]["sparsity"] < 0.1


def test_the_ablation_says_what_a_step_is_worth_when_packed(project: Project):
    original, pruned, *compiled = result_of(project, "first")["steps"]
    assert pruned["packed_bytes"] < 0.8 * original["packed_bytes"] > 0
    assert {step["packed_bytes_reason"] for step in compiled} == {"only Keras models can be packed"}


def test_the_run_folder_is_complete(project: Project):
    run = project.root / "first"
    for name in ("config.yaml", "result.json", "report.html", "junit.xml", "summary.md", "run.log"):
        assert (run / name).stat().st_size > 0, name
    for row in result_of(project, "first")["results"]:
        assert (run / row["artifact"]["path"]).stat().st_size == row["artifact"]["size_bytes"]
        samples = np.load(run / row["latency_ms"]["samples_path"])
        assert len(samples) == row["latency_ms"]["n"]
    commands = sorted(run.glob("[0-9][0-9]-*/command.txt"))
    assert commands[0].parent.name == "01-prune"
    assert all(path.read_text().startswith("edgesmith run ") for path in commands)


def test_an_unchanged_run_does_no_work_and_says_so(project: Project):
    again = project.edgesmith("run")
    assert again.returncode == 0, again.stdout + again.stderr
    work = result_of(project)["work"]
    assert (work["trained_steps"], work["compiled_artifacts"], work["bytes_sent"]) == (0, 0, 0)
    assert "step prune" in work["reused"]
    shown = " ".join(again.stdout.split())
    assert "no training, no compile, 0 bytes sent" in shown.lower()


def test_a_budget_that_cannot_be_met_exits_1(project: Project):
    project.write_config(budget={"size_bytes": 100})
    done = project.edgesmith("run")
    assert done.returncode == 1, done.stdout + done.stderr
    result = result_of(project)
    assert result["verdict"] == "FAIL"
    assert result["exit_code"] == 1
    assert "FAIL" in done.stdout
    assert "<failure" in (project.root / "runs/latest/junit.xml").read_text()


def test_too_few_runs_to_judge_exits_4(project: Project):
    project.write_config(
        measure={"min_runs": 10, "min_seconds": 0.001, "windows": 2}, budget={"latency_p95_ms": 1000.0}
    )
    done = project.edgesmith("run")
    assert done.returncode == 4, done.stdout + done.stderr
    assert result_of(project)["verdict"] == "INCONCLUSIVE"


def test_a_bad_config_exits_2_and_names_the_line(project: Project):
    project.write_config(budgett={"size_bytes": 1})
    done = project.edgesmith("run")
    assert done.returncode == 2
    assert "unknown key 'budgett'; did you mean 'budget'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_exits_2_and_the_run_says_why(project: Project):
    project.write_config(model="nowhere.keras")
    done = project.edgesmith("run")
    assert done.returncode == 2
    assert "nowhere.keras" in done.stderr
    result = result_of(project)
    assert result["state"] == "failed"
    assert result["exit_code"] == 2


def test_nan_in_the_data_exits_2(project: Project):
    with np.load(project.root / "evaluation.npz") as held:
        x, y = held["x"].copy(), held["y"]
    x[3, 0, 0, 0] = np.nan
    np.savez(project.root / "nan.npz", x=x, y=y)
    project.write_config(data={"calibration": "calibration.npz", "train": "train.npz", "evaluation": "nan.npz"})
    done = project.edgesmith("run")
    assert done.returncode == 2
    assert "nan.npz" in done.stderr
    assert "NaN" in done.stderr
    assert "3" in done.stderr


def test_calibrating_on_the_evaluation_set_exits_2(project: Project):
    project.write_config(data={"calibration": "evaluation.npz", "train": "train.npz", "evaluation": "evaluation.npz"})
    done = project.edgesmith("run")
    assert done.returncode == 2
    assert "evaluation" in done.stderr


@pytest.mark.slow
def test_missing_calibration_is_refused_and_synthetic_is_shown_as_such(project: Project):
    project.write_config(
        data={"evaluation": "evaluation.npz"}, recipe=[{"quantize": {}}], budget={}, targets=["onnxruntime"]
    )
    refused = project.edgesmith("run")
    assert refused.returncode == 2
    assert "--allow-synthetic" in refused.stderr
    caught = project.edgesmith("run", "--allow-synthetic")
    assert caught.returncode == 2  # ranges of noise 0..1 do not hold pixels 0..16, and verifying finds where
    # The rescaling in front is in the first convolution's kernel; with its ReLU that is one tensor.
    assert re.search(r"First tensor that diverges: layer '(conv1|re_lu\w*)'", caught.stderr), caught.stderr
    project.write_config(
        data={"evaluation": "evaluation.npz"}, recipe=[{"quantize": {}}], budget={}, targets=["onnxruntime"],
        verify={"min_sqnr_db": -99.0, "min_cosine": -1.0},
    )  # fmt: skip
    done = project.edgesmith("run", "--allow-synthetic")
    assert done.returncode == 0, done.stdout + done.stderr
    for run in (project.root / "runs/latest/report.html", project.root / "runs/latest/summary.md"):
        assert "synthetic" in run.read_text().lower(), run


@pytest.mark.slow
def test_a_dead_host_exits_3_before_any_work(project: Project):
    write_dead_board(project)
    project.write_config(devices=["dead"], recipe=[{"prune": {"final_sparsity": 0.6}}])
    done = project.edgesmith("run")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "127.0.0.1" in done.stderr
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert result_of(project)["work"]["trained_steps"] == 0


@pytest.mark.slow
def test_a_dead_host_does_not_disturb_the_others(project: Project):
    write_dead_board(project)
    project.write_config(devices=["dead", "local"])
    done = project.edgesmith("run")
    assert done.returncode == 3, done.stdout + done.stderr
    result = result_of(project)
    verdicts = {row["device"]: row["verdict"] for row in result["results"]}
    assert verdicts == {"dead": "ERROR", "local": "PASS"}
    dead = next(row for row in result["results"] if row["device"] == "dead")
    assert dead["latency_ms"] is None
    assert "refused" in dead["latency_ms_reason"]
    jsonschema.validate(result, result_schema())


def test_an_unknown_device_exits_2(project: Project):
    done = project.edgesmith("run", "--device", "lokal")
    assert done.returncode == 2
    assert "lokal" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_readable_and_resumes(project: Project, sent: signal.Signals, code: int):
    # Another sparsity for each case: nothing of it is kept yet.
    final = 0.61 if sent is signal.SIGINT else 0.62
    project.write_config(
        recipe=[{"prune": {"final_sparsity": final, "epochs": 25, "learning_rate": 0.001}}], targets=["tflite"]
    )
    (project.root / "edgesmith.yaml").rename(project.root / "other.yaml")  # a resume finds its own config
    before = (project.root / "runs" / "latest").readlink()
    unfinished = set(checkpoints(project))
    process = project.start("run", "other.yaml", "--device", "local")
    try:
        wait_for_checkpoint(project, unfinished)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert "edgesmith run --resume" in stderr
    assert "Traceback" not in stderr
    interrupted = result_of(project)
    assert (project.root / "runs" / "latest").readlink() != before
    assert (interrupted["state"], interrupted["exit_code"]) == ("interrupted", code)
    jsonschema.validate(interrupted, result_schema())

    resumed = project.edgesmith("run", "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    result = result_of(project)
    assert result["run_id"] == interrupted["run_id"]
    assert result["state"] == "finished"
    assert result["work"]["trained_steps"] == 1


def test_an_onnx_model_is_quantized_and_judged(project: Project):
    model = next((project.root / "first" / "artifacts" / "onnxruntime").glob("float*.onnx"))
    project.write_config(model=str(model), recipe=[{"quantize": {"scheme": "int8"}}])
    done = project.edgesmith("run")
    assert done.returncode == 0, done.stdout + done.stderr
    result = result_of(project)
    assert {(row["target"], row["variant"]) for row in result["results"]} == {
        ("onnxruntime", "float"),
        ("onnxruntime", "compressed"),
    }
    compressed = next(row for row in result["results"] if row["variant"] == "compressed")
    assert compressed["artifact"]["precision"] == "int8"
    assert compressed["agreement"] > 0.9
    assert "tflite left out: it compiles keras models" in done.stderr


def test_pruning_an_onnx_model_is_refused_with_the_line(project: Project):
    model = next((project.root / "first" / "artifacts" / "onnxruntime").glob("float*.onnx"))
    project.write_config(model=str(model))
    done = project.edgesmith("run")
    assert done.returncode == 2
    assert "edgesmith.yaml:" in done.stderr
    assert "cannot be trained" in done.stderr


def test_a_misspelt_layer_is_refused_before_any_work(project: Project):
    with np.load(project.root / "evaluation.npz") as held:
        np.savez(project.root / "unseen.npz", x=held["x"][:40], y=held["y"][:40])
    data = {"calibration": "calibration.npz", "evaluation": "unseen.npz"}
    project.write_config(data=data, recipe=[{"quantize": {"scheme": "int8", "keep_float": ["dense_wrong"]}}])
    done = project.edgesmith("run")
    assert done.returncode == 2
    assert "recipe step 1 (quantize): keep_float: the model has no layer 'dense_wrong'." in " ".join(
        done.stderr.split()
    )
    assert "samples, on this machine" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_told_as_such(project: Project):
    """A real one: the kernel's own /dev/full semantics need root, a file-size limit of the process does not."""
    limit = "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    limit += (
        "sys.argv = ['edgesmith', 'run', '--runs-dir', 'small']; runpy.run_module('edgesmith', run_name='__main__')"
    )
    done = project.python("-c", limit)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "File too large" in done.stderr
    assert "--runs-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_changed_config_is_not_mixed_into_an_old_run(project: Project):
    project.edgesmith("run")
    project.write_config(seed=7)
    done = project.edgesmith("run", "--resume")
    assert done.returncode == 2
    assert "changed since run" in done.stderr


def test_plan_does_nothing_and_tells_what_is_kept(project: Project):
    planned = project.edgesmith("plan", "--json")
    assert planned.returncode == 0, planned.stderr
    states = {step["label"]: step["state"] for step in json.loads(planned.stdout)}
    assert states["prune"] == "kept"
    assert states["compile-tflite-compressed"] == "kept"
    project.write_config(recipe=[{"prune": {"final_sparsity": 0.7}}, {"quantize": {}}])
    states = {s["label"]: s["state"] for s in json.loads(project.edgesmith("plan", "--json").stdout)}
    assert states["prune"] == "to do"
    assert states["compile-tflite-float"] == "kept"
    assert states["measure-local"] == "to do"


def test_json_on_stdout_is_the_result(project: Project):
    done = project.edgesmith("run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == result_of(project)


def test_report_shows_a_finished_run_again(project: Project):
    project.edgesmith("run")
    (project.root / "runs/latest/report.html").unlink()
    shown = project.edgesmith("report")
    assert shown.returncode == 0, shown.stderr
    assert "PASS" in shown.stdout
    assert (project.root / "runs/latest/report.html").exists()


def test_measure_takes_one_artifact(project: Project):
    artifact = next((project.root / "first" / "artifacts" / "tflite").glob("compressed*.tflite"))
    done = project.edgesmith("measure", str(artifact), "--data", "evaluation.npz", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    kept = {(r["target"], r["variant"]): r for r in result_of(project, "first")["results"]}["tflite", "compressed"]
    assert row["accuracy"]["value"] == kept["accuracy"]["value"]
    assert row["latency_ms"]["p50"] > 0


def write_dead_board(project: Project) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    (project.root / "devices.yaml").write_text(
        f"devices:\n  dead: {{host: 127.0.0.1, port: {port}, user: nobody, known_hosts: known_hosts}}\n"
    )
    (project.root / "known_hosts").write_text("")


def checkpoints(project: Project) -> Iterator[Path]:
    unfinished = project.root / "runs" / ".cache" / "unfinished"
    return (path for path in unfinished.rglob("*") if path.is_file())


def wait_for_checkpoint(project: Project, older: set[Path]) -> None:
    """Until the fine-tuning has written one: the moment when an interruption matters."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if set(checkpoints(project)) - older:
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint was written")
