"""FAKE functions of cuda.bindings.runtime over the fake libcudart: so that the provider's own code can be run.

Recorded from cuda-bindings 13.5.0, 13.0.3, 12.8.0, 11.8.7 and cuda-python 12.2.0 as installed (a slow test holds the
names and the number of arguments to the real package): every function returns a tuple, its status first, None for
what there is none of after an error; handles are objects that int() takes, and numbers are taken for them; kinds and
attributes must be the package's own enumerations; before 13 functions raise RuntimeError where the driver's library
is not there, even the one that explains errors.
"""

import ctypes
import enum

import edgesmith_fake_cuda as fake

cudaError_t = enum.IntEnum(
    "cudaError_t",
    {fake.words("cudaGetErrorName", code).decode(): code for code in (
        0, 1, 2, 3, 35, 46, 100, 101, 201, 400, 401, 600, 700, 708, 719, 801, 900, 901, 907, 908, 999
    )},
)  # fmt: skip
cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
cudaStreamCaptureMode = enum.IntEnum(
    "cudaStreamCaptureMode",
    {
        "cudaStreamCaptureModeGlobal": 0,
        "cudaStreamCaptureModeThreadLocal": 1,
        "cudaStreamCaptureModeRelaxed": 2,
    },
)
cudaDeviceAttr = enum.IntEnum(
    "cudaDeviceAttr",
    {
        "cudaDevAttrClockRate": 13,
        "cudaDevAttrMultiProcessorCount": 16,
        "cudaDevAttrIntegrated": 18,
        "cudaDevAttrCanMapHostMemory": 19,
        "cudaDevAttrMemoryClockRate": 36,
        "cudaDevAttrL2CacheSize": 38,
        "cudaDevAttrAsyncEngineCount": 40,
        "cudaDevAttrComputeCapabilityMajor": 75,
        "cudaDevAttrComputeCapabilityMinor": 76,
    },
)


class _Handle:
    def __init__(self, address=0):
        self._address = int(address)

    def __int__(self):
        return self._address


class cudaStream_t(_Handle):
    """A stream."""


class cudaEvent_t(_Handle):
    """An event."""


class cudaGraph_t(_Handle):
    """What was recorded."""


class cudaGraphExec_t(_Handle):
    """What can be launched."""


def _status(code):
    return cudaError_t(code)


def _needs_driver():
    library, driver = fake.versions()
    if library < 13000 and not driver:
        raise RuntimeError("Failed to dlopen libcuda.so.1")


def _does(name, *args):
    _needs_driver()
    return (_status(fake.call(name, *[int(arg) for arg in args])),)


def _makes(name, result, *args, kind=ctypes.c_void_p):
    _needs_driver()
    found = kind()
    code = fake.call(name, ctypes.byref(found), *[int(arg) for arg in args])
    return _status(code), None if code else result(found.value)


def cudaGetErrorName(error):
    return _status(0), fake.words("cudaGetErrorName", error.value)


def cudaGetErrorString(error):
    _needs_driver()
    return _status(0), fake.words("cudaGetErrorString", error.value)


def cudaGetLastError():
    return (_status(fake.call("cudaGetLastError")),)


def cudaRuntimeGetVersion():
    return _status(0), fake.versions()[0]


def cudaDriverGetVersion():
    _needs_driver()
    return _status(0), fake.versions()[1]


def cudaGetDeviceCount():
    return _makes("cudaGetDeviceCount", int, kind=ctypes.c_int)


def cudaSetDevice(device):
    return _does("cudaSetDevice", device)


def cudaSetDeviceFlags(flags):
    return _does("cudaSetDeviceFlags", flags)


def cudaDeviceGetAttribute(attr, device):
    return _makes("cudaDeviceGetAttribute", int, attr.value, device, kind=ctypes.c_int)


def cudaMemGetInfo():
    _needs_driver()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    code = fake.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return (_status(code), None, None) if code else (_status(0), free.value, total.value)


def cudaMalloc(size):
    return _makes("cudaMalloc", int, size)


def cudaFree(devPtr):
    return _does("cudaFree", devPtr)


def cudaHostAlloc(size, flags):
    return _makes("cudaHostAlloc", int, size, flags)


def cudaFreeHost(ptr):
    return _does("cudaFreeHost", ptr)


def cudaMemcpyAsync(dst, src, count, kind, stream):
    return _does("cudaMemcpyAsync", dst, src, count, kind.value, stream)


def cudaStreamCreateWithFlags(flags):
    return _makes("cudaStreamCreateWithFlags", cudaStream_t, flags)


def cudaStreamDestroy(stream):
    return _does("cudaStreamDestroy", stream)


def cudaStreamSynchronize(stream):
    return _does("cudaStreamSynchronize", stream)


def cudaEventCreateWithFlags(flags):
    return _makes("cudaEventCreateWithFlags", cudaEvent_t, flags)


def cudaEventDestroy(event):
    return _does("cudaEventDestroy", event)


def cudaEventRecord(event, stream):
    return _does("cudaEventRecord", event, stream)


def cudaEventSynchronize(event):
    return _does("cudaEventSynchronize", event)


def cudaEventElapsedTime(start, end):
    return _makes("cudaEventElapsedTime", float, int(start), int(end), kind=ctypes.c_float)


def cudaStreamBeginCapture(stream, mode):
    return _does("cudaStreamBeginCapture", stream, mode.value)


def cudaStreamEndCapture(stream):
    _needs_driver()
    graph = ctypes.c_void_p()
    code = fake.call("cudaStreamEndCapture", int(stream), ctypes.byref(graph))
    return _status(code), None if code else cudaGraph_t(graph.value)


def cudaGraphInstantiateWithFlags(graph, flags):
    return _makes("cudaGraphInstantiateWithFlags", cudaGraphExec_t, graph, flags)


def cudaGraphLaunch(graphExec, stream):
    return _does("cudaGraphLaunch", graphExec, stream)


def cudaGraphDestroy(graph):
    return _does("cudaGraphDestroy", graph)


def cudaGraphExecDestroy(graphExec):
    return _does("cudaGraphExecDestroy", graphExec)
