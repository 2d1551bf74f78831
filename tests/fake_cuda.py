"""The fake CUDA under a provider of the agent's: what the tests of both need."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import device_tests.fake_jetson
from device_tests.agent.cuda.finding import VARIABLE

PACKAGES = Path(device_tests.fake_jetson.__file__).parent / "packages"
VERSIONS = ("10.2", "11.4", "12.6", "13.0")
PROVIDERS = ("ctypes", "pycuda", "cuda-bindings")

# NVIDIA's own package is not older than CUDA 11.
CASES = [(name, version) for name in PROVIDERS for version in VERSIONS if (name, version) != ("cuda-bindings", "10.2")]

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_KINDS = {"device": b"d", "host": b"h", "streams": b"s", "events": b"e", "graphs": b"g", "executables": b"x"}


class FakeCuda:
    """The library itself, for what only a fake has.

    Attributes:
        path: of the library.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.fakeCudaLive.argtypes = [ctypes.c_char]
        self.library.fakeCudaLive.restype = ctypes.c_long
        self.library.fakeCudaEnqueueHost.argtypes = [_CALLBACK, ctypes.c_void_p, ctypes.c_void_p]
        self._kept: list[object] = []

    def live(self) -> dict[str, int]:
        """How many of each kind are not freed, of those that there are any of."""
        counts = {name: self.library.fakeCudaLive(kind) for name, kind in _KINDS.items()}
        return {name: count for name, count in counts.items() if count}

    def enqueue(self, stream: int, work: Callable[[], object]) -> None:
        """Queues work, as an engine would."""
        callback = _CALLBACK(lambda _argument: work() and None)
        self._kept.append(callback)
        assert self.library.fakeCudaEnqueueHost(callback, None, stream) == 0

    @contextmanager
    def held(self, stream: int) -> Iterator[None]:
        """The stream stands still for as long as the block lasts."""
        gate = threading.Event()
        self.enqueue(stream, lambda: gate.wait(60))
        try:
            yield
        finally:
            gate.set()


def forget_packages() -> None:
    """The fake packages read which library they stand on when they are imported."""
    for name in list(sys.modules):
        if name.split(".")[0] in {"pycuda", "cuda", "edgesmith_fake_cuda", "edgesmith_fake_cudart"}:
            del sys.modules[name]


@contextmanager
def packages_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """The library is the one that is found, and the fake packages can be imported."""
    forget_packages()
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.syspath_prepend(PACKAGES)
    try:
        yield FakeCuda(path)
    finally:
        forget_packages()
