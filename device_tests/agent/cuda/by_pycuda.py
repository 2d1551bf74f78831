"""CUDA through pycuda, 2020.1 or newer: the driver's interface, objects instead of handles, no graphs."""

from device_tests.agent.cuda import numbers
from device_tests.agent.cuda.errors import CudaError, CudaMissing
from device_tests.agent.cuda.interface import CudaRuntime

# pycuda tells an error only in the driver's words, and the driver has had these since CUDA 6.
_CODES = {
    "invalid argument": 1,
    "out of memory": 2,
    "initialization error": 3,
    "no CUDA-capable device is detected": 100,
    "invalid device ordinal": 101,
    "invalid device context": 201,
    "invalid resource handle": 400,
    "device not ready": 600,
    "an illegal memory access was encountered": 700,
    "unspecified launch failure": 719,
    "operation not supported": 801,
    "system has unsupported display driver / cuda driver combination": 803,
    "unknown error": 999,
}
_ATTRIBUTES = {
    13: "CLOCK_RATE",
    16: "MULTIPROCESSOR_COUNT",
    18: "INTEGRATED",
    19: "CAN_MAP_HOST_MEMORY",
    36: "MEMORY_CLOCK_RATE",
    38: "L2_CACHE_SIZE",
    40: "ASYNC_ENGINE_COUNT",
    75: "COMPUTE_CAPABILITY_MAJOR",
    76: "COMPUTE_CAPABILITY_MINOR",
}


class Runtime(CudaRuntime):
    """See `CudaRuntime`. The context belongs to the thread that called `select`; all calls must come from there."""

    name = "pycuda"
    supports_graphs = False

    def __init__(self, driver=None):
        """`driver`: the module pycuda.driver, where it is not to be imported."""
        super().__init__()
        self._driver, self.origin = (driver, driver.__name__) if driver else _imported()
        self._context = None
        self._waiter = None
        # pycuda frees what an object stands for when the object goes: these keep them.
        self._allocations, self._made_streams, self._made_events = {}, {}, {}

    def _tell(self, function, *args):
        try:
            return function(*args)
        except self._driver.Error as error:
            call, _, text = str(error).partition(" failed: ")
        # An error keeps this frame for its traceback; a stream or an event in it would outlive its destruction.
        function = args = None
        raise CudaError(call, _CODES.get(text.partition(" - ")[0]), text or call)

    def _version(self):
        major, minor, _ = self._driver.get_version()
        return major * 1000 + minor * 10

    def _driver_version(self):
        return self._tell(self._driver.get_driver_version)

    def _device_count(self):
        self._tell(self._driver.init)
        return self._tell(self._driver.Device.count)

    def _device(self, index):
        self._tell(self._driver.init)
        return self._tell(self._driver.Device, index)

    def _select(self, index, flags):
        device = self._device(index)
        if hasattr(device, "retain_primary_context"):
            # The one that TensorRT's own threads use.
            context = self._tell(device.retain_primary_context)
            self._tell(context.push)
        else:
            context = self._tell(device.make_context, flags)
        self._context = context
        # The primary context's flags cannot be set through pycuda, so streams are waited for by an event that yields
        # the processor, where that is wanted.
        yields = flags == numbers.SCHEDULE_BLOCKING_SYNC
        self._waiter = self._tell(self._driver.Event, numbers.EVENT_BLOCKING_SYNC) if yields else None

    def _leave(self):
        self._waiter = None
        self._tell(self._context.pop)
        # pycuda gives the context back when its object goes.
        self._context = None

    def _attribute(self, number, index):
        attribute = getattr(self._driver.device_attribute, _ATTRIBUTES[number])
        return self._tell(self._device(index).get_attribute, attribute)

    def _memory_info(self):
        return self._tell(self._driver.mem_get_info)

    def _malloc(self, size_bytes):
        block = self._tell(self._driver.mem_alloc, size_bytes)
        self._allocations[int(block)] = block
        return int(block)

    def _free(self, address):
        self._tell(self._allocations.pop(address).free)

    def _host_alloc(self, size_bytes):
        import numpy as np

        return self._tell(self._driver.pagelocked_empty, size_bytes, np.uint8)

    def _host_free(self, block):
        self._tell(block.base.free)

    def _stream(self, flags):
        stream = self._tell(self._driver.Stream, flags)
        self._made_streams[stream.handle] = stream
        return stream.handle

    def _stream_destroy(self, stream):
        del self._made_streams[stream]

    def _stream_synchronize(self, stream):
        if self._waiter is None:
            self._tell(self._made_streams[stream].synchronize)
        else:
            self._tell(self._waiter.record, self._made_streams[stream])
            self._tell(self._waiter.synchronize)

    def _copy_to_device(self, address, array, stream):
        self._tell(self._driver.memcpy_htod_async, address, array, self._made_streams[stream])

    def _copy_to_host(self, array, address, stream):
        self._tell(self._driver.memcpy_dtoh_async, array, address, self._made_streams[stream])

    def _event(self, flags):
        event = self._tell(self._driver.Event, flags)
        self._made_events[id(event)] = event
        return id(event)

    def _event_destroy(self, event):
        del self._made_events[event]

    def _event_record(self, event, stream):
        self._tell(self._made_events[event].record, self._made_streams[stream])

    def _event_synchronize(self, event):
        self._tell(self._made_events[event].synchronize)

    def _elapsed_ms(self, start, end):
        return self._tell(self._made_events[start].time_till, self._made_events[end])


def _imported():
    """(pycuda.driver, package and version)."""
    try:
        import pycuda
        from pycuda import driver
    except Exception as error:
        # Without NVIDIA's driver its extension fails to load, and old ones fail in many ways beside a newer numpy.
        raise CudaMissing(Runtime.name, "%s: %s" % (type(error).__name__, error)) from None
    return driver, "pycuda %s" % getattr(pycuda, "VERSION_TEXT", "unknown")
