"""The small things of the fake TensorRT: enumerations, shapes, types, bytes, loggers and the other callbacks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from enum import Enum, IntEnum
from typing import Any, NoReturn, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from device_tests.fake_jetson.trt_world import Api, Callback, World

ALIASES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int8": "INT8",
    "int32": "INT32",
    "bool": "BOOL",
    "uint8": "UINT8",
    "fp8": "FP8",
    "bfloat16": "BF16",
    "int64": "INT64",
    "int4": "INT4",
    "fp4": "FP4",
}
"""Names in the module for members of DataType."""

NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
}

_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

_LETTERS = "FEWIV"


class Numbered(IntEnum):
    """NVIDIA's enumerations: whole numbers that print their names."""

    __str__ = Enum.__str__


def enumeration(name: str, members: Mapping[str, int]) -> type[Numbered]:
    """One of them; the first of several names for a number is its own."""
    maker: Any = Numbered
    return cast("type[Numbered]", maker(name, dict(members)))


class Dims(tuple[int, ...]):
    """A shape."""

    __slots__ = ()

    def __new__(cls, sizes: Iterable[int] = ()) -> Dims:
        """A shape of these sizes; -1 where one is open."""
        return super().__new__(cls, (int(size) for size in sizes))


_OF_BYTES = frozenset(name for name in dir(bytes) if not name.startswith("_"))


class IHostMemory(bytes):
    """Bytes that TensorRT owns: for `bytes()`, `memoryview`, `hashlib` and files, and nothing else, as NVIDIA's."""

    @property
    def nbytes(self) -> int:
        """How many."""
        return memoryview(self).nbytes

    @property
    def dtype(self) -> Any:
        """Of one element."""
        return self._world.member("DataType", "INT8")

    _world: World

    def __len__(self) -> NoReturn:
        raise TypeError("object of type 'tensorrt.IHostMemory' has no len()")

    def __iter__(self) -> NoReturn:
        raise TypeError("'tensorrt.IHostMemory' object is not iterable")

    def __getitem__(self, index: SupportsIndex | slice) -> NoReturn:
        raise TypeError("'tensorrt.IHostMemory' object is not subscriptable")

    def __add__(self, other: object) -> NoReturn:
        raise TypeError("unsupported operand type(s) for +: 'tensorrt.IHostMemory'")

    def __getattribute__(self, name: str) -> Any:
        if name in _OF_BYTES:
            raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute {name!r}")
        return bytes.__getattribute__(self, name)

    def __repr__(self) -> str:
        return f"<tensorrt.IHostMemory of {self.nbytes} bytes, FAKE>"


class ILogger(Callback):
    """What programs log with; `make` adds the severities."""

    Severity: Any

    def log(self, severity: Any, msg: str) -> None:
        """Takes one message."""
        raise NotImplementedError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """Prints, to stdout, as NVIDIA's does."""

    def __init__(self, min_severity: Any = None) -> None:
        self._ready = True
        self.min_severity = self.Severity["WARNING"] if min_severity is None else min_severity

    def log(self, severity: Any, msg: str) -> None:
        """Takes one message."""
        if severity <= self.min_severity:
            sys.stdout.write(f"[TRT] [{_LETTERS[int(severity)]}] {msg}\n")


class IProfiler(Callback):
    """Is told what every layer took."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Takes one time."""
        raise NotImplementedError('Tried to call pure virtual function "IProfiler::report_layer_time"')


class Profiler(IProfiler):
    """Prints them."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Takes one time."""
        sys.stdout.write(f"{layer_name}: {ms}ms\n")


class IProgressMonitor(Callback):
    """Is told how far a build is; may end it."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase begins."""
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step of it is done; False ends the build."""
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        """It is over."""
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


class ITensor(Api):
    """An input, an output or an intermediate tensor of a network."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its name in the file."""
        return str(self._it["name"])

    @property
    def shape(self) -> Dims:
        """-1 where a size is open."""
        return Dims(self._it["shape"])

    @property
    def dtype(self) -> Any:
        """Member of DataType."""
        return self._world.member("DataType", self._it["dtype"])

    @property
    def is_network_input(self) -> bool:
        """It comes from outside."""
        return bool(self._it["input"])

    @property
    def is_network_output(self) -> bool:
        """It goes outside."""
        return not self._it["input"]


def severities(owner: Any) -> None:
    """Gives a logger's class its severities, by both their names."""
    owner.Severity = enumeration("Severity", {name: number for number, name in enumerate(_SEVERITIES)})
    for one in owner.Severity:
        setattr(owner, one.name, one)


def host_memory(world: World, content: bytes) -> Any:
    """Bytes as TensorRT hands them over."""
    return world.classes["IHostMemory"](content)


def numpy_type(dtype: Any) -> type[Any]:
    """`tensorrt.nptype`.

    Raises:
        TypeError: numpy has no such type.
    """
    if dtype.name not in NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return NUMPY[dtype.name]


def volume(sizes: Iterable[int]) -> int:
    """`tensorrt.volume`: how many elements."""
    found = 1
    for size in sizes:
        found *= size
    return found


def data_type(world: World, dtype: np.dtype[Any]) -> str | None:
    """Which member of DataType an ONNX tensor of numpy's type becomes; None for none.

    Versions without 64 bit integers store them in 32; none computes in float64.
    """
    narrower: dict[str, np.dtype[Any]] = {"float64": np.dtype(np.float32)}
    have = world.classes["DataType"].__members__
    if "INT64" not in have:
        narrower["int64"] = np.dtype(np.int32)
    wanted = narrower.get(dtype.name, dtype)
    return next((name for name, one in NUMPY.items() if np.dtype(one) == wanted and name in have), None)


def as_array(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The memory at an address, as an array over it."""
    import ctypes

    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory: Any = (ctypes.c_char * size).from_address(address)
    return np.ndarray(shape, dtype, memory)
