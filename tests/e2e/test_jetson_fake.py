"""The whole way to a Jetson of every JetPack: a FAKE one, over real SSH. No figure here says anything of a real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from device_tests.loopback import InProcessBoard, folder_for_boards
from device_tests.loopback_sshd import SshdBoard, why_no_sshd
from device_tests.measure import outputs_sha256
from device_tests.releases import Deployed, State
from edgesmith import cli
from edgesmith.config import load_config
from edgesmith.deploying import deploy_run, roll_back
from edgesmith.errors import BoardError, ConfigError, InputError
from edgesmith.files import sha256_file
from edgesmith.pipeline.options import RunOptions
from edgesmith.pipeline.run import run
from edgesmith.progress import Silent
from edgesmith.result import DeviceResult, EngineRecord, Result
from tests.e2e.project import Project, make_project, write_inventory
from tests.fake_jetsons import KINDS, FakeJetson
from tests.fake_tensorrt_board import expected

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "releases.md"

INT8 = tuple(name for name in KINDS if name != "4.6")
"""Those whose GPU computes in it; that of a Jetson Nano does not."""

Start = Callable[..., FakeJetson]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("jetson"))


@pytest.fixture
def server() -> Iterator[InProcessBoard]:
    """An SSH server of this process."""
    with folder_for_boards() as folder, InProcessBoard(folder / "board") as board:
        yield board


@pytest.fixture
def start(trained: Project, tmp_path: Path, server: InProcessBoard) -> Start:
    """Starts a fake Jetson behind the server."""

    def started(jetpack: str, *, binding: bool = True, **environment: str) -> FakeJetson:
        jetson = FakeJetson(tmp_path / "jetson", jetpack, environment, binding=binding)
        shutil.rmtree(server.home / "edgesmith" / "engines", ignore_errors=True)
        server.greeting = jetson.greeting
        write_inventory(trained.root, jetson.device(server))
        return jetson

    return started


def way(
    project: Project,
    scheme: str = "int8-float-io",
    *,
    remeasure: bool = False,
    tensorrt: dict[str, Any] | None = None,
    budget: dict[str, float] | None = None,
) -> tuple[Result, Path]:
    """`edgesmith run`, in this process: frameworks are imported once."""
    config = project.write_config(
        recipe=[{"quantize": {"scheme": scheme}}],
        devices=["jetson"],
        targets=["tensorrt"],
        budget=budget or {"accuracy_drop_pp": 5.0},
        measure={"min_runs": 20, "min_seconds": 0.2, "windows": 2, "warmup_max_seconds": 1.0},
        tensorrt=tensorrt,
    )
    options = RunOptions(runs_dir=project.root / "runs", inventory=project.root / "devices.yaml", remeasure=remeasure)
    return run(load_config(config), options, Silent())


def row(result: Result, variant: str = "compressed") -> DeviceResult:
    (found,) = [one for one in result.results if one.variant == variant]
    assert found.verdict == "PASS", found.findings
    return found


def engine(result: Result, variant: str = "compressed") -> EngineRecord:
    found = row(result, variant).engine
    assert found is not None
    return found


def codes(found: DeviceResult) -> dict[str, str]:
    """Findings by their code."""
    return {finding.code: finding.text for finding in found.findings}


def same_as_onnxruntime(found: DeviceResult, folder: Path, project: Project) -> bool:
    """Whether the board answered what ONNX Runtime does for the same file, every node as it stands."""
    assert found.artifact is not None
    path = str(folder / found.artifact.path)
    samples = np.load(project.root / "evaluation.npz")["x"]
    answers = [expected(path, sample[None])[0] for sample in samples]
    return outputs_sha256([np.concatenate(answers)]) == found.outputs_sha256


def check_fake(result: Result, folder: Path) -> None:
    """Nobody takes it for a Jetson."""
    assert all(one.fake for one in result.results)
    assert all((one.runner or "").startswith("FAKE tensorrt") for one in result.results)
    assert "fake_runtime" in codes(row(result))
    for name in ("report.html", "summary.md"):
        assert "stand-in for TensorRT" in (folder / name).read_text()
    page = (folder / "report.html").read_text()
    assert "Engine of tensorrt compressed" in page
    assert "FAKE TensorRT" in page


def check_trtexec(found: DeviceResult, folder: Path) -> None:
    """NVIDIA's program timed the very engine, and what differs in what is measured is told."""
    assert found.engine is not None
    theirs = found.engine.trtexec
    assert theirs is not None, found.engine.trtexec_reason
    assert found.engine.tensorrt.startswith(theirs.version)
    assert theirs.runs >= 100
    # What the fake takes where it is asked to measure as we do: transfers, no CUDA graph, no spinning, no overlap.
    assert (theirs.to_device_p50_ms, theirs.to_host_p50_ms) == (0.125, 0.0625)
    assert 2.0 <= theirs.compute_p50_ms <= 3.0
    assert theirs.ours_p50_ms is not None
    assert "page-locked" in theirs.difference[0]
    assert not any("random numbers" in line for line in theirs.difference)
    for name in ("report.html", "summary.md"):
        assert "ours, added up from the same parts" in (folder / name).read_text()
    assert "What differs" in (folder / "report.html").read_text()


def check_power(found: DeviceResult) -> None:
    assert found.energy_mj is not None, found.energy_mj_reason
    assert found.power is not None
    assert found.power_mode is not None


@pytest.mark.slow
@pytest.mark.parametrize("jetpack", INT8)
def test_int8_is_built_kept_built_anew_for_another_tensorrt_and_measured(trained: Project, start: Start, jetpack: str):
    jetson = start(jetpack)
    kind = jetson.kind
    first, folder = way(trained)
    built = engine(first)
    assert (built.cached, built.because) == (False, "no engine of this network is on the board: build it first")
    assert built.tensorrt.startswith(kind.tensorrt.rsplit(".", 1)[0])
    assert built.compute == kind.compute
    flags = () if kind.tensorrt.startswith("11") else ("fp16", "int8")
    assert built.precision == flags
    assert built.layer_precisions.get("int8", 0) >= 2
    assert engine(first, "float").layer_precisions.get("int8", 0) == 0
    assert built.parts is not None
    assert built.parts.runs == 100
    assert any(layer.sources for layer in built.layers)
    assert row(first).agreement is not None
    assert same_as_onnxruntime(row(first), folder, trained)
    check_fake(first, folder)
    check_power(row(first))
    check_trtexec(row(first), folder)
    board = row(first).board
    assert board is not None
    assert (board.runtimes["compute"], board.runtimes["FAKE"]) == (kind.compute, "tensorrt")

    assert built.gpu.startswith("NVIDIA Jetson")

    again, folder = way(trained, tensorrt={"cuda_graph": True})
    assert (engine(again).cached, engine(again).because, engine(again).key) == (True, "", built.key)
    assert (again.work.measurements, again.work.compiled_artifacts) == (2, 0)
    asked = row(again)
    assert "<dt>Asked for</dt><dd>cuda_graph</dd>" in (folder / "report.html").read_text()
    assert asked.artifact is not None
    assert asked.artifact.build["cuda_graph"] is True
    assert (asked.runner or "").endswith(", CUDA graph)")
    assert row(again).outputs_sha256 == row(first).outputs_sha256

    jetson.install(kind.update)
    updated, _ = way(trained)
    anew = engine(updated)
    assert not anew.cached
    assert anew.tensorrt != built.tensorrt
    assert f"built for {built.tensorrt}" in anew.because or f"built with TensorRT {built.tensorrt}" in anew.because
    assert anew.because in codes(row(updated))["engine"]


@pytest.mark.slow
def test_a_nano_refuses_int8_and_computes_in_float16(trained: Project, start: Start):
    jetson = start("4.6")
    with pytest.raises(ConfigError, match=r"compute capability 5\.3\) does not compute in int8") as refused:
        way(trained)
    assert "float16" in refused.value.next_step
    first, folder = way(trained, "float16")
    built = engine(first)
    assert (built.cached, built.compute, built.precision) == (False, "5.3", ("fp16",))
    assert engine(first, "float").precision == ()
    check_fake(first, folder)
    check_power(row(first))
    again, _ = way(trained, "float16", remeasure=True)
    assert engine(again).cached
    jetson.install(jetson.kind.update)
    updated, _ = way(trained, "float16")
    assert "TensorRT 8.2.1.8, built for 8.0.1.6" in engine(updated).because


@pytest.mark.slow
@pytest.mark.parametrize("jetpack", ["6.2", "7.2.2"])
def test_without_the_python_binding_trtexec_builds_and_times(trained: Project, start: Start, jetpack: str):
    """Size and latency are judged; what needs outputs is not, and it is told what brings them."""
    kind = start(jetpack, binding=False).kind
    first, folder = way(trained, budget={"size_bytes": 10_000_000})
    found = row(first)
    built = engine(first)
    assert (built.cached, built.tensorrt, built.compute) == (False, kind.tensorrt, kind.compute)
    assert built.builder == f"FAKE trtexec of TensorRT {kind.tensorrt}"
    assert built.parts is not None
    assert any(layer.sources for layer in built.layers)
    assert (found.runner or "").startswith(built.builder)
    assert found.latency_ms is not None
    assert found.latency_ms.p50 is not None
    assert 2.1 < found.latency_ms.p50 < 3.2
    assert (found.accuracy, found.agreement, found.energy_mj, found.outputs_sha256) == (None, None, None, None)
    for why in (found.accuracy_reason, found.agreement_reason, found.accuracy_drop_pp_reason, found.energy_mj_reason):
        assert "trtexec timed it alone" in (why or "")
    assert "lies between them" in codes(found)["trtexec_alone"]
    board = found.board
    assert board is not None
    assert board.runtimes["trtexec"] == kind.tensorrt
    page = (folder / "report.html").read_text()
    assert "hands out no outputs of our samples" in page
    assert "FAKE TensorRT" in page
    with pytest.raises(InputError, match="a release could not be checked: trtexec alone tells none"):
        released(trained, folder)

    again, folder = way(trained)
    (undecided,) = [one for one in again.results if one.variant == "compressed"]
    assert (undecided.verdict, again.exit_code, undecided.reused) == ("INCONCLUSIVE", 4, True)
    (told,) = [finding for finding in undecided.findings if finding.code == "accuracy_drop_pp"]
    assert "sudo apt-get install python3-libnvinfer" in told.next_step
    assert "trtexec timed it alone" in (folder / "junit.xml").read_text()

    anew, _ = way(trained, remeasure=True, budget={"size_bytes": 10_000_000})
    assert (engine(anew).cached, engine(anew).key) == (True, built.key)


@pytest.mark.slow
def test_layers_that_the_board_has_no_int8_kernel_for_are_left_in_float(trained: Project, start: Start):
    """The board says so when it builds; the next run knows, and measures nothing anew."""
    start("5.1")
    before, folder = way(trained)
    artifact = row(before).artifact
    assert artifact is not None
    proto = onnx.load(folder / artifact.path)
    node = [node.name for node in proto.graph.node if node.op_type == "Conv"][-1]

    start("5.1", EDGESMITH_FAKE_TENSORRT_FAIL_NODES=node)
    found, folder = way(trained, remeasure=True)
    told = codes(row(found))["no_int8_kernel"]
    assert "no int8 kernel for conv2" in told
    made = row(found).artifact
    assert made is not None
    assert "1-in-float" in made.path
    assert made.sha256 != artifact.sha256
    assert engine(found).layer_precisions["int8"] < engine(before).layer_precisions["int8"]
    assert same_as_onnxruntime(row(found), folder, trained)

    again, _ = way(trained)
    assert row(again).artifact == made
    assert (again.work.measurements, row(again).reused) == (0, True)
    assert codes(row(again))["no_int8_kernel"] == told


@pytest.mark.slow
@pytest.mark.sshd
def test_the_same_over_a_real_sshd(trained: Project, tmp_path: Path):
    if why := why_no_sshd():
        (pytest.fail if os.environ.get("EDGESMITH_REQUIRE_SSHD") == "1" else pytest.skip)(why)
    jetson = FakeJetson(tmp_path / "jetson", "6.2")
    variables = " ".join(f"{name}={value}" for name, value in jetson.environment.items())
    with folder_for_boards() as folder, SshdBoard(folder / "board", options=[f"SetEnv {variables}"]) as server:
        write_inventory(trained.root, jetson.device(server))
        result, run_folder = way(trained, remeasure=True)
    assert same_as_onnxruntime(row(result), run_folder, trained)
    check_fake(result, run_folder)


@pytest.mark.slow
def test_somebody_elses_quantized_onnx_is_measured_as_it_is(trained: Project, start: Start):
    start("6.2")
    _, folder = way(trained)
    for variant in ("float", "compressed"):
        (made,) = (folder / "artifacts" / "tensorrt").glob(f"{variant}-*.onnx")
        proto = onnx.load(made)
        del proto.metadata_props[:]  # nothing says any more that it is ours
        onnx.save(proto, trained.root / f"{variant}.onnx")
    config = trained.write_config(
        model="compressed.onnx",
        reference="float.onnx",
        recipe=None,
        data={"evaluation": "evaluation.npz"},
        devices=["jetson"],
        targets=["tensorrt"],
        budget={"accuracy_drop_pp": 5.0},
        measure={"min_runs": 20, "min_seconds": 0.2, "windows": 2, "warmup_max_seconds": 1.0},
    )
    options = RunOptions(runs_dir=trained.root / "runs", inventory=trained.root / "devices.yaml")
    result, folder = run(load_config(config), options, Silent())
    found, file = row(result), trained.root / "compressed.onnx"
    assert found.artifact is not None
    assert (found.artifact.sha256, found.target) == (sha256_file(file), "tensorrt")
    assert (engine(result).precision, engine(result, "float").precision) == (("fp16", "int8"), ())
    assert engine(result).layer_precisions["int8"] >= 2
    assert same_as_onnxruntime(found, folder, trained)
    assert found.agreement is not None
    assert found.accuracy_drop_pp is not None
    done = released(trained, folder)
    assert done.engine is not None
    assert done.engine.is_measured


def released(project: Project, folder: Path) -> Deployed:
    """`edgesmith deploy`, in this process."""
    (found,) = deploy_run(
        folder,
        devices=["jetson"],
        inventory=project.root / "devices.yaml",
        progress=Silent(),
        name="digits",
        keep=9,
    )
    assert found.deployed is not None, found.error
    assert "FAKE tensorrt" in found.lines[0]
    return found.deployed


@pytest.mark.slow
def test_a_release_keeps_its_engine_whatever_becomes_of_the_boards_others(
    trained: Project, start: Start, server: InProcessBoard
):
    jetson = start("5.1")
    result, folder = way(trained)
    measured, engines = engine(result), server.home / "edgesmith" / "engines"
    current = server.home / ".local/share/edgesmith/releases/digits/current"

    first = released(trained, folder)
    manifest = json.loads((current / "manifest.json").read_text())
    told, plan = manifest["engine"], current / manifest["engine"]["file"]
    assert (told["sha256"], told["is_measured"], told["fake"], told["note"]) == (measured.sha256, True, True, "")
    assert (told["tensorrt"], told["compute"], manifest["build"]["precision"]) == ("8.5.2.2", "7.2", ["fp16", "int8"])
    assert plan.samefile(engines / measured.key / "engine.plan")
    assert first.smoke.differences == (0.0,)
    assert released(trained, folder).state is State.SAME

    # An application on the board, as docs/releases.md shows it.
    opening, loading = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    program = f"{opening}{loading}print(open_engine(*open_release('digits')).num_io_tensors)"
    application = subprocess.run(
        [sys.executable, "-c", program.replace('"kws"', '"digits"')],
        env={**os.environ, **jetson.environment, "HOME": str(server.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert application.stdout.splitlines()[-1:] == ["2"], application.stderr

    # An update of TensorRT: the engine is another one, and the release before it cannot answer any more.
    jetson.install(jetson.kind.update)
    updated = released(trained, folder)
    assert updated.engine is not None
    assert (updated.state, updated.engine.is_measured) == (State.DEPLOYED, False)
    assert "that was of TensorRT 8.5.2.2, the board has 8.6.2.3 now" in updated.engine.note
    listed = CliRunner().invoke(
        cli.app, ["devices", "releases", "jetson", "--devices-file", str(trained.root / "devices.yaml")]
    )
    assert f"{first.version}  onnx" in listed.output
    assert "its engine is for TensorRT 8.5.2.2, 8.6.2.3 is there now: deploy again" in listed.output
    assert "by another engine than the one that runs" in listed.output
    (back,) = roll_back(
        "digits", devices=["jetson"], inventory=trained.root / "devices.yaml", progress=Silent(), runs_dir=folder.parent
    )
    assert isinstance(back.error, BoardError)
    assert "TensorRT 8.6.2.3, built for 8.5.2.2" in back.error.what
    assert "`edgesmith deploy RUN_FOLDER` builds its engine" in back.error.next_step
    assert current.resolve().name == updated.version

    # What the board keeps of engines goes; the releases stay whole, and going back works where TensorRT is theirs.
    jetson.install(jetson.kind.tensorrt)
    shutil.rmtree(engines)
    (back,) = roll_back(
        "digits", devices=["jetson"], inventory=trained.root / "devices.yaml", progress=Silent(), runs_dir=folder.parent
    )
    assert back.deployed is not None, back.error
    assert back.deployed.version == first.version == current.resolve().name

    (current / "engine.plan").write_bytes(b"damaged")
    (again,) = roll_back(
        "digits",
        devices=["jetson"],
        inventory=trained.root / "devices.yaml",
        progress=Silent(),
        runs_dir=folder.parent,
        to=first.version,
    )
    assert isinstance(again.error, BoardError)
    assert "engine.plan is not what its manifest says (sha256)" in again.error.what
