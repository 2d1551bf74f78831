"""What the board's code touches of TensorRT exists in every version that a Jetson has, or stands behind a question.

Against the recorded attributes of all versions; tests/conformance/test_tensorrt_bindings.py holds those records to
NVIDIA's own bindings, where there are any, and asks again.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from device_tests.fake_jetson import versions
from device_tests.fake_jetson.versions import KEYS
from tests.tensorrt_walk import files, walk

AGENT = Path(__file__).resolve().parents[2] / "device_tests" / "agent"
OTHERS = {
    "tensorrt/identity.py": {"profile"},
    "tensorrt/layers.py": {"layer"},
    "tensorrt/opening.py": {"runtime"},
}
"""Variables that are none of TensorRT's there: shapes of the options, what the inspector told, CUDA's runtime."""

EACH_VERSION = pytest.mark.parametrize("version", KEYS)
SOURCES = files(AGENT / "tensorrt", AGENT / "runners" / "tensorrt.py")


@EACH_VERSION
def test_the_board_code_touches_only_what_is_there(version: str):
    assert walk(SOURCES, versions.attributes(version), OTHERS).missing == []


@EACH_VERSION
def test_every_version_is_built_with_and_run(version: str):
    """The walk went through the code: each version has a way from the file to the outputs."""
    touched = walk(SOURCES, versions.attributes(version), OTHERS).touched
    for name in (
        "Builder.build_serialized_network",
        "IBuilderConfig.set_flag",
        "IBuilderConfig.set_timing_cache",
        "IExecutionContext.execute_v2",
        "IOptimizationProfile.set_shape",
        "OnnxParser.parse_from_file",
        "ParserError.desc",
        "Runtime.deserialize_cuda_engine",
        "tensorrt.ILogger",
    ):
        assert name in touched
    by_name = {"IExecutionContext.execute_async_v3", "IExecutionContext.set_tensor_address"} & touched
    by_number = {"IExecutionContext.execute_async_v2", "ICudaEngine.get_binding_name"} & touched
    assert (len(by_name), len(by_number)) == ((2, 0) if KEYS.index(version) >= KEYS.index("8.5.2") else (0, 2))
    assert ("BuilderFlag.INT8" in touched) == (not version.startswith("11."))
    assert ("EngineInspector.get_engine_information" in touched) == (version != "8.0.1")


# Whether the walk would notice. Each piece of code, and the versions that lack something it reaches.

ALL, NONE = set(KEYS), set[str]()
SINCE_10 = set(KEYS[5:])
BEFORE_8_4 = set(KEYS[:2])
BEFORE_8_6 = set(KEYS[:4])


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("config.max_workspace_size = 1", SINCE_10),
        ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1)", BEFORE_8_4),
        ("config.set_flag(trt.BuilderFlag.INT8)", {"11.0.0", "11.4.0"}),
        ("config.no_such_thing", ALL),
        ("trt.NoSuchThing()", ALL),
        ("self._config.max_workspace_size = 1", SINCE_10),
        ("settings = builder.create_builder_config()\nsettings.max_workspace_size = 1", SINCE_10),
        ("network.get_input(0).dynamic_range = 1", {"11.0.0", "11.4.0"}),
        ("tensors = [network.get_input(0)]\nx = [tensor.nothing for tensor in tensors]", NONE),
        ("tensors = [network.get_input(i) for i in n]\nx = [tensor.nothing for tensor in tensors]", ALL),
        ("settings.max_workspace_size = 1", NONE),
        ("layer.get_output(0).dynamic_range = layer.precision", {"11.0.0", "11.4.0"}),
        ("layer.metadata", BEFORE_8_6),
        ("getattr(config, 'max_workspace_size')", SINCE_10),
        ("getattr(config, 'max_workspace_size', None)", NONE),
        ("if hasattr(config, 'max_workspace_size'):\n config.max_workspace_size = 1", NONE),
        ("if not hasattr(config, 'max_workspace_size'):\n config.max_workspace_size = 1", SINCE_10),
        ("if hasattr(config, 'builder_optimization_level'):\n config.max_workspace_size = 1", SINCE_10),
        ("if large:\n config.max_workspace_size = 1", SINCE_10),
        ("if hasattr(engine, 'num_io_tensors'):\n engine.get_tensor_name(0)\nelse:\n engine.num_bindings", NONE),
        ("if hasattr(engine, 'num_io_tensors'):\n engine.num_bindings\nelse:\n engine.num_bindings", SINCE_10),
        ("x = config.max_workspace_size if hasattr(config, 'max_workspace_size') else 0", NONE),
        ("x = hasattr(config, 'max_workspace_size') and config.max_workspace_size", NONE),
        ("x = hasattr(config, 'max_workspace_size') or config.max_workspace_size", SINCE_10),
        ("x = [config.max_workspace_size for i in n if hasattr(config, 'max_workspace_size')]", NONE),
        (
            "def f(config):\n if not hasattr(config, 'max_workspace_size'):\n  return\n config.max_workspace_size = 1",
            NONE,
        ),
        (
            "def f(config):\n if not hasattr(config, 'max_workspace_size'):\n  x = 1\n config.max_workspace_size = 1",
            SINCE_10,
        ),
        (
            "def has(c):\n return hasattr(config, 'max_workspace_size')\nif has(config):\n config.max_workspace_size",
            NONE,
        ),
        ("try:\n config.max_workspace_size = 1\nexcept AttributeError:\n pass", NONE),
        ("try:\n config.max_workspace_size = 1\nexcept ValueError:\n pass", SINCE_10),
        ("class Monitor(trt.IProgressMonitor):\n pass", set(KEYS[:5])),
        ("if hasattr(trt, 'OnnxParserFlag') and hasattr(trt.OnnxParserFlag, 'X'):\n trt.OnnxParserFlag.X", NONE),
        ("x = trt.HardwareCompatibilityLevel.NONE", BEFORE_8_6),
    ],
)
def test_the_walk_finds_what_is_not_asked_for(code: str, lacking: set[str]):
    found = {key for key in KEYS if walk({"code.py": code}, versions.attributes(key)).missing}
    assert found == lacking


def test_it_says_where():
    code = "\n\nx = config.max_workspace_size\n"
    assert walk({"code.py": code}, versions.attributes("10.3")).missing == [
        "code.py:3: IBuilderConfig.max_workspace_size"
    ]


PYENV = Path.home() / ".pyenv" / "versions"
OF_JETPACKS = [PYENV / version / "bin" / "python" for version in ("3.6.15", "3.8.18", "3.10.13", "3.12.1")]


@pytest.mark.parametrize(
    "python", [path for path in OF_JETPACKS if path.exists()], ids=lambda path: path.parents[1].name
)
def test_the_board_code_compiles_under_every_jetpacks_python(python: Path, tmp_path: Path):
    agent = shutil.copytree(AGENT, tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    argv = [python, "-W", "error", "-m", "compileall", "-q", agent]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    compiled = {path.name.partition(".")[0] for path in (agent / "tensorrt" / "__pycache__").iterdir()}
    assert compiled == {path.stem for path in (agent / "tensorrt").glob("*.py")}
