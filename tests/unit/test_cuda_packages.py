"""NVIDIA's and pycuda's own packages, as far as they go without a GPU: the providers against the real thing."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.cuda import by_pycuda
from device_tests.agent.cuda.finding import VARIABLE
from device_tests.fake_jetson.build import build_cudart
from tests.fake_cuda import packages_over

ROOT = Path(__file__).resolve().parents[2]
PINNED = ROOT / "tests" / "data" / "cuda"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ASK = """
import json, sys
from device_tests.agent import cuda
runtime = cuda.choose(sys.argv[1])
told = {"origin": runtime.origin, "driver": runtime.driver_version(), "errors": {}}
try:
    told["version"] = runtime.version()
except cuda.CudaError as error:
    told["version"] = error.code
for name in ("device_count", "select", "memory", "stream", "event"):
    try:
        getattr(runtime, name)()
    except cuda.CudaError as error:
        told["errors"][name] = [error.code, str(error)]
runtime.close()
print(json.dumps(told))
"""

SIGNATURES = """
import json
from cuda.bindings import runtime
functions = {name: getattr(runtime, name).__doc__ for name in dir(runtime) if name.startswith("cuda")}
print(json.dumps({name: text.splitlines()[0] if text else "" for name, text in functions.items()}))
"""


def pip(verb: str, name: str, *more: object) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run(
        [*command, "--require-hashes", "-r", PINNED / f"{name}.txt", *map(str, more)], check=True, timeout=500
    )


def ask(program: str, site: Path, *argv: str, library: Path | None = None) -> Any:
    """What a program prints that sees a folder of packages, and no GPU even where there is one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EDGESMITH_")}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {VARIABLE: str(library)} if library else {}
    command = [sys.executable, "-c", program, *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refuses_well(told: Any) -> None:
    """Every call says that there is no GPU (a driver is here) or no driver; none took the process with it."""
    assert set(told["errors"]) == {"device_count", "select", "memory", "stream", "event"}
    code, words = (100, "no CUDA-capable device") if told["driver"] else (35, "no NVIDIA driver here")
    assert {found[0] for found in told["errors"].values()} == {code}
    assert words in told["errors"]["device_count"][1]


@pytest.mark.parametrize(("name", "version"), [("bindings-12", "12.8"), ("bindings-13", "13.0")])
def test_nvidias_package(tmp_path: Path, name: str, version: str):
    pip("install", name, "--target", tmp_path, "--only-binary=:all:")
    told = ask(ASK, tmp_path, "cuda-bindings")
    assert told["version"] == version
    assert told["origin"].startswith(f"cuda-bindings {version}.")
    refuses_well(told)


def test_the_fake_package_has_the_real_ones_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pip("install", "bindings-13", "--target", tmp_path / "site", "--only-binary=:all:")
    real = ask(SIGNATURES, tmp_path / "site")
    with packages_over(build_cudart("13.0", tmp_path), monkeypatch):
        import edgesmith_fake_cudart as fake  # type: ignore[import-not-found,unused-ignore]

        functions = {name: found for name, found in vars(fake).items() if inspect.isfunction(found)}
        shared = {name for name in vars(fake) if name.startswith("cuda")}
        counts = {name: len(inspect.signature(found).parameters) for name, found in functions.items()}
    assert shared <= real.keys()
    public = {name: count for name, count in counts.items() if not name.startswith("_")}
    assert len(public) > 25
    for name, count in public.items():
        inside = re.search(r"\((.*)\)", real[name])
        assert inside is not None, real[name]
        assert len([part for part in inside[1].split(",") if part]) == count, real[name]


@pytest.mark.parametrize(("name", "version"), [("cudart-11", "11.8"), ("cudart-12", "12.6"), ("cudart-13", "13.2")])
def test_nvidias_library(tmp_path: Path, name: str, version: str):
    pip("install", name, "--target", tmp_path, "--only-binary=:all:")
    (library,) = [path for path in tmp_path.rglob("libcudart.so.*") if not path.is_symlink()]
    told = ask(ASK, tmp_path, "ctypes", library=library)
    # Without a driver, CUDA 11 does not even tell its own version.
    assert told["version"] == (35 if version == "11.8" and not told["driver"] else version)
    assert told["origin"] == str(library)
    refuses_well(told)


@pytest.mark.parametrize("name", ["pycuda-2020", "pycuda-2026"])
def test_pycudas_source_has_what_the_provider_uses_and_no_graphs(tmp_path: Path, name: str):
    """It has no wheels, and cannot be imported without NVIDIA's driver."""
    pip("download", name, "--dest", tmp_path, "--no-binary=pycuda")
    (archive,) = tmp_path.glob("pycuda-*.tar.gz")
    with tarfile.open(archive) as packed:
        member = next(one for one in packed if one.name.endswith("src/wrapper/wrap_cudadrv.cpp"))
        file = packed.extractfile(member)
        assert file is not None
        source = file.read().decode()
    for exposed in (
        'py::def("init", init',
        'py::def("get_version"',
        'py::def("get_driver_version"',
        "DEF_SIMPLE_METHOD(count)",
        '.def("get_attribute"',
        '.def("make_context"',
        '.def("retain_primary_context"',
        '.def("push", context_push)',
        "DEF_SIMPLE_METHOD(pop)",
        '("Stream", py::init<unsigned int>(py::arg("flags")=0))',
        '.add_property("handle", &cl::handle_int)',
        '("Event", py::init<py::optional<unsigned int> >(py::arg("flags")))',
        "DEF_SIMPLE_METHOD(time_till)",
        'py::def("pagelocked_empty"',
        'py::def("mem_alloc"',
        "DEF_SIMPLE_FUNCTION(mem_get_info)",
        'py::def("memcpy_htod_async"',
        'py::def("memcpy_dtoh_async"',
        '.value("COMPUTE_CAPABILITY_MAJOR"',
        '.value("ASYNC_ENGINE_COUNT"',
    ):
        assert exposed in source, exposed
    assert re.search(r"begin_?capture|graph_?launch|CUgraphExec", source, re.IGNORECASE) is None
    assert not by_pycuda.Runtime.supports_graphs
