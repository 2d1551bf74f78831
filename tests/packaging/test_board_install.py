"""On the board itself: what `pip install "edgesmith[board]"` brings is enough to measure, judge and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from device_tests.deadline import Deadline
from device_tests.ssh import Ssh
from tests.lab.arm64 import ArmBoard

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "data" / "agent"
HEAVY = ("tensorflow", "keras", "tf_keras", "matplotlib", "tf2onnx", "onnx", "h5py", "scipy", "pandas")
A_PI = {"platform_machine": "aarch64", "sys_platform": "linux", "extra": "board"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=120)
    (built,) = folder.glob("edgesmith-*.whl")
    return built


def light_requirements(wheel: Path) -> list[str]:
    """What pip takes for edgesmith[board] on a Pi, by the wheel's own word; markers of this machine do not count."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    return [f"{one.name}{one.specifier}" for one in wanted if one.marker is None or one.marker.evaluate(A_PI)]


def test_on_a_pi_the_install_is_light(wheel: Path):
    names = {Requirement(line).name for line in light_requirements(wheel)}
    assert {"ai-edge-litert", "onnxruntime", "asyncssh", "numpy"} <= names
    assert not names & {*HEAVY, "edgesmith"}


class Installed:
    """A clean environment with the light installation, and a project beside it."""

    def __init__(self, python: Path, project: Path) -> None:
        self.python, self.project = python, project

    def edgesmith(self, *arguments: str, **config: object) -> subprocess.CompletedProcess[str]:
        if config:
            (self.project / "edgesmith.yaml").write_text(yaml.safe_dump(config))
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [self.python, "-m", "edgesmith", *arguments],
            cwd=self.project, env={**environment, "COLUMNS": "100"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("board")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=120)
    python = folder / "venv" / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--no-deps", wheel], check=True, timeout=120, env=environment)
    subprocess.run([*install, *light_requirements(wheel)], check=True, timeout=600, env=environment)
    project = folder / "project"
    project.mkdir()
    for model in MODELS.glob("dense*"):
        (project / model.name).write_bytes(model.read_bytes())
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (240, 4)).astype(np.float32), random.integers(0, 3, 240)
    np.savez(project / "evaluation.npz", x=x, y=y)
    return Installed(python, project)


BASE = {
    "data": {"evaluation": "evaluation.npz"},
    "budget": {"latency_p95_ms": 1000.0},
    "measure": {"min_runs": 50, "min_seconds": 0.1, "windows": 2},
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("package", HEAVY)
def test_nothing_heavy_is_there(installed: Installed, package: str):
    done = subprocess.run([installed.python, "-c", f"import {package}"], capture_output=True, text=True, check=False)
    assert f"No module named '{package}'" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("model", "reference", "runtime"),
    [
        ("dense_int8.tflite", None, "ai-edge-litert"),
        ("dense_int8.tflite", "dense.tflite", "ai-edge-litert"),
        ("dense.onnx", None, "onnxruntime"),
    ],
)
def test_a_ready_model_is_measured_judged_and_reported(
    installed: Installed, model: str, reference: str | None, runtime: str
):
    done = installed.edgesmith("run", **BASE, model=model, **({"reference": reference} if reference else {}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    run = installed.project / "runs" / "latest"
    result = json.loads((run / "result.json").read_text())
    assert result["verdict"] == "PASS"
    rows = {row["variant"]: row for row in result["results"]}
    assert set(rows) == ({"float", "compressed"} if reference else {"compressed"})
    judged = rows["compressed"]
    assert judged["runner"].startswith(runtime)
    assert judged["accuracy"]["n"] == 240
    assert judged["latency_ms"]["n"] >= 50
    assert (judged["agreement"] is None) == (reference is None)
    if model.endswith(".onnx"):
        assert judged["artifact"]["sparsity"] is None
        assert judged["artifact"]["sparsity_reason"] == "the package that reads the weights is not installed here"
    page = (run / "report.html").read_text()
    assert "Plots need Matplotlib" in page
    assert "<svg" not in page
    assert (run / "summary.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", ["dense_int8.tflite", "dense.onnx"])
def test_one_model_without_a_config(installed: Installed, model: str):
    done = installed.edgesmith("measure", model, "--data", "evaluation.npz", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "240" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", ["model.keras", "dense_int8.tflite"])
def test_compressing_says_what_to_install(installed: Installed, model: str):
    example = ROOT / "examples" / "fashion_mnist" / "model.keras"
    (installed.project / "model.keras").write_bytes(example.read_bytes())
    config = {**BASE, "data": {"evaluation": "evaluation.npz", "train": "evaluation.npz"}}
    done = installed.edgesmith("run", **config, model=model, recipe=[{"prune": {"final_sparsity": 0.5}}])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "edgesmith[tflite]" in " ".join(done.stderr.split())
    assert "workstation" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_quantizing_an_onnx_model_says_what_to_install(installed: Installed):
    done = installed.edgesmith("run", **BASE, model="dense.onnx", recipe=[{"quantize": {"scheme": "float16"}}])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "edgesmith[onnx]" in " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("verb", [["doctor"], ["targets"], ["--help"], ["plan"]])
def test_other_verbs_work_there(installed: Installed, verb: list[str]):
    done = installed.edgesmith(*verb, **BASE, model="dense_int8.tflite")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 3), done.stdout + done.stderr


# --- on the emulated Pi: the real aarch64 wheels of the light installation ---

THERE_ALREADY = {"numpy", "ai-edge-litert", "onnxruntime"}
GLIBC_LEVELS = (17, 24, 27, 28, 31, 34, 35, 36)  # pip does not go down by itself


def light_installation(wheel: Path, folder: Path) -> None:
    """Lays into `folder` what pip on the Pi would bring, by the pip of this machine."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    wanted = [line for line in light_requirements(wheel) if Requirement(line).name not in THERE_ALREADY]
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{level}_aarch64" for level in GLIBC_LEVELS)]
    foreign = ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
    foreign += [word for platform in platforms for word in ("--platform", platform)]
    subprocess.run([*pip, *foreign, *wanted], check=True, timeout=600)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True, timeout=120, stderr=subprocess.DEVNULL)


@pytest.mark.arm64
@pytest.mark.timeout(1200)
def test_edgesmith_itself_runs_on_the_pi(wheel: Path, arm_board: ArmBoard, tmp_path: Path):
    light_installation(wheel, tmp_path / "site")
    x, y = np.random.default_rng(0).integers(0, 256, (40, 4)).astype(np.float32), np.zeros(40, np.int64)
    np.savez(tmp_path / "evaluation.npz", x=x, y=y)
    config = {**BASE, "budget": {"size_bytes": 2000}, "model": "dense_int8.tflite"}
    (tmp_path / "edgesmith.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "compress.yaml").write_text(yaml.safe_dump({**config, "recipe": [{"quantize": {"scheme": "int8"}}]}))
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(MODELS / "dense_int8.tflite", "dense_int8.tflite")
        for name in ("site", "evaluation.npz", "edgesmith.yaml", "compress.yaml"):
            archive.add(tmp_path / name, name)

    def soon() -> Deadline:
        return Deadline.after(300)

    with Ssh(arm_board.device(), soon()) as pi:
        pi.put(tmp_path / "all.tar", "all.tar", soon())
        assert pi.run(["tar", "xf", "all.tar"], soon()).exit_status == 0
        edgesmith = ["env", "PYTHONPATH=site", "python3", "-m", "edgesmith"]
        assert pi.run(["env", "PYTHONPATH=site", "python3", "-c", "import tensorflow"], soon()).exit_status == 1
        ran = pi.run([*edgesmith, "run", "--json"], soon())
        assert ran.exit_status == 0, ran.stderr.decode()
        (row,) = json.loads(ran.stdout)["results"]
        assert (row["verdict"], row["emulated"], row["board"]["machine"]) == ("PASS", True, "aarch64")
        assert row["board"]["model"].startswith("Raspberry Pi 4")
        measured = pi.run([*edgesmith, "measure", "dense_int8.tflite", "--data", "evaluation.npz"], soon())
        assert measured.exit_status == 0, measured.stderr.decode()
        assert b"EMULATED: this latency is emulation time" in measured.stdout
        refused = pi.run([*edgesmith, "run", "compress.yaml"], soon())
        assert refused.exit_status == 2
        assert "edgesmith[tflite]" in " ".join(refused.stderr.decode().split())
