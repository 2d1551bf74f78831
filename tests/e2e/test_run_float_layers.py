"""A net that int8 destroys but for two layers: what these cost in float32 is measured beside, and judged by nobody."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from edgesmith.report.figures import NOT_JUDGED
from tests.digits_networks import DAMAGED, digits
from tests.e2e.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def damaged(tmp_path: Path) -> Project:
    """Its damage is left as it is: nothing that repairs a plan is switched on."""
    net = digits()
    net.graph.write(tmp_path / "model.onnx")
    half = len(net.tuning) // 2
    for name, x, y in (
        ("train", net.tuning[:half], net.labels[:half]),
        ("evaluation", net.tuning[half:], net.labels[half:]),
    ):
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    np.savez(tmp_path / "calibration.npz", x=net.calibration)
    project = Project(tmp_path)
    plain = {"observer": "minmax", "equalize": False, "smooth": False, "bias_correction": False}
    project.write_config(
        model="model.onnx",
        recipe=[{"quantize": {"scheme": "int8-float-io", **plain}}],
        budget={"accuracy_drop_pp": 2.0},
        measure={"min_runs": 50, "min_seconds": 0.05, "windows": 2},
    )
    return project


def test_the_price_of_float_layers_is_told_and_decides_nothing(damaged: Project):
    done = damaged.edgesmith("run")
    assert done.returncode == 0, done.stdout + done.stderr
    first = damaged.result()
    rows = {row["variant"]: row for row in first["results"]}
    assert list(rows) == ["float", "compressed", "uniform"]
    assert first["quantization"]["search"]["kept"] == list(DAMAGED)
    assert (first["verdict"], rows["compressed"]["verdict"]) == ("PASS", "PASS")

    paid = rows["compressed"]["float_layers"]
    drops = {variant: row["accuracy_drop_pp"] for variant, row in rows.items()}
    assert drops["compressed"] <= 2.0
    assert drops["uniform"] > 5.0
    assert paid["gain_pp"] == pytest.approx(drops["uniform"] - drops["compressed"])
    assert 0.0 < paid["gain_low_pp"] < paid["gain_pp"] < paid["gain_high_pp"]
    assert paid["uniform_verdict"] == "FAIL"
    medians = {variant: row["latency_ms"]["p50"] for variant, row in rows.items()}
    if paid["cost_ms_reason"] is None:  # else this machine was busy
        assert paid["cost_ms"] == pytest.approx(medians["compressed"] - medians["uniform"])
        assert paid["ratio_low"] <= paid["ratio"] <= paid["ratio_high"]
    else:
        assert any(name in paid["cost_ms_reason"] for name in ("BUSY", "NOISY", "THROTTLED"))

    assert len(first["leases"]) == 1
    assert len({row["artifact"]["sha256"] for row in rows.values()}) == 3
    said = " ".join(done.stdout.split())
    assert "local onnxruntime:" in said
    assert "2 layers in float32" in said
    assert NOT_JUDGED in said
    latest = damaged.root / "runs" / "latest"
    assert NOT_JUDGED in (latest / "report.html").read_text()
    suites = [suite.get("name", "") for suite in ET.parse(latest / "junit.xml").getroot()]  # noqa: S314 - our own
    assert not any("uniform" in name for name in suites)
    best = [finding["text"] for finding in first["findings"] if finding["code"] == "best"]
    assert [text for text in best if "uniform" in text] == []

    planned = damaged.edgesmith("plan")
    assert any(line.split()[1:3] == ["compile-onnxruntime-uniform", "kept"] for line in planned.stdout.splitlines())
    again = damaged.edgesmith("run")
    assert again.returncode == 0, again.stdout + again.stderr
    second = damaged.result()
    assert second["work"]["compiled_artifacts"] == 0
    assert second["quantization"]["cached"] is True
    assert [row["variant"] for row in second["results"]] == list(rows)
    assert second["results"][1]["float_layers"]["gain_pp"] == paid["gain_pp"]
