"""What the wheel carries, and that it alone is enough."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {"edgesmith", "optimizer", "targets", "calibration", "device_tests"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=120)
    (built,) = folder.glob("edgesmith-*.whl")
    return built


def test_the_top_level_names_are_ours_and_no_more(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == TOP_LEVEL


def test_no_other_distribution_ships_our_names():
    owners = importlib.metadata.packages_distributions()
    for name in TOP_LEVEL:
        assert set(owners.get(name, ["edgesmith"])) == {"edgesmith"}, name


def test_the_example_the_agent_and_the_templates_are_in_it(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "edgesmith/examples/fashion_mnist/edgesmith.yaml",
        "edgesmith/examples/fashion_mnist/model.keras",
        "edgesmith/examples/fashion_mnist/LICENSE-data",
        "edgesmith/examples/fashion_mnist/data/evaluation.npz",
        "edgesmith/report/templates/report.html.j2",
        "device_tests/agent/__main__.py",
        "device_tests/health_models/expected.json",
        "device_tests/health_models/health.onnx",
        "device_tests/health_models/health.tflite",
        "edgesmith/doctor/models/expected.json",
        "edgesmith/doctor/models/manifest.json",
        "edgesmith/doctor/models/tensorrt-weak-int8.onnx",
        "edgesmith/doctor/models/tflite-int8.tflite",
        "targets/boards/raspberry-pi-5.yaml",
    ):
        assert name in names, name
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pt", ".pkl"))]


def test_the_wheel_is_small(wheel: Path):
    assert wheel.stat().st_size < 6_000_000


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path):
    """A clean environment, outside the repository, nothing of ours on any path."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", clean], check=True, timeout=120)
    install = [clean / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
    subprocess.run(install, check=True, timeout=900, env=environment)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [clean / "bin" / "edgesmith", "demo"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((elsewhere / "runs/latest/result.json").read_text())
    assert {row["target"] for row in result["results"]} == {"tflite", "onnxruntime"}
    assert (elsewhere / "runs/latest/report.html").stat().st_size < 2_000_000
