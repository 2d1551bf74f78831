"""trtexec found, run and read under every Python of a JetPack that is here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_tests.agent_zip import build_agent
from device_tests.fake_jetson.trtexec_tool import PLACE, write_trtexec
from tests.board_trees import Tree
from tests.fake_tensorrt_board import network

PYENV = Path.home() / ".pyenv" / "versions"
OTHERS = [PYENV / version / "bin" / "python" for version in ("3.6.15", "3.8.18", "3.10.13", "3.12.1")]
PYTHONS = [sys.executable, *(str(path) for path in OTHERS if path.exists())]

PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import memory_plan, onnx_inputs, onnx_nodes, trtexec, trtexec_engine
from device_tests.agent.tensorrt import trtexec_alone, trtexec_beside, trtexec_here
from device_tests.agent.tensorrt.log import Log

root, onnx, plan, folder = Root(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
tool, log = trtexec.find(root), Log()
limits = memory_plan.plan(root, None, os.path.getsize(onnx))
options = {"precision": ["int8", "fp16"]}
built = trtexec_engine.build(tool, onnx, plan, options, limits, log, Deadline(60), lambda **told: None)
found = trtexec_engine.measure(tool, plan, {}, folder, log, Deadline(60), onnx_nodes.read(onnx))
try:
    trtexec_engine.measure(tool, onnx, {}, folder, log, Deadline(60))
except Refusal as refusal:
    refused = refusal.code
try:
    trtexec_alone.build(tool, onnx, {"cuda": "ctypes"}, folder, lambda **told: None, Deadline(60), root=root)
except Refusal as refusal:
    without = refusal.code
print(json.dumps({
    "tool": built["tool"],
    "runs": found["runs"],
    "p50": found["percentiles"]["latency_ms"]["50"],
    "layers": [row["sources"] for row in found["layers"]][:2],
    "refused": refused,
    "without a GPU": without,
    "alone": trtexec_here.alone({"trtexec": "only"}, root).text,
    "inputs": onnx_inputs.typed(onnx),
}))
"""


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).parents[1].name)
def test_trtexec_under_every_python(tmp_path: Path, python: str):
    onnx = tmp_path / "net.onnx"
    onnx.write_bytes(network(quantized=True).SerializeToString())
    agent = tmp_path / "agent.zip"
    agent.write_bytes(build_agent().content)
    tree = Tree(tmp_path / "root").write("/proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
    write_trtexec(tmp_path / "root" / PLACE, "8.2")
    folder = tmp_path / "measured"
    folder.mkdir()
    argv = [python, "-c", PROGRAM, str(agent), str(tree.top), str(onnx), str(tmp_path / "engine"), str(folder)]
    # No CUDA, whatever this machine has.
    environment = dict(os.environ, EDGESMITH_LIBCUDART=str(tmp_path / "none"))
    done = subprocess.run(argv, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert 2.1875 < told.pop("p50") < 3.1875
    assert told.pop("runs") >= 100
    assert told == {
        "tool": "FAKE trtexec of TensorRT 8.2.1",
        "layers": [["x_quantize"], ["x_back"]],
        "refused": "engine-refused",
        "without a GPU": "no-gpu",
        "alone": "8.2.1",
        "inputs": [["x", [1, 3, 8, 8], "float32"]],
    }
