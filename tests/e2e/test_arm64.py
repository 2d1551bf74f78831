"""Compiled here, run there: a workstation and an emulated Raspberry Pi 4 with the real aarch64 runtimes, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.e2e.project import Project, write_inventory
from tests.lab.arm64 import ArmBoard

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(900)]

RECIPE = [{"quantize": {"scheme": "int8"}}]
SIZE_AND_ACCURACY = {"accuracy_drop_pp": 5.0, "size_bytes": 100_000}


@pytest.fixture
def pi_project(digits: Project, arm_board: ArmBoard) -> Project:
    """The digits project with this machine and the Pi in its inventory."""
    write_inventory(digits.root, arm_board.device("pi"))
    return digits


def rows_of(result: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["device"], row["target"], row["variant"]): row for row in result["results"]}


def without_softmax(project: Project) -> str:
    """The trained net up to its logits: all of it is run by XNNPACK, here and there. TFLite's int8 softmax is not."""
    from edgesmith.frameworks import import_keras

    keras = import_keras()
    model = keras.models.load_model(project.root / "model.keras")
    model.layers[-1].activation = keras.activations.linear
    model.save(project.root / "logits.keras")
    return "logits.keras"


def test_int8_runs_on_the_pi_as_here_and_its_latency_decides_nothing(pi_project: Project):
    """Outputs are compared element by element and judged; time is emulation time, said wherever it is shown."""
    pi_project.write_config(
        model=without_softmax(pi_project), recipe=RECIPE, devices=["local", "pi"], budget=SIZE_AND_ACCURACY
    )
    done = pi_project.edgesmith("run")
    assert done.returncode == 0, done.stdout + done.stderr
    result = pi_project.result()
    rows = rows_of(result)
    assert {key for key, row in rows.items() if row["emulated"]} == {key for key in rows if key[0] == "pi"}
    for target in ("tflite", "onnxruntime"):
        for variant in ("float", "compressed"):
            pi = rows["pi", target, variant]
            assert pi["board"]["machine"] == "aarch64"
            assert (pi["validity"], pi["verdict"]) == ("UNKNOWN", "PASS")
            assert pi["validity_reasons"][0] == "the board is emulated: this is emulation time, not latency"
            assert pi["latency_ms"]["n"] >= 50
            assert pi["speedup_p50"] is None
            assert pi["artifact"]["precision"] == ("float32" if variant == "float" else "int8")
        assert rows["pi", target, "compressed"]["accuracy"]["value"] > 0.9
    # One TFLite file serves both; ONNX activations are uint8 on x86-64, int8 on arm64: two files.
    tflite, onnx = (
        [rows[device, target, "compressed"]["artifact"]["sha256"] for device in ("local", "pi")]
        for target in ("tflite", "onnxruntime")
    )
    assert tflite[0] == tflite[1]
    assert onnx[0] != onnx[1]
    _parity_is_told(result, done.stdout, pi_project.root / "runs" / "latest")
    _emulated_is_said_everywhere(done.stdout, pi_project.root / "runs" / "latest")
    assert "speed-up n/a: the board is emulated: what an emulator is quick at" in " ".join(done.stdout.split())
    assert not [f["text"] for f in result["findings"] if f["code"] == "best" and f["text"].startswith("pi:")]

    again = pi_project.edgesmith("run")
    assert again.returncode == 0, again.stdout + again.stderr
    # This machine may have been too restless to be judged, and then measures again; an emulator never gets better.
    work = pi_project.result()["work"]
    assert (work["bytes_sent"], work["compiled_artifacts"]) == (0, 0)
    assert all(row["reused"] for key, row in rows_of(pi_project.result()).items() if key[0] == "pi")
    assert pi_project.result()["parity"] == result["parity"]


def _parity_is_told(result: dict[str, Any], console: str, run: Path) -> None:
    parity = {(record["target"], record["variant"], record["reference"]): record for record in result["parity"]}
    int8 = parity["tflite", "compressed", "local"]
    (pi,) = int8["devices"]
    assert (int8["samples"], int8["elements"], pi["device"], pi["unit"]) == (647, 6470, "pi", "LSB")
    assert (pi["identical"], pi["different"], pi["max_abs_diff"]) == (True, 0, 0.0)
    # No other board ran the arm64 ONNX file: this machine's check of it is what it is compared with.
    (onnx,) = parity["onnxruntime", "compressed", None]["devices"]
    assert onnx["device"] == "pi"
    assert onnx["max_abs_diff"] <= 1e-6
    (float_,) = parity["tflite", "float", "local"]["devices"]
    assert 0 <= float_["max_abs_diff"] < 1e-4
    line = "tflite compressed: outputs on pi and local: identical in all 6,470 elements"
    assert line in console
    assert line in (run / "summary.md").read_text()
    assert line.partition(": ")[2] in (run / "report.html").read_text()


def _emulated_is_said_everywhere(console: str, run: Path) -> None:
    headings = [line for line in console.splitlines() if line.startswith("pi · ")]
    assert headings
    assert all("emulated" in line for line in headings)
    summary = [line for line in (run / "summary.md").read_text().splitlines() if line.startswith("| pi |")]
    assert len(summary) == 2
    assert all("(emulated)" in line for line in summary)
    page = (run / "report.html").read_text()
    assert page.count('<span class="mark emulated">emulated</span>') == 4
    assert "On an emulated board the times are emulation time: shown, never judged." in page
    suites = ET.parse(run / "junit.xml").getroot().findall("testsuite")  # noqa: S314 - our own file
    told = {s.get("name"): p.get("value") for s in suites for p in s.iter("property") if p.get("name") == "emulated"}
    of_the_pi = {name for name in told if name and name.startswith("pi.")}
    assert {name for name, value in told.items() if value == "true"} == of_the_pi
    assert len(of_the_pi) == 4


def test_a_latency_budget_is_undecided_on_the_pi_however_wide(pi_project: Project):
    pi_project.write_config(
        recipe=RECIPE,
        devices=["local", "pi"],
        targets=["tflite"],
        budget={"latency_p95_ms": 1e6, "size_bytes": 100_000},
    )
    done = pi_project.edgesmith("run")
    assert done.returncode == 4, done.stdout + done.stderr
    rows = rows_of(pi_project.result())
    row = rows["pi", "tflite", "compressed"]
    assert row["verdict"] == "INCONCLUSIVE"
    # The machine that runs this test is judged, unless too much else runs on it.
    here = [f["text"] for f in rows["local", "tflite", "compressed"]["findings"] if f["code"] == "latency_p95_ms"]
    assert not any("emulated" in text for text in here), here
    (finding,) = [f for f in row["findings"] if f["code"] == "latency_p95_ms"]
    assert finding["text"] == "p95 latency is not judged: the board is emulated."
    assert finding["next_step"] == "Judge latency on a real board."
    case = ET.parse(pi_project.root / "runs/latest/junit.xml").find(".//testcase[@name='latency_p95_ms']/error")  # noqa: S314
    assert case is not None
    assert case.get("type") == "inconclusive"
    (parity,) = [record for record in pi_project.result()["parity"] if record["variant"] == "compressed"]
    (pi,) = parity["devices"]
    # The softmax at the end is TFLite's own kernel, which rounds differently on arm64 now and then.
    assert (pi["unit"], pi["max_abs_diff"] <= 1, pi["different"] < 0.01 * parity["elements"]) == ("LSB", True, True)
    assert pi["identical"] == (pi["different"] == 0)


def test_measure_says_emulated_beside_every_latency(pi_project: Project):
    artifact = pi_project.root / "first" / "artifacts" / "tflite" / "compressed-int8-float-io.tflite"
    arguments = (
        "measure",
        str(artifact),
        "--data",
        "evaluation.npz",
        "--device",
        "pi",
        "--devices-file",
        "devices.yaml",
    )
    done = pi_project.edgesmith(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("pi: p50 ")]
    assert "EMULATED: this latency is emulation time" in line
