"""Engines as the workstation sees them: built before anything runs, refused with a next step, their times shared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from device_tests import engines, kept_engines
from device_tests.agent.tensorrt.engines import Engines
from device_tests.fake_jetson.site import write_site
from device_tests.session import BoardSession
from edgesmith import measure_one
from edgesmith.config import TensorRt
from edgesmith.errors import BoardError, BuildRefused
from edgesmith.files import sha256_file
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Device, LeaseRequest, Measurement, MeasureProtocol, Signature
from targets import tensorrt_build
from targets.board_runtime import shown
from tests.fake_tensorrt_board import cudart, expected, network, pictures
from tests.tiny_artifacts import artifact

pytestmark = pytest.mark.slow  # the fake libcudart needs a C compiler

QUICK = MeasureProtocol(min_runs=5, min_seconds=0.05, windows=2, warmup_max_seconds=0.5)
X = pictures(4)
Open = Callable[..., BoardSession]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """A board of this machine with a fake TensorRT of some version."""

    def opened(version: str = "10.3.0", name: str = "one", compute: str = "8.7") -> BoardSession:
        monkeypatch.setenv("PYTHONPATH", str(write_site(tmp_path / f"site-{version}", version, compute=compute)))
        monkeypatch.setenv("EDGESMITH_LIBCUDART", str(cudart()))
        monkeypatch.setenv("EDGESMITH_FAKE_CUDA_COMPUTE", compute)
        device = Device(name=name, transport="local", python=sys.executable, lease_dir=str(tmp_path / f"lease-{name}"))
        request = LeaseRequest(owner="test", run_id="test", token="t")
        return BoardSession(device, local_root=tmp_path / "here", progress=Silent(), lease=request)

    return opened


def built_from(folder: Path, proto: onnx.ModelProto | None = None, **options: Any) -> Artifact:
    path = folder / "net.onnx"
    path.write_bytes((proto or network()).SerializeToString())
    sha256 = sha256_file(path)
    return Artifact(
        target="tensorrt",
        path=path,
        format="onnx",
        precision="float32",
        sha256=sha256,
        signature=Signature(inputs=(), outputs=()),
        toolchain={},
        made_from="",
        size_bytes=path.stat().st_size,
        gzip_bytes=0,
        sparsity=None,
        build={"precision": [], **options, "onnx_sha256": sha256},
    )


def test_it_is_built_once_measured_taken_apart_and_found_again(session: Open, tmp_path: Path):
    net = built_from(tmp_path)
    with session() as board:
        (found,) = board.measure([net], X, QUICK)
        assert isinstance(found, Measurement), found
        answers = board.infer(net, X).outputs[0]
    np.testing.assert_array_equal(answers, np.concatenate([expected(str(net.path), x[None])[0] for x in X]))
    np.testing.assert_array_equal(found.outputs[0], answers)
    engine = found.engine
    assert engine is not None
    assert (engine.cached, engine.because) == (False, "no engine of this network is on the board: build it first")
    assert (engine.tensorrt, engine.compute, engine.precision) == ("10.3.0", "8.7", ())
    assert (engine.fake, found.fake, found.board.fake, found.board.stand_in) == (True, True, False, True)
    assert engine.parts is not None
    assert engine.parts.runs == engines.PROFILE_RUNS
    assert 0 < engine.parts.compute.p50_ms <= engine.parts.compute.p95_ms
    times = [layer.time_ms or 0.0 for layer in engine.layers]
    assert times == sorted(times, reverse=True)
    assert "conv" in {name for layer in engine.layers for name in layer.sources}
    with session() as board:
        again = board.build(net)
    assert (again.cached, again.because, again.key, again.seconds) == (True, "", engine.key, engine.seconds)


def test_an_engine_of_another_version_is_not_run_and_why_is_told(session: Open, tmp_path: Path):
    net = built_from(tmp_path)
    with session("10.3.0") as board:
        first = board.build(net)
    with session("10.13.3") as board:
        second = board.build(net)
    assert not second.cached
    assert second.key != first.key
    assert second.because == "the engine on the board is for something else: TensorRT 10.13.3.9, built for 10.3.0"
    other = built_from(tmp_path, network(size=16))
    with session("10.13.3") as board:
        stale = {one.tensorrt: one.stale for one in kept_engines.list_engines(board).engines}
        assert stale == {"10.3.0": "built with TensorRT 10.3.0, 10.13.3.9 is here", "10.13.3.9": ""}
        assert board.build(other).because == (
            "no engine of this network is on the board: build it first (others: built with TensorRT 10.3.0, "
            "10.13.3.9 is here)"
        )
        removed = kept_engines.remove_engines(board, stale=True)
    assert [one.key for one in removed.gone] == [first.key]
    assert (len(removed.left.engines), removed.freed_bytes > first.size_bytes) == (2, True)


def test_what_one_board_has_timed_is_given_to_the_next(session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net, kept = built_from(tmp_path), tmp_path / "here" / "timing-caches" / "fake-10.3.0-sm87.cache"
    asked: list[Any] = []
    ask = BoardSession.ask

    def noted(self: BoardSession, method: str, params: Any, *more: Any) -> Any:
        asked.append((method, params))
        return ask(self, method, params, *more)

    monkeypatch.setattr(BoardSession, "ask", noted)
    with session() as board:
        board.build(net)
    assert kept.is_file()
    sha256 = sha256_file(kept)
    with session(name="two") as board:
        board.build(built_from(tmp_path, network(size=16)))
    given = [params["options"].get("timing_cache_sha256") for method, params in asked if method == "build"]
    assert given == [None, sha256]
    with session("10.13.3", name="three") as board:
        board.build(net)
    assert [params["options"] for method, params in asked if method == "build"][-1] == dict(net.build)


def test_one_file_is_measured_as_it_says_and_as_is_asked_besides(
    tmp_path: Path, session: Open, monkeypatch: pytest.MonkeyPatch
):
    session()  # this machine has a fake TensorRT now
    proto, path, here = network(), tmp_path / "net.onnx", tmp_path / "runs"
    tensorrt_build.put_in(proto, {"precision": ["fp16"], "profile": None, "float32": [], "sparsity": False})
    path.write_bytes(proto.SerializeToString())
    np.savez(tmp_path / "x.npz", x=pictures(10), y=np.arange(10) % 2)
    monkeypatch.setattr(measure_one, "MeasureProtocol", partial(replace, QUICK))
    (row,) = measure_one.measure_artifact(
        path, tmp_path / "x.npz", devices=["local"], inventory=None, runs_dir=here, metric="top1", samples=None,
        threads=1, progress=Silent(), tensorrt=TensorRt(cuda_graph=True),
    )  # fmt: skip
    assert row.runner is not None
    assert row.runner.endswith(", CUDA graph)")
    (kept,) = Engines(str(next(here.rglob("engines")))).listed()
    assert kept["identity"]["precision"] == ["fp16"]


def test_a_refused_build_stands_in_its_place_and_is_asked_for_once(
    session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    net = built_from(tmp_path)
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_BUILD", "the board is tired")
    with session() as board:
        refused, well = board.measure([net, artifact("dense.onnx", "onnx")], pictures(4)[:, 0, 0, :4], QUICK)
        monkeypatch.setattr(engines, "build", None)
        with pytest.raises(BuildRefused) as again:
            board.build(net)
    assert isinstance(refused, BuildRefused)
    assert again.value is refused
    assert refused.code == "build-failed"
    assert refused.what.startswith("one: net.onnx (tensorrt): no engine was built: ")
    assert "the board is tired" in refused.what
    assert "last-failed.log" in refused.next_step
    assert isinstance(well, Measurement), well
    assert well.engine is None


def test_int8_on_a_gpu_without_it_is_refused_with_what_to_do(session: Open, tmp_path: Path):
    net = built_from(tmp_path, network(quantized=True), precision=["int8"])
    with session("8.2.1", compute="5.3") as board, pytest.raises(BuildRefused, match=r"capability 5\.3") as refused:
        board.infer(net, X)
    assert refused.value.code == "no-int8"
    assert "float16" in refused.value.next_step


def test_a_build_that_lacks_a_kernel_names_the_nodes(session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net = built_from(tmp_path, network(quantized=True), precision=["int8"])
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_NODES", "conv")
    with session() as board, pytest.raises(BuildRefused) as refused:
        board.build(net)
    assert (refused.value.code, refused.value.nodes) == ("no-implementation", ("conv",))


def test_a_gpu_that_fails_is_not_the_models_fault(session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net = built_from(tmp_path)
    with session() as board:
        board.build(net)
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", "cudaEventCreateWithFlags=719")
    with session() as board:
        (found,) = board.measure([net], X, QUICK)
    assert isinstance(found, BoardError)
    assert "CUDA failed while the model was loaded" in found.what


def test_a_runtime_that_is_a_stand_in_is_shown_as_one():
    told = {"compute": "8.7", "tensorrt": "10.3.0", "FAKE": "tensorrt", "cuda": "12.6"}
    assert shown(told) == "FAKE tensorrt, tensorrt 10.3.0, cuda 12.6, GPU of compute capability 8.7"
    assert shown({"onnxruntime": "1.2"}) == "onnxruntime 1.2"
