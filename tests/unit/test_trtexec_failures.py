"""What a trtexec that failed has said, and what is made of it. The lines have the layout of real logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.tensorrt import trtexec, trtexec_failures
from device_tests.agent.tensorrt.log import Log
from device_tests.agent.tensorrt.onnx_nodes import Node

NODES = [Node("stem", "Conv", ["x"], ["a"]), Node("odd", "Strange", ["a"], ["y"])]
LIMITS = {"workspace_bytes": 64 << 20}

PARSE_8 = """\
[06/01/2023-10:20:30] [I] Start parsing network model
[06/01/2023-10:20:30] [E] [TRT] ModelImporter.cpp:773: While parsing node number 1 [Strange -> "y"]:
[06/01/2023-10:20:30] [E] [TRT] ModelImporter.cpp:774: --- Begin node ---
[06/01/2023-10:20:30] [E] [TRT] ModelImporter.cpp:775: input: "a"
output: "y"
name: "odd"
[06/01/2023-10:20:30] [E] [TRT] ModelImporter.cpp:776: --- End node ---
[06/01/2023-10:20:30] [E] [TRT] ModelImporter.cpp:779: ERROR: builtin_op_importers.cpp:4890 In function importFallback:
[8] Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"
[06/01/2023-10:20:30] [E] Failed to parse onnx file
[06/01/2023-10:20:30] [E] Parsing model failed
"""

PARSE_10 = """\
[06/01/2025-10:20:30] [E] [TRT] ModelImporter.cpp:949: While parsing node number 1 [Strange -> "y"]:
[06/01/2025-10:20:30] [E] [TRT] ModelImporter.cpp:956: ERROR: onnxOpCheckers.cpp:780 In function checkFallback:
[6] Invalid Node - odd
In node 1 with name: odd and operator: Strange (checkFallback): UNSUPPORTED_NODE: Assertion failed: false
[06/01/2025-10:20:30] [E] Failed to parse onnx file
"""

KERNEL_8 = """\
[06/01/2023-10:20:30] [W] [TRT] Skipping tactic 0x00 due to some other reason
[06/01/2023-10:20:30] [E] Error[10]: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find \
any implementation for node stem + odd.)
[06/01/2023-10:20:30] [E] Error[2]: [builder.cpp::buildSerializedNetwork::751] Error Code 2: Internal Error (Assertion \
engine != nullptr failed. )
[06/01/2023-10:20:30] [E] Engine could not be created from network
"""

MEMORY_8 = """\
[06/01/2023-10:20:30] [E] Error[2]: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no \
further information)
[06/01/2023-10:20:30] [E] Engine could not be created from network
"""

NO_GPU_OLD = "Cuda failure: 35\n"
NO_GPU_NEW = "Cuda failure: no CUDA-capable device is detected\n"
OTHER_VERSION = """\
[06/01/2023-10:20:30] [E] Error[6]: The engine plan file is not compatible with this version of TensorRT, expecting \
library version 8.5.2.2 got 8.2.1.8, please rebuild.
[06/01/2023-10:20:30] [E] Error[4]: [runtime.cpp::deserializeCudaEngine::66] Error Code 4: Internal Error (Assertion)
[06/01/2023-10:20:30] [E] Engine deserialization failed
[06/01/2023-10:20:30] [E] Got invalid engine!
"""


def _heard(folder: Path, text: str) -> Log:
    """The log after a program has said that, for real."""
    (folder / "said").write_text(text)
    program = folder / "trtexec"
    program.write_text(f"#!/bin/sh\ncat {folder / 'said'}\n")
    program.chmod(0o755)
    log = Log()
    assert trtexec.Trtexec(str(program), (8, 5, 2)).run([], Deadline(10), log) == 0
    return log


def _build(folder: Path, text: str, status: int = 1) -> Any:
    return trtexec_failures.build_failed(status, _heard(folder, text), NODES, LIMITS)


def _run(folder: Path, text: str, status: int = 1) -> Any:
    return trtexec_failures.run_failed(status, _heard(folder, text))


@pytest.mark.parametrize(
    ("text", "cause"),
    [(PARSE_8, "Plugin not found, are the plugin name"), (PARSE_10, "UNSUPPORTED_NODE: Assertion failed")],
)
def test_the_node_that_is_not_read_is_named_with_its_cause(tmp_path: Path, text: str, cause: str):
    refusal = _build(tmp_path, text)
    assert refusal.code == "parse-failed"
    (error,) = refusal.facts["errors"]
    assert (error["node"], error["name"], error["op"]) == (1, "odd", "Strange")
    assert cause in refusal.message


def test_a_file_that_is_none(tmp_path: Path):
    refusal = _build(tmp_path, "[E] [TRT] Could not open file /w/gone.onnx\n[E] Failed to parse onnx file\n")
    assert refusal.code == "parse-failed"
    assert "Could not open file /w/gone.onnx" in refusal.message


def test_a_fused_layer_without_a_kernel_names_its_nodes(tmp_path: Path):
    refusal = _build(tmp_path, KERNEL_8)
    assert (refusal.code, refusal.facts["nodes"]) == ("no-implementation", ["stem", "odd"])


@pytest.mark.parametrize(("text", "status"), [(MEMORY_8, 1), ("Cuda failure: out of memory\n", -6)])
def test_out_of_memory(tmp_path: Path, text: str, status: int):
    assert _build(tmp_path, text, status).code == "not-enough-memory"
    assert _run(tmp_path, text, status).code == "not-enough-memory"


@pytest.mark.parametrize(("text", "status"), [(NO_GPU_OLD, -6), (NO_GPU_NEW, 1)])
def test_no_gpu(tmp_path: Path, text: str, status: int):
    assert _build(tmp_path, text, status).code == "no-gpu"
    assert _run(tmp_path, text, status).code == "no-gpu"


def test_an_engine_of_another_version(tmp_path: Path):
    refusal = _run(tmp_path, OTHER_VERSION)
    assert refusal.code == "engine-refused"
    assert "expecting library version 8.5.2.2 got 8.2.1.8" in refusal.message


def test_anything_else_is_told_in_its_own_words(tmp_path: Path):
    said = "[06/01/2023-10:20:30] [E] Error occurred during inference\n"
    refusal = _run(tmp_path, said)
    assert (refusal.code, refusal.message) == ("runtime-failed", "trtexec failed: Error occurred during inference")
    assert _build(tmp_path, said).code == "build-failed"
    assert "TensorRT gave no reason" in _run(tmp_path, "").message


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (-9, "SIGKILL ended trtexec: the kernel does that when memory is used up"),
        (-11, "SIGSEGV ended trtexec; it said: Assertion"),
        (-77, "signal 77 ended trtexec; it said: Assertion"),
    ],
)
def test_signals(tmp_path: Path, status: int, told: str):
    text = "" if status == -9 else "[E] Assertion\n"
    for refusal in (_build(tmp_path, text, status), _run(tmp_path, text, status)):
        assert isinstance(refusal, Refusal)
        assert refusal.code == "runtime-crashed"
        assert refusal.message == told
        assert refusal.facts["signal"] == told.partition(" ended")[0]


def test_options_that_it_does_not_know(tmp_path: Path):
    text = "[E] Unknown option: --exportLayerInfo l.json\n[E] Unknown option: --other \n"
    refusal = _run(tmp_path, text)
    assert (refusal.code, refusal.facts["options"]) == ("trtexec-option", ["--exportLayerInfo", "--other"])
