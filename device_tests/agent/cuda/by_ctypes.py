"""CUDA through ctypes on libcudart: nothing to install, JetPack 4.6 to 7.2."""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p

from device_tests.agent.cuda import finding, numbers
from device_tests.agent.cuda.errors import CudaError, CudaMissing
from device_tests.agent.cuda.interface import CudaRuntime, address_of

_SET_ON_ACTIVE_PROCESS = 708

# Without these ctypes would pass an address as a C int and cut it in half. Every one but the two that explain
# errors returns a status.
_ARGUMENTS = {
    "cudaRuntimeGetVersion": [POINTER(c_int)],
    "cudaDriverGetVersion": [POINTER(c_int)],
    "cudaGetDeviceCount": [POINTER(c_int)],
    "cudaSetDevice": [c_int],
    "cudaSetDeviceFlags": [c_uint],
    "cudaGetDeviceFlags": [POINTER(c_uint)],
    "cudaDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cudaMemGetInfo": [POINTER(c_size_t), POINTER(c_size_t)],
    "cudaMalloc": [POINTER(c_void_p), c_size_t],
    "cudaFree": [c_void_p],
    "cudaHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cudaFreeHost": [c_void_p],
    "cudaMemcpyAsync": [c_void_p, c_void_p, c_size_t, c_int, c_void_p],
    "cudaStreamCreateWithFlags": [POINTER(c_void_p), c_uint],
    "cudaStreamDestroy": [c_void_p],
    "cudaStreamSynchronize": [c_void_p],
    "cudaEventCreateWithFlags": [POINTER(c_void_p), c_uint],
    "cudaEventDestroy": [c_void_p],
    "cudaEventRecord": [c_void_p, c_void_p],
    "cudaEventSynchronize": [c_void_p],
    "cudaEventElapsedTime": [POINTER(c_float), c_void_p, c_void_p],
    "cudaStreamBeginCapture": [c_void_p, c_int],
    "cudaStreamEndCapture": [c_void_p, POINTER(c_void_p)],
    "cudaGraphLaunch": [c_void_p, c_void_p],
    "cudaGraphDestroy": [c_void_p],
    "cudaGraphExecDestroy": [c_void_p],
    "cudaGetLastError": [],
}
_WITH_FLAGS = "cudaGraphInstantiateWithFlags"
_FIVE_ARGUMENTS = "cudaGraphInstantiate"


class Runtime(CudaRuntime):
    """See `CudaRuntime`."""

    name = "ctypes"

    def __init__(self, found=None):
        """`found`: (library, its path), where it is not to be searched for."""
        super().__init__()
        library, self.origin = found or finding.find()
        try:
            for name, arguments in _ARGUMENTS.items():
                _declare(library, name, arguments)
            for name in ("cudaGetErrorName", "cudaGetErrorString"):
                _declare(library, name, [c_int], c_char_p)
            # From CUDA 12 on, `cudaGraphInstantiate` takes three arguments under the same name: never call it where
            # the newer symbol is there. CUDA 10.2 has only the older one.
            self._with_flags = hasattr(library, _WITH_FLAGS)
            if self._with_flags:
                _declare(library, _WITH_FLAGS, [POINTER(c_void_p), c_void_p, ctypes.c_ulonglong])
            else:
                five = [POINTER(c_void_p), c_void_p, POINTER(c_void_p), c_char_p, c_size_t]
                _declare(library, _FIVE_ARGUMENTS, five)
        except AttributeError as error:
            raise CudaMissing(self.name, "%s is no CUDA runtime of 10.2 or newer: %s" % (self.origin, error)) from None
        self._library = library

    def _call(self, name, *args):
        code = getattr(self._library, name)(*args)
        if code:
            # The library keeps the error, and whoever asks for the last one next, TensorRT say, would take it for
            # its own.
            self._library.cudaGetLastError()
            raise CudaError(name, code, self._explained(code))

    def _explained(self, code):
        words = [self._library.cudaGetErrorName(code), self._library.cudaGetErrorString(code)]
        return ", ".join(word.decode() for word in words)

    def _number(self, name, *args, kind=c_int):
        """Calls what writes one number through its first argument."""
        found = kind()
        self._call(name, byref(found), *args)
        return found.value

    def _handle(self, name, *args):
        return self._number(name, *args, kind=c_void_p)

    def _version(self):
        return self._number("cudaRuntimeGetVersion")

    def _driver_version(self):
        return self._number("cudaDriverGetVersion")

    def _device_count(self):
        return self._number("cudaGetDeviceCount")

    def _select(self, index, flags):
        self._call("cudaSetDevice", index)
        try:
            self._call("cudaSetDeviceFlags", flags)
        except CudaError as error:
            # CUDA 10.2 sets no flags once somebody has used the GPU; that they are as wanted is enough.
            if error.code != _SET_ON_ACTIVE_PROCESS or self._schedule() != flags:
                raise
        # Makes the context now, so that it is not part of the first measurement.
        self._call("cudaFree", None)

    def _schedule(self):
        return self._number("cudaGetDeviceFlags", kind=c_uint) & numbers.SCHEDULE_MASK

    def _attribute(self, number, index):
        return self._number("cudaDeviceGetAttribute", number, index)

    def _memory_info(self):
        free, total = c_size_t(), c_size_t()
        self._call("cudaMemGetInfo", byref(free), byref(total))
        return free.value, total.value

    def _malloc(self, size_bytes):
        return self._handle("cudaMalloc", size_bytes)

    def _free(self, address):
        self._call("cudaFree", address)

    def _host_alloc(self, size_bytes):
        import numpy as np

        address = self._handle("cudaHostAlloc", size_bytes, 0)
        return np.frombuffer((ctypes.c_ubyte * size_bytes).from_address(address), np.uint8)

    def _host_free(self, block):
        self._call("cudaFreeHost", address_of(block))

    def _stream(self, flags):
        return self._handle("cudaStreamCreateWithFlags", flags)

    def _stream_destroy(self, stream):
        self._call("cudaStreamDestroy", stream)

    def _stream_synchronize(self, stream):
        self._call("cudaStreamSynchronize", stream)

    def _copy_to_device(self, address, array, stream):
        self._call("cudaMemcpyAsync", address, address_of(array), array.nbytes, numbers.HOST_TO_DEVICE, stream)

    def _copy_to_host(self, array, address, stream):
        self._call("cudaMemcpyAsync", address_of(array), address, array.nbytes, numbers.DEVICE_TO_HOST, stream)

    def _event(self, flags):
        return self._handle("cudaEventCreateWithFlags", flags)

    def _event_destroy(self, event):
        self._call("cudaEventDestroy", event)

    def _event_record(self, event, stream):
        self._call("cudaEventRecord", event, stream)

    def _event_synchronize(self, event):
        self._call("cudaEventSynchronize", event)

    def _elapsed_ms(self, start, end):
        return self._number("cudaEventElapsedTime", start, end, kind=c_float)

    def _begin_capture(self, stream):
        self._call("cudaStreamBeginCapture", stream, numbers.CAPTURE_THREAD_LOCAL)

    def _end_capture(self, stream):
        found = c_void_p()
        self._call("cudaStreamEndCapture", stream, byref(found))
        graph = found.value
        try:
            if self._with_flags:
                return self._handle(_WITH_FLAGS, graph, 0)
            return self._handle(_FIVE_ARGUMENTS, graph, None, None, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def _graph_launch(self, handle, stream):
        self._call("cudaGraphLaunch", handle, stream)

    def _graph_destroy(self, handle):
        self._call("cudaGraphExecDestroy", handle)


def _declare(library, name, arguments, result=c_int):
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = result
