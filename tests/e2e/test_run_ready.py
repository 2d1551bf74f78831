"""The whole way for a model that is compiled already, on this machine and on a fake board."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.e2e.project import Project
from tests.tiny_artifacts import DATA

SCRIPT = {
    "model": "Raspberry Pi 5 (scripted)",
    "latency": [
        {"sha256": "", "format": "tflite", "median_ms": 2.0, "peak_rss_bytes": 30_000_000},
    ],
}


@pytest.fixture
def ready(tmp_path: Path) -> Project:
    """A folder with an int8 model, its float version, samples, and a fake board."""
    for model in DATA.glob("dense*"):
        shutil.copy(model, tmp_path)
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (240, 4)).astype(np.float32)
    np.savez(tmp_path / "evaluation.npz", x=x, y=random.integers(0, 3, size=240))
    (tmp_path / "script.yaml").write_text(yaml.safe_dump(SCRIPT))
    (tmp_path / "devices.yaml").write_text("devices: {pi5-fake: {fake: script.yaml}}\n")
    return Project(tmp_path)


def write_config(project: Project, **changes: Any) -> None:
    config = {
        "model": "dense_int8.tflite",
        "data": {"evaluation": "evaluation.npz"},
        "devices": ["pi5-fake"],
        "measure": {"min_runs": 100, "min_seconds": 0.2, "windows": 4},
        **changes,
    }
    (project.root / "edgesmith.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def result_of(project: Project) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((project.root / "runs/latest/result.json").read_text())
    return document


def test_a_ready_model_with_its_reference_on_two_boards(ready: Project):
    # No limit on latency: this machine may be too restless to judge one.
    budget = {"accuracy_drop_pp": 60.0, "agreement_min": 0.5}
    write_config(ready, reference="dense.tflite", devices=["local", "pi5-fake"], budget=budget)
    done = ready.edgesmith("run")
    assert done.returncode == 0, done.stdout + done.stderr
    result = result_of(ready)
    assert result["model"].startswith("ready tflite ")
    rows = {(row["device"], row["variant"]): row for row in result["results"]}
    assert len(rows) == 4
    for device in ("local", "pi5-fake"):
        assert rows[device, "float"]["findings"][0]["code"] == "reference"
        judged = rows[device, "compressed"]
        assert judged["accuracy_drop_pp"] is not None
        assert judged["speedup_p50"] is not None
        assert judged["agreement"] > 0.5
    # The same file, the same answers: only a fake's times are made up.
    here, fake = rows["local", "compressed"], rows["pi5-fake", "compressed"]
    assert here["outputs_sha256"] == fake["outputs_sha256"]
    assert (here["fake"], fake["fake"]) == (False, True)
    assert fake["latency_ms"]["p50"] == pytest.approx(2.0, rel=0.05)
    assert "FAKE: scripted figures. pi5-fake is no board" in " ".join(done.stdout.split())
    assert "FAKE" in (ready.root / "runs/latest/report.html").read_text()

    again = ready.edgesmith("run")
    assert again.returncode == 0, again.stdout + again.stderr
    result = result_of(ready)
    assert result["work"]["bytes_sent"] == 0
    # This machine may have been too restless to be judged, and then measures again.
    assert all(row["reused"] for row in result["results"] if row["device"] == "pi5-fake")


def test_a_fakes_latency_is_judged_and_an_edited_script_is_measured_anew(ready: Project):
    write_config(ready, budget={"latency_p95_ms": 1.0})
    done = ready.edgesmith("run")
    assert done.returncode == 1, done.stdout + done.stderr
    (row,) = result_of(ready)["results"]
    assert row["verdict"] == "FAIL"
    assert row["agreement"] is None
    assert row["agreement_reason"] == "the model came ready, and no `reference:` names its float version"

    (ready.root / "script.yaml").write_text(yaml.safe_dump({"latency": [{"median_ms": 0.5}]}))
    again = ready.edgesmith("run")
    assert again.returncode == 0, again.stdout + again.stderr
    assert result_of(ready)["work"]["measurements"] == 1


def test_a_fake_board_that_is_never_there_is_an_error_of_the_board(ready: Project):
    script = {**SCRIPT, "faults": [{"at": "connect", "kind": "wrong-key"}]}
    (ready.root / "script.yaml").write_text(yaml.safe_dump(script))
    write_config(ready, devices=["local", "pi5-fake"])
    done = ready.edgesmith("run")
    assert done.returncode == 3, done.stdout + done.stderr
    rows = {row["device"]: row for row in result_of(ready)["results"]}
    assert (rows["local"]["verdict"], rows["pi5-fake"]["verdict"]) == ("PASS", "ERROR")
    assert rows["pi5-fake"]["fake"]
    assert rows["pi5-fake"]["artifact"] == rows["local"]["artifact"]


def test_what_a_ready_model_cannot_give_is_exit_code_2(ready: Project):
    write_config(ready, recipe=[{"quantize": {"scheme": "int8"}}])
    done = ready.edgesmith("run")
    assert done.returncode == 2
    assert "dense_int8.tflite is compiled already" in " ".join(done.stderr.split())
