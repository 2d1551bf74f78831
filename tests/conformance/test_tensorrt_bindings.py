"""NVIDIA's own Python bindings, over libraries that do nothing: the records are right, and the board's code fits them.

The bindings are on PyPI, the libraries behind them are not. Whatever needs no library is real here: the module, its
classes, enumerations and attributes, and Python classes that derive from them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from device_tests.fake_jetson import versions
from tests.conformance.test_tensorrt_api import OTHERS, SOURCES
from tests.tensorrt_walk import walk

pytestmark = pytest.mark.slow

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("the bindings are pinned for Linux on x86-64", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
PINNED = (ROOT / "tests" / "data" / "tensorrt-bindings.txt").read_text(encoding="utf-8")


def _pins() -> dict[str, str]:
    """Version -> line of the requirements file, for those that this Python has wheels of."""
    lines = PINNED.replace("\\\n", " ").splitlines()
    found = {}
    for line in (line for line in lines if line and not line.startswith("#")):
        wanted = Requirement(line.partition("--hash")[0])
        if wanted.marker is None or wanted.marker.evaluate():
            found[str(wanted.specifier).removeprefix("==")] = line
    return found


PINS = _pins()
EACH_VERSION = pytest.mark.parametrize("version", PINS)

_LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin", "libnvparsers")

_FUNCTIONS = """
createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL createNvOnnxParser_INTERNAL
createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion initLibNvInferPlugins getPluginRegistry
getBuilderPluginRegistry getInferLibVersion getInferLibMajorVersion getInferLibMinorVersion getInferLibPatchVersion
getInferLibBuildVersion getLogger
_ZN11nvuffparser15createUffParserEv _ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi
_ZN14nvcaffeparser117createCaffeParserEv _ZN14nvcaffeparser123shutdownProtobufLibraryEv
"""
"""What the bindings look for in NVIDIA's libraries; the last four in those of version 8."""

_ASK = """
import json, sys
import tensorrt_bindings as trt

def shown(one):
    return [name for name in dir(one) if not name.startswith("_") or name == "__version__"]

api, numbers = {"tensorrt": shown(trt)}, {}
for name in dir(trt):
    one = getattr(trt, name)
    if isinstance(one, type):
        members = getattr(one, "__members__", None)
        api[name] = shown(one) if members is None else list(members)
        if members is not None:
            numbers[name] = {key: int(member) for key, member in members.items()}

from device_tests.agent.tensorrt import api as ours, engine_io, layers, log, progress

kept = log.Log()
logger = log.logger(trt, kept)
logger.log(trt.ILogger.Severity.ERROR, "an error")
logger.log(trt.ILogger.Severity.WARNING, "a warning")
times = layers.Times(trt)
times.profiler.report_layer_time("conv", 2.0)
times.profiler.report_layer_time("conv", 4.0)
has_monitor = progress.attach(trt, type("Config", (), {"progress_monitor": None}), progress.Progress(None)) is not None
try:
    trt.Builder(logger)
except TypeError as error:
    without_library = str(error)
json.dump(
    {
        "version": trt.__version__,
        "api": api,
        "numbers": numbers,
        "errors": kept.errors,
        "warnings": kept.warnings,
        "times": times.mean_ms(2),
        "has_monitor": has_monitor,
        "has_precision_flags": ours.has_precision_flags(trt),
        "dtypes": [str(engine_io._dtype(trt, "x", getattr(trt.DataType, name))) for name in ("FLOAT", "HALF", "INT8")],
        "without_library": without_library,
    },
    sys.stdout,
)
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Major version -> folder with libraries whose functions give nothing."""
    compiler = shutil.which("cc")
    assert compiler is not None, "the libraries that stand in are compiled here: install a C compiler"
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS.split()), encoding="utf-8")
    for major in ("8", "10", "11"):
        (folder / major).mkdir()
        for name in (f"{library}.so.{major}" for library in _LIBRARIES):
            argv = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / major / name), str(source)]
            subprocess.run(argv, check=True, timeout=60)
    return {major: folder / major for major in ("8", "10", "11")}


@pytest.fixture(scope="module")
def told(libraries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Version -> what its bindings said."""
    return {version: _ask(version, libraries, tmp_path_factory.mktemp("bindings")) for version in PINS}


def _ask(version: str, libraries: Mapping[str, Path], folder: Path) -> Any:
    wanted = folder / "requirements.txt"
    wanted.write_text(PINS[version] + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += [
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--target",
        str(folder / "site"),
        "--requirement",
        str(wanted),
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    env = dict(os.environ, LD_LIBRARY_PATH=str(libraries[version.partition(".")[0]]))
    env["PYTHONPATH"] = os.pathsep.join([str(folder / "site"), str(ROOT)])
    argv = [sys.executable, "-c", _ASK]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{version}: {done.stderr}"
    return json.loads(done.stdout)


def test_each_major_version_of_a_jetson_is_pinned():
    recorded = {release.key for release in versions.RELEASES if release.read_off}
    assert {versions.find(version).key for version in PINS} == recorded or sys.version_info >= (3, 12)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", line) for line in PINS.values())


@EACH_VERSION
def test_the_recorded_attributes_are_nvidias(told: Mapping[str, Any], version: str):
    real = told[version]
    assert real["version"] == version
    recorded = versions.attributes(version)
    for owner in recorded.keys() - {"tensorrt"}:
        found = {name for name in real["api"][owner] if owner != "INetworkDefinition" or not name.startswith("add_")}
        assert found == recorded[owner], owner
    assert recorded["tensorrt"] <= set(real["api"]["tensorrt"])
    known = {name for key in versions.KEYS for name in versions.attributes(key)["tensorrt"]}
    assert known.isdisjoint(set(real["api"]["tensorrt"]) - recorded["tensorrt"])


@EACH_VERSION
def test_the_recorded_numbers_are_nvidias(told: Mapping[str, Any], version: str):
    for enumeration, members in versions.numbers(version).items():
        assert members == told[version]["numbers"][enumeration], enumeration


@EACH_VERSION
def test_the_board_code_touches_only_what_is_there(told: Mapping[str, Any], version: str):
    api = {owner: frozenset(names) for owner, names in told[version]["api"].items()}
    assert walk(SOURCES, api, OTHERS).missing == []


@EACH_VERSION
def test_the_walk_over_the_bindings_finds_what_they_lack(told: Mapping[str, Any], version: str):
    api = {owner: frozenset(names) for owner, names in told[version]["api"].items()}
    found = walk({"code.py": "config.max_workspace_size = 1\nconfig.set_flag(trt.BuilderFlag.INT8)"}, api).missing
    lacking = [] if version == "8.6.1" else ["code.py:1: IBuilderConfig.max_workspace_size"]
    assert found == lacking + (["code.py:2: BuilderFlag.INT8"] if version.startswith("11.") else [])


@EACH_VERSION
def test_the_board_codes_own_classes_derive_from_them(told: Mapping[str, Any], version: str):
    found = told[version]
    assert (found["errors"], found["warnings"], found["times"]) == (["an error"], ["a warning"], {"conv": 3.0})
    assert found["has_monitor"] == (version != "8.6.1")
    assert found["has_precision_flags"] == (not version.startswith("11."))
    assert found["dtypes"] == ["float32", "float16", "int8"]


@EACH_VERSION
def test_a_builder_that_gets_nothing_says_what_the_fake_says(told: Mapping[str, Any], version: str):
    assert "factory function returned nullptr" in told[version]["without_library"]
