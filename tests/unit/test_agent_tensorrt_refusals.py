"""Builds that fail on a fake board: parse errors, gaps, too little memory, no GPU; each with what to do about it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from device_tests.agent import runners
from device_tests.agent.protocol import Refusal
from tests.fake_tensorrt_board import MIB, Board, network

pytestmark = pytest.mark.slow  # the fake libcudart needs a C compiler

INT8 = {"precision": ["fp16", "int8"]}
Start = Callable[..., Board]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda version, **trt: Board(tmp_path / "board", monkeypatch, version, **trt)


def refused(code: str, build: Callable[[], Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        build()
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("version", ["8.0", "8.5", "10.3", "11.4"])
def test_a_network_that_is_not_read_is_told_by_its_node(start: Start, version: str):
    board = start(version)
    proto = network(quantized=True)
    for tensor in proto.graph.initializer:
        if tensor.name == "zero":
            tensor.CopyFrom(numpy_helper.from_array(np.array(5, np.int8), "zero"))
    found = refused("parse-failed", lambda: board.build(board.put(proto), INT8))
    assert found.message.startswith("TensorRT cannot read the network: node x_quantize (QuantizeLinear): ")
    assert "UNSUPPORTED_NODE" in found.message
    first = found.facts["errors"][0]
    assert (first["name"], first["op"], first["node"]) == ("x_quantize", "QuantizeLinear", 0)
    assert len(found.facts["texts"]) == len(found.facts["errors"]) > 1
    assert board.engines.keys() == []
    assert "zero point" in Path(found.facts["log"]).read_text()


def test_what_is_no_onnx_is_told(start: Start):
    board = start("8.5")
    path = board.folder / "blobs" / ("ab" * 32)
    path.write_bytes(b"no network")
    found = refused("parse-failed", lambda: board.build(str(path)))
    assert "Failed to parse the ONNX model" in found.message
    assert found.facts["errors"][0]["name"] is None


@pytest.mark.parametrize("version", ["8.2", "8.5", "10.3", "11.0"])
def test_a_gap_names_the_nodes_to_leave_in_float(start: Start, version: str, monkeypatch: pytest.MonkeyPatch):
    board = start(version, compute="7.2")
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_NODES", "conv")
    found = refused("no-implementation", lambda: board.build(board.put(network(quantized=True)), INT8))
    assert found.message == "TensorRT has no kernel for kernel_quantize, conv, relu on this GPU: leave conv in float"
    assert found.facts["quantized"] == ["conv"]
    assert found.facts["nodes"] == ["kernel_quantize", "conv", "relu"]
    assert found.facts["layer"] == "kernel + kernel_quantize + conv + relu"
    # The variant without those Q/DQ, which the workstation makes, is built.
    assert not board.build(board.put(network()), INT8)["cached"]


def test_a_quantized_file_without_int8_is_told_in_tensorrts_words(start: Start):
    board = start("8.5")
    found = refused("build-failed", lambda: board.build(board.put(network(quantized=True)), {"precision": ["fp16"]}))
    assert "int8 is not configured in the builder" in found.message


def test_a_small_board_is_built_with_the_low_plan_and_says_so(start: Start):
    board = start("10.3")
    board.memory(available_mb=1500)
    # A Jetson's GPU shares the system's memory; the fake GPU has its own 8 GiB.
    record = board.build(board.put(network()))
    assert (record["memory"]["low"], board.header(record)["level"]) == (True, 1)
    assert record["memory"]["workspace_bytes"] < 128 * MIB
    assert record["notes"][0].startswith("1500 MB of memory is free: built with little workspace")
    assert "fallocate" in record["notes"][1]


def test_a_build_out_of_memory_is_tried_with_less_and_less(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("10.3")
    path = board.put(network())
    for highest, notes in ((1, 1), (0, 2)):
        monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_MAX_LEVEL", str(highest))
        record = board.build(path, rebuild=True)
        assert board.header(record)["level"] == highest
        assert record["memory"]["optimization_level"] == highest
        assert len(record["notes"]) == notes
        assert record["notes"][0].startswith("the first build ran out of memory")


def test_a_level_that_was_asked_for_is_not_lowered(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("10.3")
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_MAX_LEVEL", "1")
    found = refused("not-enough-memory", lambda: board.build(board.put(network()), {"optimization_level": 3}))
    assert "OutOfMemory" in found.message
    assert found.facts["memory"]["low"]


def test_out_of_memory_before_8_6_is_tried_twice_and_told(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("8.5")
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_BUILD", "Error Code 1: Cuda Runtime (out of memory)")
    found = refused("not-enough-memory", lambda: board.build(board.put(network())))
    assert found.message.startswith("the board ran out of memory: Error Code 1")
    assert Path(found.facts["log"]).read_text().count("out of memory") == 2


def test_too_little_workspace_is_tried_with_all_there_is(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("8.4")
    text = "(Could not find any implementation for node conv due to insufficient workspace. See verbose log.)"
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_BUILD", text)
    found = refused("not-enough-workspace", lambda: board.build(board.put(network()), low_memory=True))
    assert found.facts["memory"]["workspace_bytes"] == found.facts["memory"]["most_workspace_bytes"] > 128 * MIB
    assert found.facts["nodes"] == ["conv"]


def test_a_build_that_fails_for_another_reason_is_tried_once(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("10.3")
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_BUILD", "Error Code 9: Skipping tactic, the moon is full")
    found = refused("build-failed", lambda: board.build(board.put(network())))
    assert "the moon is full" in found.message
    assert Path(found.facts["log"]).read_text().count("moon") == 1


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        ("EDGESMITH_FAKE_CUDA_DRIVER", "there is no NVIDIA driver here"),
        ("EDGESMITH_FAKE_CUDA_DEVICES", "no CUDA-capable"),
    ],
)
def test_without_a_gpu_tensorrt_is_not_even_imported(
    start: Start, monkeypatch: pytest.MonkeyPatch, variable: str, why: str
):
    board = start("10.3")
    monkeypatch.setenv(variable, "0")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    path = board.put(network())
    found = refused("no-gpu", lambda: board.build(path))
    assert why in found.message
    assert refused("no-gpu", lambda: board.runner(path)).message == found.message


def test_without_the_binding_the_command_is_told(start: Start, monkeypatch: pytest.MonkeyPatch):
    board = start("8.5")
    path = board.put(network())
    place = board.folder / "root" / "usr" / "lib" / "python3.8" / "dist-packages" / "tensorrt"
    place.mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "tensorrt")
    with pytest.raises(ImportError, match=r"python3\.8.* is for Python 3\.8, this is 3\.\d+: use /usr/bin/python3\.8"):
        board.build(path)


def test_the_probe_tells_versions(start: Start, monkeypatch: pytest.MonkeyPatch):
    start("8.5")
    # `find_spec` asks a module that is imported already for its spec.
    monkeypatch.setattr(sys.modules["tensorrt"], "__spec__", object())
    told = {"tensorrt": "8.5.2.2", "cuda": "12.6", "compute": "8.7", "FAKE": "tensorrt"}
    assert runners.load("tensorrt").probe() == told


def test_the_probe_of_a_machine_without_tensorrt_is_quick_and_imports_nothing(tmp_path: Path):
    code = (
        "import sys\n"
        "from device_tests.agent import runners\n"
        "try: runners.load('tensorrt').probe()\n"
        "except ImportError as error: print(error)\n"
        "print('numpy' in sys.modules, 'ctypes' in sys.modules)"
    )
    here = Path(__file__).resolve().parents[2]
    environment = dict(os.environ, PYTHONPATH=str(here))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "No module named 'tensorrt'\nFalse False\n"
