"""FAKE pycuda.driver over the fake libcudart: it exists so that the pycuda provider's own code can be run.

Names, arguments and error texts were read in the sources of pycuda 2020.1 and 2026.1, in which they are the same:
src/wrapper/wrap_cudadrv.cpp (what Python sees, which exception for which error), src/cpp/cuda.hpp (contexts, what
`free` and the destructors do, "<call> failed: <the driver's words>"). Only what the provider may use is here; what
pycuda refuses (no context, a stream that is a number, a read-only array to write to) is refused here, too.
"""

import builtins
import contextlib
import ctypes
import enum
import threading

import edgesmith_fake_cuda as fake
import numpy as np


class Error(Exception):
    """Base of all."""


class MemoryError(Error, builtins.MemoryError):
    """Out of memory."""


class LogicError(Error):
    """Most errors."""


class LaunchError(Error):
    """Work failed on the GPU."""


class RuntimeError(Error):
    """No device, not ready."""


class ctx_flags(enum.IntEnum):
    """How waiting for the GPU is done."""

    SCHED_AUTO = 0
    SCHED_SPIN = 1
    SCHED_YIELD = 2
    SCHED_BLOCKING_SYNC = 4
    MAP_HOST = 8


class device_attribute(enum.IntEnum):
    """Some of many."""

    CLOCK_RATE = 13
    MULTIPROCESSOR_COUNT = 16
    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19
    MEMORY_CLOCK_RATE = 36
    L2_CACHE_SIZE = 38
    ASYNC_ENGINE_COUNT = 40
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76


_CLASSES = {2: MemoryError, 100: RuntimeError, 600: RuntimeError, 719: LaunchError, 999: Error}
_INITIALIZED = []
_STACKS = threading.local()


def _loads():
    """What the extension's loading does: it is linked against NVIDIA's driver."""
    library, driver = fake.versions()
    if not driver:
        raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory (FAKE)")
    if driver // 1000 < library // 1000:
        raise ImportError("pycuda/_driver.so: undefined symbol: cuCtxCreate_v4 (FAKE)")


_loads()


def _check(routine, status):
    if status:
        fake.call("cudaGetLastError")
        text = "%s failed: %s" % (routine, fake.words("cudaGetErrorString", status).decode())
        raise _CLASSES.get(status, LogicError)(text)


def _stack():
    """The contexts of this thread, the current one last."""
    if not hasattr(_STACKS, "contexts"):
        _STACKS.contexts = []
    return _STACKS.contexts


def _run(routine, name, *args):
    if not _stack():
        _check(routine, fake.INVALID_CONTEXT)
    _check(routine, fake.call(name, *args))


def _made(routine, name, *args, kind=ctypes.c_void_p):
    found = kind()
    _run(routine, name, ctypes.byref(found), *args)
    return found.value


def init(flags=0):
    """Must come first."""
    _check("cuInit", fake.asks("cudaGetDeviceCount")[0])
    _INITIALIZED.append(flags)


def get_version():
    """What pycuda was compiled for."""
    library = fake.versions()[0]
    return library // 1000, library % 1000 // 10, 0


def get_driver_version():
    """The driver's CUDA version, 12060 for 12.6."""
    return fake.versions()[1]


class Device:
    """One GPU."""

    def __init__(self, ordinal):
        if not _INITIALIZED:
            _check("cuDeviceGet", fake.NOT_INITIALIZED)
        _check("cuDeviceGet", fake.asks("cudaDeviceGetAttribute", device_attribute.INTEGRATED, ordinal)[0])
        self._ordinal = ordinal

    @staticmethod
    def count():
        """How many there are."""
        if not _INITIALIZED:
            _check("cuDeviceGetCount", fake.NOT_INITIALIZED)
        status, found = fake.asks("cudaGetDeviceCount")
        _check("cuDeviceGetCount", status)
        return found

    def get_attribute(self, attr):
        """One of `device_attribute`."""
        if not isinstance(attr, device_attribute):
            raise TypeError("Python argument types in Device.get_attribute(Device, %s)" % type(attr).__name__)
        status, found = fake.asks("cudaDeviceGetAttribute", attr, self._ordinal)
        _check("cuDeviceGetAttribute", status)
        return found

    def make_context(self, flags=0):
        """A context of its own, made the current one."""
        _check("cuCtxCreate", fake.call("cudaSetDeviceFlags", flags))
        made = Context()
        _stack().append(made)
        return made

    def retain_primary_context(self):
        """The one that the runtime's interface uses. It is not made the current one."""
        return Context()


class Context:
    """What memory, streams and events belong to."""

    def __init__(self):
        _check("cuCtxCreate", fake.call("cudaFree", 0))
        self.handle = id(self)

    def push(self):
        """Makes it the current one of this thread."""
        _stack().append(self)

    @staticmethod
    def pop():
        """Makes the one before it the current one again."""
        if not _stack():
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        _stack().pop()

    @staticmethod
    def synchronize():
        """Waits for everything."""
        _run("cuCtxSynchronize", "cudaDeviceSynchronize")

    def detach(self):
        """Gives it back."""
        with contextlib.suppress(ValueError):
            _stack().remove(self)


class Stream:
    """Ends with its object."""

    def __init__(self, flags=0):
        self.handle = _made("cuStreamCreate", "cudaStreamCreateWithFlags", flags)

    def synchronize(self):
        """Waits for all that is queued."""
        _run("cuStreamSynchronize", "cudaStreamSynchronize", self.handle)

    def __del__(self):
        if hasattr(self, "handle"):
            fake.call("cudaStreamDestroy", self.handle)


class Event:
    """Ends with its object."""

    def __init__(self, flags=0):
        self._handle = _made("cuEventCreate", "cudaEventCreateWithFlags", flags)

    def record(self, stream=None):
        """Queues the taking of the time."""
        _run("cuEventRecord", "cudaEventRecord", self._handle, _handle_of(stream))
        return self

    def synchronize(self):
        """Waits until the time is taken."""
        _run("cuEventSynchronize", "cudaEventSynchronize", self._handle)
        return self

    def time_till(self, end):
        """Milliseconds."""
        found = ctypes.c_float()
        _run("cuEventElapsedTime", "cudaEventElapsedTime", ctypes.byref(found), self._handle, end._handle)
        return found.value

    def time_since(self, start):
        """Milliseconds."""
        return start.time_till(self)

    def __del__(self):
        if hasattr(self, "_handle"):
            fake.call("cudaEventDestroy", self._handle)


class DeviceAllocation:
    """Device memory; freed with its object where nobody did before."""

    def __init__(self, address):
        self._address = address
        self._valid = True

    def __int__(self):
        return self._address

    __index__ = __int__

    def free(self):
        """Gives it back."""
        if not self._valid:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        self._valid = False
        fake.call("cudaFree", self._address)

    def __del__(self):
        if self._valid:
            self.free()


class PagelockedHostAllocation:
    """What an array of `pagelocked_empty` has as its base."""

    def __init__(self, size_bytes, flags):
        self._address = _made("cuMemHostAlloc", "cudaHostAlloc", size_bytes, flags)
        self._valid = True
        self.__array_interface__ = {
            "data": (self._address, False),
            "shape": (size_bytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def free(self):
        """Gives it back. Arrays over it must not be used any more."""
        if not self._valid:
            raise LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
        self._valid = False
        fake.call("cudaFreeHost", self._address)

    def __del__(self):
        if getattr(self, "_valid", False):
            self.free()


def mem_get_info():
    """(free, total) bytes."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _run("cuMemGetInfo", "cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def mem_alloc(bytes):
    """Device memory."""
    return DeviceAllocation(_made("cuMemAlloc", "cudaMalloc", bytes))


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    """An array over page-locked memory."""
    if order != "C" or np.dtype(dtype) != np.uint8 or not isinstance(shape, int):
        raise NotImplementedError("the fake makes flat arrays of uint8 only")
    return np.asarray(PagelockedHostAllocation(shape, mem_flags))


def memcpy_htod_async(dest, src, stream=None):
    """Queues a copy of a contiguous array to the device."""
    view = memoryview(src)
    if not view.contiguous:
        raise ValueError("ndarray is not contiguous")
    start = np.frombuffer(src, np.uint8).ctypes.data
    _run("cuMemcpyHtoDAsync", "cudaMemcpyAsync", int(dest), start, view.nbytes, 1, _handle_of(stream))


def memcpy_dtoh_async(dest, src, stream=None):
    """Queues the filling of a contiguous array."""
    view = memoryview(dest)
    if view.readonly or not view.contiguous:
        raise ValueError("buffer source array is read-only" if view.readonly else "ndarray is not contiguous")
    start = np.frombuffer(dest, np.uint8).ctypes.data
    _run("cuMemcpyDtoHAsync", "cudaMemcpyAsync", start, int(src), view.nbytes, 2, _handle_of(stream))


def _handle_of(stream):
    if stream is None:
        return 0
    if not isinstance(stream, Stream):
        raise TypeError("No registered converter was able to produce a C++ rvalue from this %s" % type(stream).__name__)
    return stream.handle
