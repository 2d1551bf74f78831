"""`edgesmith doctor` on a Jetson of every JetPack: a FAKE one, over real SSH. It says nothing of a real one."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from device_tests.fake_jetson.site import write_site
from device_tests.loopback import InProcessBoard, folder_for_boards
from edgesmith import cli
from edgesmith.doctor import running
from tests.e2e.project import write_inventory
from tests.fake_cuda import PACKAGES
from tests.fake_jetsons import KINDS, FakeJetson

pytestmark = pytest.mark.slow

Start = Callable[..., FakeJetson]

FACTS = ("JetPack", "TensorRT", "CUDA provider", "numpy", "power mode", "swap", "free memory")
PRECISIONS = ("tensorrt float32", "tensorrt float16", "tensorrt int8")


@pytest.fixture
def start(nobodys_ssh_setup: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a fake Jetson behind an SSH server of this process, with its inventory in the working folder."""
    monkeypatch.chdir(tmp_path)
    # Latency is told and not judged: a few runs do.
    for name in ("LONG", "SHORT"):
        few = replace(running.LONG, min_runs=4, min_seconds=0.01, windows=2, warmup_max_seconds=0.1)
        monkeypatch.setattr(running, name, few)
    with folder_for_boards() as folder, InProcessBoard(folder / "board") as server:

        def started(jetpack: str, *, dla_cores: int = 0, binding: bool = True, **environment: str) -> FakeJetson:
            jetson = FakeJetson(tmp_path / "jetson", jetpack, environment, binding=binding)
            kind = jetson.kind
            if binding:
                write_site(tmp_path / "jetson" / "site", kind.tensorrt, compute=kind.compute, dla_cores=dla_cores)
            server.greeting = jetson.greeting
            write_inventory(tmp_path, jetson.device(server))
            return jetson

        yield started


def doctor(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["doctor", "--device", "jetson", "--devices-file", "devices.yaml", *words])


def trials(told: Any) -> dict[str, Any]:
    """By name."""
    (board,) = told["boards"]
    return {trial["name"]: trial for trial in board["self_test"]["trials"]}


@pytest.mark.parametrize("jetpack", KINDS)
def test_every_jetpack_is_shown_and_tested(start: Start, jetpack: str, tmp_path: Path):
    # Xavier: two DLAs, and a GPU that lacks some int8 kernels.
    lacks = {"EDGESMITH_FAKE_TENSORRT_FAIL_NODES": "Conv__1"} if jetpack == "5.1" else {}
    # Somebody has installed pycuda and cuda.bindings.
    has_all = {"PYTHONPATH": f"{tmp_path / 'jetson' / 'site'}:{PACKAGES}"} if jetpack == "7.0" else {}
    jetson = start(jetpack, dla_cores=2 if jetpack == "5.1" else 0, **lacks, **has_all)
    kind = jetson.kind
    done = doctor("--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0, [trial for trial in trials(told).values() if trial["outcome"] == "FAILED"]
    rows = {row["name"]: row for row in told["rows"]}
    for name in FACTS:
        assert rows[f"jetson: {name}"]["ok"], rows[f"jetson: {name}"]
    assert rows["jetson: TensorRT"]["text"].startswith(f"FAKE: {kind.tensorrt.rsplit('.', 1)[0]}")
    taken = "pycuda" if has_all else "ctypes"
    assert rows["jetson: CUDA provider"]["text"].startswith(f"FAKE: {taken}: CUDA {kind.cuda}")

    assert rows["jetson: self-test"]["text"].startswith("FAKE: all ")
    found = trials(told)
    tensorrt = {name: trial for name, trial in found.items() if name.startswith("tensorrt")}
    assert all(trial["text"].startswith("FAKE TensorRT: ") for trial in tensorrt.values())
    has_int8 = kind.compute != "5.3"
    assert {name: tensorrt[name]["outcome"] for name in PRECISIONS} == {
        "tensorrt float32": "ok",
        "tensorrt float16": "ok",
        "tensorrt int8": "ok" if has_int8 else "--",
    }
    assert has_int8 or "compute capability 5.3) does not compute in int8" in tensorrt["tensorrt int8"]["text"]
    for name in PRECISIONS[: 3 if has_int8 else 2]:
        trial = tensorrt[name]
        assert trial["largest_error"] <= trial["tolerance"]
        assert not trial["engine"]["cached"]
        assert trial["engine"]["fake"]
        assert trial["engine"]["parts"] is not None
        assert trial["measured"]["runner"].startswith("FAKE tensorrt")
        assert trial["measured"]["power"]["mean_mw"] is not None
    if has_int8:
        assert dict(tensorrt["tensorrt int8"]["engine"]["layer_precisions"])["int8"] >= 2
    assert tensorrt["tensorrt float32"]["tolerance"] == (
        2e-3 if kind.compute >= "8" or kind.compute == "11.0" else 1e-4
    )
    assert tensorrt["tensorrt cache"]["engine"]["cached"]
    assert tensorrt["tensorrt trtexec"]["engine"]["trtexec"]["p50_ms"] > 0
    there = ("ctypes", "pycuda", "cuda-bindings") if has_all else ("ctypes",)
    for name in ("tensorrt CUDA graph", *(f"tensorrt by {provider}" for provider in there)):
        assert tensorrt[name]["outcome"] == "ok", tensorrt[name]
        assert "the same bits as float32" in tensorrt[name]["text"]
        # "CUDA graph", "by ctypes"
        assert name.removeprefix("tensorrt ") in tensorrt[name]["measured"]["runner"]
    assert has_all or "not there" in tensorrt["tensorrt by pycuda"]["text"]
    if lacks:
        told_of = "with the depthwise layer in float: there is no int8 kernel for Conv__1"
        assert told_of in tensorrt["tensorrt int8"]["text"]
        assert tensorrt["tensorrt DLA"]["outcome"] == "ok"
        assert "DLA core 0 can take" in tensorrt["tensorrt DLA"]["text"]
        assert "DLA core 0" in tensorrt["tensorrt DLA"]["measured"]["runner"]

    with zipfile.ZipFile(told["boards"][0]["bundle"]) as bundle:
        names = set(bundle.namelist())
        assert "FAKE" in bundle.read("README.txt").decode()
        assert json.loads(bundle.read("doctor.json"))["fake"]
        assert "FAKE" in bundle.read("engines/tensorrt-float16/build.log").decode()
        assert "FAKE" in bundle.read("agent.log").decode()
        assert "127.0.0.1" not in "".join(bundle.read(name).decode() for name in names)
    has_inspector = not kind.tensorrt.startswith("8.0")
    assert ("engines/tensorrt-float16/layers.json" in names) == has_inspector
    assert {"capability.json", "latency/tensorrt-float32.json"} <= names


def test_an_engine_that_computes_wrongly_is_exit_3(start: Start):
    start("6.2", EDGESMITH_FAKE_TENSORRT_WRONG="0.5")
    done = doctor()
    assert done.exit_code == 3
    lines = {line[7:33].strip(): line for line in done.stdout.splitlines()}
    for name in PRECISIONS:
        assert lines[name].startswith("FAILED")
        assert "FAKE TensorRT: WRONG: error 2." in lines[name]
    assert lines["onnxruntime int8"].startswith("ok")
    # The same wrong numbers by another way are no finding of that way.
    assert "the same bits" in lines["tensorrt by ctypes"]
    assert Path("edgesmith-doctor-jetson.zip").is_file()


def test_builds_that_fail_do_not_end_the_other_trials_and_leave_their_logs(start: Start):
    start("5.1", dla_cores=1, EDGESMITH_FAKE_TENSORRT_FAIL_BUILD="Error Code 2: OutOfMemory (no further information)")
    done = doctor("--json")
    assert done.exit_code == 3
    told = json.loads(done.stdout)
    found = trials(told)
    assert [found[name]["outcome"] for name in PRECISIONS] == ["FAILED"] * 3
    assert "no engine was built" in found["tensorrt float32"]["text"]
    assert found["tensorrt cache"]["outcome"] == "--"
    assert "a finding, no failure" in found["tensorrt DLA"]["text"]
    assert found["onnxruntime float32"]["outcome"] == "ok"
    with zipfile.ZipFile(told["boards"][0]["bundle"]) as bundle:
        assert "OutOfMemory" in bundle.read("engines/tensorrt-int8/failed-build.log").decode()


def test_without_the_binding_trtexec_builds_and_times_and_no_answer_is_judged(start: Start):
    start("6.2", binding=False)
    done = doctor("--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    found = trials(told)
    assert [found[name]["outcome"] for name in PRECISIONS] == ["--"] * 3
    for name in PRECISIONS:
        assert found[name]["text"].startswith("FAKE TensorRT: its answers are not known: ")
        assert found[name]["largest_error"] is None
        assert found[name]["measured"]["latency_ms"]["p50"] > 0
    assert found["tensorrt cache"]["outcome"] == "ok"
    assert "tensorrt CUDA graph" not in found
    rows = {row["name"]: row["text"] for row in told["rows"]}
    assert "by trtexec alone" in rows["jetson: TensorRT"]
