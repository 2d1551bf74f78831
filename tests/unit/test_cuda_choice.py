"""Which CUDA provider is taken, where its library is found, and that it runs on the Pythons that boards have."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent import cuda
from device_tests.agent.cuda import CudaMissing, by_ctypes
from device_tests.agent.cuda.finding import SONAMES, VARIABLE, find
from device_tests.agent_zip import build_agent
from device_tests.fake_jetson.build import SONAMES as FAKES
from device_tests.fake_jetson.build import build_cudart
from edgesmith.errors import InfrastructureError
from tests.fake_cuda import forget_packages, packages_over

PYENV = Path.home() / ".pyenv" / "versions"

# The pairs that JetPack has.
BOARDS = [("3.6.15", "10.2"), ("3.8.18", "11.4"), ("3.10.13", "12.6"), ("3.12.1", "13.0")]
PYTHONS = [(str(PYENV / name / "bin" / "python"), version) for name, version in BOARDS if (PYENV / name).exists()]

# For Python 3.6, and without numpy: arrays are whatever has their interface.
ON_A_BOARD = """
import ctypes, json, sys, time
sys.path.insert(0, sys.argv[1])
from device_tests.agent import cuda

class Block:
    flags = {"C_CONTIGUOUS": True}
    def __init__(self, values):
        self.memory = (ctypes.c_ubyte * len(values))(*values)
        self.nbytes = len(values)
        self.__array_interface__ = {"data": (ctypes.addressof(self.memory), False)}

told = {"python": "%d.%d" % sys.version_info[:2], "probe": cuda.probe("ctypes")}
with cuda.choose("ctypes") as runtime:
    stream, start, end = runtime.stream(), runtime.event(), runtime.event()
    sent, back = Block([1, 2, 3]), Block([0, 0, 0])
    address = runtime.malloc(3)
    with runtime.capture(stream) as graph:
        runtime.copy_to_device(address, sent, stream)
        runtime.copy_to_host(back, address, stream)
    runtime.event_record(start, stream)
    runtime.graph_launch(graph, stream)
    runtime.event_record(end, stream)
    runtime.stream_synchronize(stream)
    told["elapsed"] = runtime.elapsed_ms(start, end) >= 0
    told["back"] = list(back.memory)
    try:
        runtime.malloc(1 << 60)
    except cuda.CudaError as error:
        told["error"] = [error.call, error.code, error.text]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("cuda")
    return lambda version: build_cudart(version, folder / version)


@pytest.mark.slow
@pytest.mark.parametrize(("python", "version"), [*PYTHONS, (sys.executable, "12.2")])
def test_libcudart_under_a_boards_python(libraries: Callable[[str], Path], tmp_path: Path, python: str, version: str):
    agent = tmp_path / "agent.zip"
    agent.write_bytes(build_agent().content)
    environment = {VARIABLE: str(libraries(version)), "PATH": os.environ["PATH"]}
    argv = [python, "-c", ON_A_BOARD, agent]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["probe"]["version"] == version
    assert told["probe"]["compute"] == "8.7"
    assert (told["elapsed"], told["back"]) == (True, [1, 2, 3])
    assert told["error"] == ["cudaMalloc", 2, "cudaErrorMemoryAllocation, out of memory"]


@pytest.mark.slow
def test_pycuda_is_taken_where_it_is_then_what_needs_nothing(
    libraries: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    with packages_over(libraries("12.6"), monkeypatch):
        assert cuda.choose().name == "pycuda"
        # A board's pycuda may have outlived the driver that it was built for.
        monkeypatch.setenv("EDGESMITH_FAKE_CUDA_DRIVER", "11040")
        forget_packages()
        chosen: Any = cuda.choose()
        assert chosen.name == "ctypes"
        with pytest.raises(CudaMissing, match=r"^pycuda: ImportError: .*undefined symbol"):
            cuda.choose("pycuda")


@pytest.mark.slow
def test_the_package_is_taken_last_and_its_old_name_is_known(
    libraries: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with packages_over(libraries("12.2"), monkeypatch):
        monkeypatch.setitem(sys.modules, "pycuda", None)
        assert cuda.choose("cuda-bindings").origin == "cuda-bindings fake"
        monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
        assert cuda.choose().name == "cuda-bindings"
        forget_packages()
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        monkeypatch.setenv(VARIABLE, str(libraries("12.2")))
        old: Any = cuda.choose("cuda-bindings")
        assert (old.origin, old.version()) == ("cuda-python unknown", "12.2")


def test_none_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("pycuda", "cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(CudaMissing) as caught:
        cuda.choose()
    assert caught.value.code is None
    for words in ("pycuda: ", "ctypes: EDGESMITH_LIBCUDART=", "cuda-bindings: "):
        assert words in str(caught.value)
    with pytest.raises(CudaMissing, match="opencl: no such provider; there are auto, pycuda, ctypes, cuda-bindings"):
        cuda.choose("opencl")


class Loader:
    """Opens what it was told to, and remembers what it was asked for."""

    def __init__(self, *opens: str) -> None:
        self.opens, self.asked = opens, [""][:0]

    def __call__(self, place: str) -> str:
        self.asked.append(place)
        if place.endswith(self.opens):
            return "opened"
        raise OSError("wrong ELF class" if place.startswith("/") else "cannot open shared object file")


def tree(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def test_the_loaders_own_library_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    loader = Loader("libcudart.so.12")
    assert find(loader, folders=[tree(tmp_path / "lib", "libcudart.so.12")]) == ("opened", "libcudart.so.12")
    assert loader.asked == ["libcudart.so", "libcudart.so.13", "libcudart.so.12"]
    assert set(FAKES.values()) < set(SONAMES)


def test_the_newest_in_a_folder_that_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tree(tmp_path / "cuda" / "lib64", "libcudart.so.9.2", "libcudart.so.12.6.68", "libcudart.so.10.2.300")
    for link, name in (("libcudart.so.12", "libcudart.so.12.6.68"), ("libcudart.so", "libcudart.so.12.6.68")):
        (tmp_path / "cuda" / "lib64" / link).symlink_to(name)
    loader = Loader("10.2.300", "9.2")
    found = find(loader, sonames=(), folders=[str(tmp_path / "*" / "lib64")], packages=())
    assert found == ("opened", f"{folder}/libcudart.so.10.2.300")
    # The same file under three names is tried once.
    assert len(loader.asked) == 2


def test_pips_own_package_is_found_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tree(tmp_path / "nvidia" / "cuda_runtime" / "lib", "libcudart.so.12")
    monkeypatch.syspath_prepend(tmp_path)
    assert find(Loader("libcudart.so.12"), sonames=(), folders=())[1] == f"{folder}/libcudart.so.12"


def test_what_was_tried_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tree(tmp_path / "lib64", "libcudart.so.12")
    with pytest.raises(CudaMissing, match=r"lib64/libcudart.so.12: wrong ELF class. Set EDGESMITH_LIBCUDART"):
        find(Loader("-"), folders=[folder], packages=())
    with pytest.raises(CudaMissing, match=r"nor below /opt/nowhere. Set EDGESMITH_LIBCUDART"):
        find(Loader("-"), folders=["/opt/nowhere"], packages=())
    with pytest.raises(CudaMissing, match=r"libm is no CUDA runtime of 10.2 or newer"):
        by_ctypes.Runtime(found=(ctypes.CDLL("libm.so.6"), "libm"))


def test_no_compiler_for_the_fake(tmp_path: Path):
    with pytest.raises(InfrastructureError, match="there is no C compiler 'no-such-cc'") as caught:
        build_cudart("12.6", tmp_path, compiler="no-such-cc")
    assert "apt-get install gcc" in caught.value.next_step
    with pytest.raises(InfrastructureError, match=r"could not compile the fake libcudart of CUDA 12.6"):
        build_cudart("12.6", tmp_path, compiler="false")
    with pytest.raises(InfrastructureError, match=r"no fake of CUDA 9.2, only of 10.2, 11.4"):
        build_cudart("9.2", tmp_path)
    assert list(tmp_path.iterdir()) == []
