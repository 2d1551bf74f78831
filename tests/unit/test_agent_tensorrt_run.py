"""Engines run on fake boards of every TensorRT: the numbers, the order, the shapes, the parts of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.agent import child, runners
from device_tests.agent.cuda.interface import CudaError
from device_tests.agent.protocol import Deadline, Refusal
from tests.fake_tensorrt_board import VERSIONS, Board, expected, network, pictures, several_inputs

pytestmark = pytest.mark.slow  # the fake libcudart needs a C compiler

INT8 = {"precision": ["fp16", "int8"]}
OPEN = {"x": [[1, 3, 4, 4], [1, 3, 8, 8], [1, 3, 16, 16]]}
BY_NUMBER, BY_NAME = "8.2", "10.3"
Start = Callable[..., Board]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda version, **trt: Board(tmp_path / "board", monkeypatch, version, **trt)


def refused(code: str, act: Callable[[], Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        act()
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("graph", [False, True], ids=["enqueued", "graph"])
def test_every_version_computes_the_networks_numbers(start: Start, version: str, graph: bool):
    board = start(version)
    path = board.put(network(quantized=True))
    board.build(path, INT8)
    runner = board.runner(path, dict(INT8, cuda_graph=graph))
    assert runner.name.startswith(f"FAKE tensorrt {version}")
    assert runner.output_quantization == [None]
    assert [tuple(one) for one in runner.inputs] == [("x", [3, 8, 8], np.dtype("float32"), None)]
    x = pictures(5)
    found = [runner([x[n : n + 1]]) for n in range(5)]
    for n in range(5):
        (y,) = found[n]
        np.testing.assert_allclose(y, expected(path, x[n : n + 1])[0], rtol=1e-5, atol=1e-6)
    # Each run's outputs are its own.
    assert len({y.tobytes() for (y,) in found}) == 5
    assert runner.notes == []
    runner.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_several_inputs_and_types_keep_the_networks_order(start: Start, version: str):
    board = start(version)
    path = board.put(several_inputs())
    record = board.build(path)
    runner = board.runner(path)
    whole = "int64" if version.startswith("1") else "int32"
    assert [(one.name, str(one.dtype)) for one in runner.inputs] == [
        ("pictures", "float32"),
        ("counts", whole),
        ("mask", "bool"),
    ]
    assert [one["name"] for one in record["outputs"]] == ["twice", "masked", "halves"]
    x, n = np.array([[5.0, 7.5, -1.0, 0.25]], np.float32), np.array([[1, -2, 3, 1000]], np.int64)
    mask = np.array([[True, True, False, True]])
    # As samples come: int64, whatever the engine has.
    twice, masked, halves = runner([x, n, mask])
    assert (str(twice.dtype), str(masked.dtype), str(halves.dtype)) == (whole, "float32", "float16")
    np.testing.assert_array_equal(twice, 2 * n)
    np.testing.assert_array_equal(masked, np.where(mask, x - n, x))
    np.testing.assert_array_equal(halves, x.astype(np.float16))
    runner.close()


def test_an_integer_that_does_not_fit_is_refused_and_not_wrapped(start: Start):
    board = start("8.5")
    path = board.put(several_inputs())
    board.build(path)
    runner = board.runner(path)
    values = [np.zeros((1, 4), np.float32), np.full((1, 4), 1 << 40, np.int64), np.zeros((1, 4), bool)]
    assert "which int32 does not" in refused("model-refused", lambda: runner(values)).message
    runner.close()


@pytest.mark.parametrize("version", [BY_NUMBER, BY_NAME])
@pytest.mark.parametrize("graph", [False, True], ids=["enqueued", "graph"])
def test_open_sizes_take_each_samples_shape(start: Start, version: str, graph: bool):
    board = start(version)
    path = board.put(network(batch="n", size="s"))
    options = {"profile": OPEN, "cuda_graph": graph}
    board.build(path, options)
    runner = board.runner(path, options)
    assert runner.inputs[0].shape == [3, None, None]
    for size in (8, 16, 4, 8):
        x = pictures(size=size, seed=size)
        np.testing.assert_allclose(runner([x])[0], expected(path, x)[0], rtol=1e-5, atol=1e-6)
    found = refused("shape-refused", lambda: runner([pictures(size=32)]))
    assert found.message == "the engine does not take [1, 3, 32, 32] for input 'x'"
    # A shape that was refused leaves a runner that works.
    np.testing.assert_allclose(runner([x])[0], expected(path, x)[0], rtol=1e-5, atol=1e-6)
    runner.close()


def test_an_open_batch_is_run_with_one(start: Start):
    board = start(BY_NUMBER)
    path = board.put(network(batch="n"))
    board.build(path)
    runner = board.runner(path)
    x = pictures()
    np.testing.assert_allclose(runner([x])[0], expected(path, x)[0], rtol=1e-5, atol=1e-6)
    refused("shape-refused", lambda: runner([pictures(2)]))
    runner.close()


def test_a_fixed_batch_is_refused_with_what_to_do(start: Start):
    board = start(BY_NAME)
    path = board.put(network(batch=4))
    board.build(path)
    assert "export it with batch size 1" in refused("model-refused", lambda: board.runner(path)).message


def test_wrong_shapes_and_counts_are_refused(start: Start):
    board = start(BY_NAME)
    path = board.put(network())
    board.build(path)
    runner = board.runner(path)
    assert "is [1, 3, 8, 8], not [1, 3, 4, 4]" in refused("shape-refused", lambda: runner([pictures(size=4)])).message
    refused("model-refused", lambda: runner([pictures(), pictures()]))
    runner.close()


@pytest.mark.parametrize("version", [BY_NUMBER, BY_NAME])
def test_the_parts_of_a_run_are_times_of_the_gpu(start: Start, version: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_COPY_US", "3000")
    board = start(version)
    path = board.put(network())
    board.build(path)
    runner = board.runner(path)
    began = time.perf_counter()
    into, compute, out = runner.parts([pictures()])
    wall_ms = (time.perf_counter() - began) * 1e3
    assert into >= 3.0
    assert out >= 3.0
    assert 0 < into + compute + out < wall_ms
    assert compute > 0
    runner.close()


@pytest.mark.parametrize("version", ["8.0", "8.2", "8.6", "10.16", "11.4"])
def test_layers_are_timed_and_led_back_to_the_networks_nodes(start: Start, version: str):
    board = start(version)
    path = board.put(network(quantized=True))
    board.build(path, INT8)
    runner = board.runner(path, INT8)
    x = pictures()
    rows = runner.layers([x], 4)
    assert [row["sources"] for row in rows] == [
        ["x_quantize"],
        ["conv", "relu"] if version in ("8.6", "10.16", "11.4") else ["kernel_quantize", "conv", "relu"],
        ["average"],
        ["flatten"],
        ["dense"],
    ]
    assert all(row["time_ms"] > 0 for row in rows)
    assert rows[1]["precision"] == (None if version == "8.0" else "int8")
    np.testing.assert_allclose(runner([x])[0], expected(path, x)[0], rtol=1e-5, atol=1e-6)
    runner.close()


def test_an_engine_is_refused_before_tensorrt_sees_it(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("8.5")
    path = board.put(network())
    record = board.build(path)

    class Runtime:
        def __init__(self, _log: object) -> None:
            raise AssertionError("the engine was to be refused before")

    monkeypatch.setattr(board.trt, "Runtime", Runtime)
    found = refused("engine-mismatch", lambda: board.runner(path, {"precision": ["fp16"]}))
    assert found.facts["differences"] == ['precision ["fp16"], built for none']
    refused("engine-missing", lambda: board.runner(board.put(network(batch="n"))))
    Path(record["path"]).write_bytes(b"damage")
    assert "build it again" in refused("engine-damaged", lambda: board.runner(path)).message
    board.become("8.6")
    found = refused("engine-mismatch", lambda: board.runner(path))
    assert found.facts["differences"] == ["TensorRT 8.6.2.3, built for 8.5.2.2"]
    board.become("8.5", compute="7.2")
    found = refused("engine-mismatch", lambda: board.runner(path))
    assert found.facts["differences"] == ["compute capability 7.2, built for 8.7"]


def test_a_version_compatible_engine_runs_on_a_later_tensorrt(start: Start):
    board = start("8.6")
    options = {"version_compatible": True}
    path = board.put(network())
    board.build(path, options)
    board.become("10.3")
    runner = board.runner(path, options)
    assert "engine of 8.6.2.3" in runner.name
    x = pictures()
    np.testing.assert_allclose(runner([x])[0], expected(path, x)[0], rtol=1e-5, atol=1e-6)
    runner.close()


def test_an_engine_that_tensorrt_refuses_is_told_in_its_words(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("8.5")
    path = board.put(network())
    board.build(path)
    from device_tests.fake_jetson import trt_plan

    monkeypatch.setattr(trt_plan, "MARK", "something else")
    assert "magicTagRead" in refused("engine-refused", lambda: board.runner(path)).message


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaGraphInstantiateWithFlags"])
def test_a_graph_that_cannot_be_recorded_is_done_without_and_said(
    start: Start, monkeypatch: pytest.MonkeyPatch, call: str
):
    board = start(BY_NAME)
    path = board.put(network())
    board.build(path)
    runner = board.runner(path, {"cuda_graph": True})
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", f"{call}=900")
    x = pictures()
    np.testing.assert_allclose(runner([x])[0], expected(path, x)[0], rtol=1e-5, atol=1e-6)
    (note,) = runner.notes
    assert note.startswith(f"no CUDA graph: {call}: cudaErrorStreamCaptureUnsupported")
    np.testing.assert_allclose(runner([x])[0], expected(path, x)[0], rtol=1e-5, atol=1e-6)
    runner.close()


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_a_cuda_error_in_a_run_is_an_answer(start: Start, monkeypatch: pytest.MonkeyPatch, call: str):
    board = start(BY_NAME)
    path = board.put(network())
    board.build(path)
    runner = board.runner(path)
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", f"{call}=2")
    found = refused("not-enough-memory", lambda: runner([pictures()]))
    assert found.message.startswith(f"the run failed: {call}")
    assert found.message.endswith("cudaErrorMemoryAllocation, out of memory (CUDA error 2)")
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", "cudaStreamSynchronize=719")
    assert "unspecified launch failure" in refused("runtime-failed", lambda: runner([pictures()])).message
    monkeypatch.delenv("EDGESMITH_FAKE_CUDA_FAIL")
    assert len(runner([pictures()])) == 1
    runner.close()


def test_a_runner_gives_back_all_it_took(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start(BY_NAME)
    path = board.put(network(batch="n", size="s"))
    options = {"profile": OPEN, "cuda_graph": True}
    board.build(path, options)
    from device_tests.agent.cuda import interface

    runner = board.runner(path, options)
    for size in (4, 16, 8):
        runner([pictures(size=size)])
    cuda = runner._here.cuda
    left: list[int] = []
    monkeypatch.setattr(interface.CudaRuntime, "close", lambda self: left.append(sum(map(len, _books(self)))) or None)
    assert sum(map(len, _books(cuda))) > 0
    runner.close()
    runner.close()
    assert left[0] == 0


def _books(cuda: Any) -> list[Any]:
    return [book for name, book in vars(cuda).items() if isinstance(book, dict)]


def test_tensorrt_writes_to_stderr_alone(start: Start, capfd: pytest.CaptureFixture[str]):
    board = start("8.5")
    path = board.put(network())
    board.build(path)
    board.runner(path).close()
    told = capfd.readouterr()
    assert told.out == ""
    assert "TensorRT [W] FAKE TensorRT 8.5.2.2" in told.err


def test_the_agents_child_builds_loads_measures_and_takes_apart(start: Start, tmp_path: Path):
    board = start(BY_NAME)
    path = board.put(network())
    np.save(tmp_path / "x.npy", pictures(6))
    holder = child.Child()
    told: list[Any] = []
    options = {"cuda": "ctypes", "onnx_sha256": Path(path).name}
    asked = {"runner": "tensorrt", "path": path, "options": options, "folder": board.engines.root}
    record = holder.build(dict(asked, how={"rebuild": True}), Deadline(60), lambda **event: told.append(event))
    assert not record["cached"]
    load = {"runner": "tensorrt", "path": path, "threads": 1, "options": options}
    samples = {"inputs": str(tmp_path / "x.npy"), "inputs_dtype": "float32"}
    loaded = holder.load({**load, **samples}, None, None)
    assert loaded["name"].startswith("FAKE tensorrt 10.3.0 (CUDA 12.6 by ctypes")
    holder.warm_up({"max_s": 0.2}, None, None)
    assert len(holder.window({"runs": 5, "seconds": 0}, None, None)["ns"]) >= 5
    parts = holder.parts({"runs": 7}, None, None)
    assert {name: len(values) for name, values in parts.items()} == {"in_ns": 7, "compute_ns": 7, "out_ns": 7}
    assert all(value >= 0 for values in parts.values() for value in values)
    assert len(holder.layers({"runs": 2}, None, None)["layers"]) == 4
    (tmp_path / "out").mkdir()
    files = holder.outputs({"folder": str(tmp_path / "out")}, Deadline(60), lambda **_: None)["files"]
    found = np.load(files[0]["path"])
    wanted = np.concatenate([expected(path, x[None])[0] for x in pictures(6)])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    holder._runner.close()


def test_a_provider_that_is_not_there_is_told(start: Start):
    board = start(BY_NAME)
    path = board.put(network())
    found = refused("no-gpu", lambda: board.build(path, {"cuda": "opencl"}))
    assert "no such provider; there are auto, pycuda, ctypes, cuda-bindings" in found.message
    assert issubclass(CudaError, RuntimeError)
    assert runners.names() == ["onnxruntime", "tensorrt", "tflite"]
