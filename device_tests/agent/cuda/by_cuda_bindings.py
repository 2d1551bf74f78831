"""CUDA through NVIDIA's own Python package: `cuda.bindings`, or `cuda.cudart` of its first versions."""

import ctypes

from device_tests.agent.cuda import numbers
from device_tests.agent.cuda.errors import DRIVER_TOO_OLD, CudaError, CudaMissing
from device_tests.agent.cuda.interface import CudaRuntime, address_of


class Runtime(CudaRuntime):
    """See `CudaRuntime`. Every function of the package returns a tuple, its status first."""

    name = "cuda-bindings"

    def __init__(self, api=None):
        """`api`: the package's module of the runtime's functions, where it is not to be imported."""
        super().__init__()
        self._api, self.origin = (api, api.__name__) if api else _imported()

    def _call(self, name, *args):
        """All that the function returned but its status."""
        try:
            status, *found = getattr(self._api, name)(*args)
        except RuntimeError as error:
            # Before 13 these functions are written over the driver's library, and raise where that is not there.
            raise CudaError(name, DRIVER_TOO_OLD, str(error)) from None
        code = int(status)
        if code:
            self._api.cudaGetLastError()
            raise CudaError(name, code, self._explained(status))
        return found

    def _number(self, name, *args):
        return self._call(name, *args)[0]

    def _handle(self, name, *args):
        # As a number: it outlives the package's object, and its functions take numbers, too.
        return int(self._call(name, *args)[0])

    def _explained(self, status):
        words = []
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            try:
                words.append(getattr(self._api, name)(status)[1].decode())
            except RuntimeError:
                words.append("no driver to explain it")
        return ", ".join(words)

    def _version(self):
        return self._number("cudaRuntimeGetVersion")

    def _driver_version(self):
        try:
            return self._number("cudaDriverGetVersion")
        except CudaError:
            return 0

    def _device_count(self):
        return self._number("cudaGetDeviceCount")

    def _select(self, index, flags):
        self._call("cudaSetDevice", index)
        self._call("cudaSetDeviceFlags", flags)
        # Makes the context now, so that it is not part of the first measurement.
        self._call("cudaFree", 0)

    def _attribute(self, number, index):
        return self._number("cudaDeviceGetAttribute", self._api.cudaDeviceAttr(number), index)

    def _memory_info(self):
        return self._call("cudaMemGetInfo")

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
        self._copy(address, address_of(array), array.nbytes, numbers.HOST_TO_DEVICE, stream)

    def _copy_to_host(self, array, address, stream):
        self._copy(address_of(array), address, array.nbytes, numbers.DEVICE_TO_HOST, stream)

    def _copy(self, to, start, size_bytes, kind, stream):
        self._call("cudaMemcpyAsync", to, start, size_bytes, self._api.cudaMemcpyKind(kind), stream)

    def _event(self, flags):
        return self._handle("cudaEventCreateWithFlags", flags)

    def _event_destroy(self, event):
        self._call("cudaEventDestroy", event)

    def _event_record(self, event, stream):
        self._call("cudaEventRecord", event, stream)

    def _event_synchronize(self, event):
        self._call("cudaEventSynchronize", event)

    def _elapsed_ms(self, start, end):
        return self._number("cudaEventElapsedTime", start, end)

    def _begin_capture(self, stream):
        self._call("cudaStreamBeginCapture", stream, self._api.cudaStreamCaptureMode(numbers.CAPTURE_THREAD_LOCAL))

    def _end_capture(self, stream):
        graph = self._handle("cudaStreamEndCapture", stream)
        try:
            # `cudaGraphInstantiate` takes other arguments before 12.
            return self._handle("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def _graph_launch(self, handle, stream):
        self._call("cudaGraphLaunch", handle, stream)

    def _graph_destroy(self, handle):
        self._call("cudaGraphExecDestroy", handle)


def _imported():
    """(module, package and version)."""
    try:
        from cuda import bindings
        from cuda.bindings import runtime

        return runtime, "cuda-bindings %s" % getattr(bindings, "__version__", "unknown")
    except Exception as first:
        try:
            import cuda
            from cuda import cudart
        except Exception:
            raise CudaMissing(Runtime.name, "%s: %s" % (type(first).__name__, first)) from None
        return cudart, "cuda-python %s" % getattr(cuda, "__version__", "unknown")
