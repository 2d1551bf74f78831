"""What needs neither numpy nor TensorRT, under every Python of a JetPack that is here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from device_tests.agent_zip import build_agent
from edgesmith.files import sha256_bytes
from tests.board_trees import Tree
from tests.fake_tensorrt_board import network

PYENV = Path.home() / ".pyenv" / "versions"
OTHERS = [PYENV / version / "bin" / "python" for version in ("3.6.15", "3.8.18", "3.10.13", "3.12.1")]
PYTHONS = [sys.executable, *(str(path) for path in OTHERS if path.exists())]

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import engines, failures, identity, layers, memory_plan, missing, onnx_nodes, shapes
from device_tests.agent.tensorrt.log import Log

onnx, root, folder = sys.argv[2], Root(sys.argv[3]), sys.argv[4]
nodes = onnx_nodes.read(onnx)
asked = identity.onnx_sha256(onnx, {"precision": ["int8", "fp16"]})
wanted = identity.identity(asked, "8.2.1.8", "7.2", identity.gpu_name(root))
store, key = engines.Engines(folder), identity.key(wanted)
record = store.store(store.part(key), b"plan", {"key": key, "identity": wanted, "built_at": "now"})
log = Log()
log.add("E", "Could not find any implementation for node kernel + conv + PWN(relu).")
limits = memory_plan.plan(root, None, 1000)
refused = failures.build_failed(log, nodes, limits)
try:
    store.find(dict(wanted, compute="8.7"))
except Refusal as refusal:
    other = refusal.code
print(json.dumps({
    "key": key,
    "nodes": [node.name for node in nodes],
    "read": store.read(store.find(wanted)).decode(),
    "stale": store.listed("8.5.2")[0]["stale"],
    "low": limits["low"],
    "refused": [refused.code, refused.facts["nodes"], refused.facts["quantized"]],
    "other": other,
    "missing": missing.missing_binding(root, version="3.6", prefix="/venv", in_venv=True),
    "shapes": shapes.ranges([("x", [-1, 3])], None),
    "rows": [row["sources"] for row in layers.rows(None, nodes, {"conv + relu": 1.0})],
}))
"""


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).parents[1].name)
def test_engines_names_and_memory_under_every_python(tmp_path: Path, python: str):
    content = network(quantized=True).SerializeToString()
    onnx = tmp_path / sha256_bytes(content)
    onnx.write_bytes(content)
    agent = tmp_path / "agent.zip"
    agent.write_bytes(build_agent().content)
    tree = Tree(tmp_path / "root").board("NVIDIA Jetson Xavier NX", "nvidia,p3668", "nvidia,tegra194")
    tree.write("/proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 1000000 kB\n")
    tree.write("/usr/lib/python3.6/dist-packages/tensorrt/__init__.py", "")
    argv = [python, "-c", PROGRAM, str(agent), str(onnx), str(tree.top), str(tmp_path / "engines")]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert len(told.pop("key")) == 64
    assert "include-system-site-packages" in told.pop("missing")
    assert told == {
        "nodes": [
            "x_quantize",
            "x_back",
            "kernel_quantize",
            "kernel_back",
            "conv",
            "relu",
            "average",
            "flatten",
            "dense",
        ],
        "read": "plan",
        "stale": "built with TensorRT 8.2.1.8, 8.5.2 is here",
        "low": True,
        "refused": ["no-implementation", ["conv", "relu"], ["conv"]],
        "other": "engine-mismatch",
        "shapes": {"x": [[1, 3]] * 3},
        "rows": [["conv", "relu"]],
    }
