"""What every CUDA provider offers. The books are kept here: what was made, what is freed already, what close frees."""

import contextlib

from device_tests.agent.cuda import numbers
from device_tests.agent.cuda.errors import DRIVER_TOO_OLD, INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED, CudaError


class Graph:
    """What `CudaRuntime.capture` records.

    Attributes:
        handle: to launch it; None until the block of `capture` has ended well, and again once it is destroyed.
    """

    handle = None


class CudaRuntime:
    """One GPU from one thread. Handles and addresses are whole numbers, as TensorRT's Python interface takes them.

    A provider implements what starts with an underscore; each of those raises CudaError. `close` frees whatever was
    made here, so a runner that fails half-way leaves nothing behind. Arrays of `pinned` must not be used after it.

    Attributes:
        name: of the provider, as `choose` takes it.
        origin: what does the work, for people: a package and its version, or a library's path.
        supports_graphs: whether `capture` works.
    """

    name = None
    origin = ""
    supports_graphs = True

    def __init__(self):
        self._index = 0
        self._selected = False
        self._closed = False
        self._event_flags = 0
        # What is there: handle or address -> what belongs to it.
        self._graphs, self._events, self._blocks, self._memory, self._streams = {}, {}, {}, {}, {}

    def version(self):
        """CUDA as the provider was built for it: "12.6". Libraries of CUDA 11 tell it only where there is a driver."""
        return _dotted(self._version())

    def driver_version(self):
        """The newest CUDA that the driver speaks, "12.6"; None without a driver."""
        found = self._driver_version()
        return _dotted(found) if found else None

    def device_count(self):
        """How many GPUs there are.

        Raises:
            CudaError: none (`NO_DEVICE`), or a driver older than the library or no driver (`DRIVER_TOO_OLD`).
        """
        try:
            return self._device_count()
        except CudaError as error:
            if error.code != DRIVER_TOO_OLD:
                raise
            # CUDA has one error for both, and calls a driver that is not there insufficient.
            driver = self.driver_version()
            found = "the driver speaks CUDA %s" % driver if driver else "there is no NVIDIA driver here"
            raise CudaError(error.call, error.code, "%s (%s)" % (found, error.text)) from None

    def select(self, index=0, blocking_sync=True):
        """Takes a GPU; without this call the first one is taken when it is needed.

        Args:
            index: which.
            blocking_sync: waiting yields the processor. False spins: a little faster, and a core is lost to it.
        """
        if self._closed:
            raise CudaError("select", INVALID_VALUE, "this runtime is closed")
        if self._selected:
            self._leave()
            self._selected = False
        self._select(index, numbers.SCHEDULE_BLOCKING_SYNC if blocking_sync else numbers.SCHEDULE_SPIN)
        self._event_flags = numbers.EVENT_BLOCKING_SYNC if blocking_sync else 0
        self._index = index
        self._selected = True

    def compute_capability(self):
        """The architecture as "8.7"."""
        return "%d.%d" % (self.attribute("compute_major"), self.attribute("compute_minor"))

    def attribute(self, name):
        """One of `numbers.ATTRIBUTES`, by name."""
        if name not in numbers.ATTRIBUTES:
            raise CudaError("attribute", INVALID_VALUE, "no %r; there are %s" % (name, ", ".join(numbers.ATTRIBUTES)))
        return int(self._attribute(numbers.ATTRIBUTES[name], self._index))

    def memory(self):
        """(free, total) bytes. A Jetson's GPU shares the system's memory, and free leaves out what caches hold."""
        self._ready()
        free, total = self._memory_info()
        return int(free), int(total)

    def malloc(self, size_bytes):
        """Address of so much device memory."""
        self._ready()
        # An empty tensor has an address, too, and CUDA gives none for nothing.
        address = self._malloc(max(1, size_bytes))
        self._memory[address] = size_bytes
        return address

    def free(self, address):
        """Gives memory of `malloc` back."""
        if address not in self._memory:
            raise CudaError("free", INVALID_VALUE, "0x%x is not allocated here, or freed already" % address)
        del self._memory[address]
        self._free(address)

    def pinned(self, shape, dtype):
        """A numpy array over page-locked memory: copies from and to it run beside the processor."""
        import numpy as np

        self._ready()
        dtype = np.dtype(dtype)
        size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        block = self._host_alloc(max(1, size_bytes))
        self._blocks[address_of(block)] = block
        return block[:size_bytes].view(dtype).reshape(shape)

    def free_pinned(self, array):
        """Gives an array of `pinned` back. No view of it may be used any more."""
        address = address_of(array)
        if address not in self._blocks:
            raise CudaError("free_pinned", INVALID_VALUE, "this array is not pinned here, or freed already")
        self._host_free(self._blocks.pop(address))

    def stream(self):
        """A stream that does not wait for the default one."""
        self._ready()
        return self._made(self._streams, self._stream(numbers.STREAM_NON_BLOCKING))

    def stream_destroy(self, stream):
        """Ends a stream; what is queued on it still runs."""
        self._end(self._streams, stream, "stream_destroy", self._stream_destroy)

    def stream_synchronize(self, stream):
        """Waits for all that is queued. Errors of earlier work show here."""
        self._known(self._streams, stream, "stream_synchronize")
        self._stream_synchronize(stream)

    def copy_to_device(self, address, array, stream):
        """Queues a copy of a whole array. It must stay as it is until the stream has come past it."""
        self._known(self._streams, stream, "copy_to_device")
        self._fits(array, address, "copy_to_device")
        if array.nbytes:
            self._copy_to_device(address, array, stream)

    def copy_to_host(self, array, address, stream):
        """Queues the filling of a whole array."""
        self._known(self._streams, stream, "copy_to_host")
        self._fits(array, address, "copy_to_host")
        if array.nbytes:
            self._copy_to_host(array, address, stream)

    def event(self):
        """An event that carries a time."""
        self._ready()
        return self._made(self._events, self._event(self._event_flags))

    def event_destroy(self, event):
        """Ends an event."""
        self._end(self._events, event, "event_destroy", self._event_destroy)

    def event_record(self, event, stream):
        """Queues the taking of the time."""
        self._known(self._events, event, "event_record")
        self._known(self._streams, stream, "event_record")
        self._event_record(event, stream)

    def event_synchronize(self, event):
        """Waits until the time is taken."""
        self._known(self._events, event, "event_synchronize")
        self._event_synchronize(event)

    def elapsed_ms(self, start, end):
        """Milliseconds between two events whose times are taken."""
        self._known(self._events, start, "elapsed_ms")
        self._known(self._events, end, "elapsed_ms")
        return float(self._elapsed_ms(start, end))

    @contextlib.contextmanager
    def capture(self, stream):
        """Records what is queued inside the block instead of running it.

        Yields:
            A `Graph`; it can be launched once the block has ended well. Where it ends by an exception the recording is
            thrown away and the stream can be used again.

        Raises:
            CudaError: the provider has no graphs, or something inside the block must not be recorded.
        """
        if not self.supports_graphs:
            raise CudaError("capture", NOT_SUPPORTED, "%s has no CUDA graphs" % self.origin)
        self._known(self._streams, stream, "capture")
        graph = Graph()
        self._begin_capture(stream)
        try:
            yield graph
        except BaseException:
            with contextlib.suppress(CudaError):
                self._graph_destroy(self._end_capture(stream))
            raise
        graph.handle = self._end_capture(stream)
        self._graphs[graph.handle] = graph

    def graph_launch(self, graph, stream):
        """Queues all that was recorded."""
        self._finished(graph, "graph_launch")
        self._known(self._streams, stream, "graph_launch")
        self._graph_launch(graph.handle, stream)

    def graph_destroy(self, graph):
        """Ends a graph."""
        self._finished(graph, "graph_destroy")
        handle, graph.handle = graph.handle, None
        del self._graphs[handle]
        self._graph_destroy(handle)

    def close(self):
        """Frees all that was made here. What fails is told last, once, so that the rest is freed nevertheless."""
        if self._closed:
            return
        self._closed = True
        failed = []

        def attempt(function, *args):
            try:
                function(*args)
            except CudaError as error:
                failed.append(error)

        for stream in list(self._streams):
            attempt(self._stream_synchronize, stream)
        for graph in list(self._graphs.values()):
            attempt(self.graph_destroy, graph)
        for event in list(self._events):
            attempt(self.event_destroy, event)
        for block in list(self._blocks.values()):
            attempt(self.free_pinned, block)
        for address in list(self._memory):
            attempt(self.free, address)
        for stream in list(self._streams):
            attempt(self.stream_destroy, stream)
        if self._selected:
            attempt(self._leave)
        if failed:
            raise failed[0]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_error):
        try:
            self.close()
        except CudaError:
            # After a crash on the GPU freeing fails, too: the first error is the one to tell.
            if kind is None:
                raise

    def _ready(self):
        if not self._selected or self._closed:
            self.select()

    def _leave(self):
        """Undoes `_select`, where a provider must."""

    def _fits(self, array, address, call):
        """A copy past the end of what was allocated is refused here: on a GPU it may overwrite something unnoticed."""
        if not array.flags["C_CONTIGUOUS"]:
            raise CudaError(call, INVALID_VALUE, "the array is not contiguous")
        if array.nbytes > self._memory.get(address, array.nbytes):
            text = "%d bytes do not fit into the %d at 0x%x" % (array.nbytes, self._memory[address], address)
            raise CudaError(call, INVALID_VALUE, text)

    def _made(self, book, handle):
        book[handle] = True
        return handle

    def _end(self, book, handle, call, function):
        self._known(book, handle, call)
        del book[handle]
        function(handle)

    def _known(self, book, handle, call):
        """A handle is an address inside CUDA: one that is gone would not be refused there, but end the process."""
        if handle not in book:
            raise CudaError(call, INVALID_HANDLE, "%r was not made here, or is destroyed already" % (handle,))

    def _finished(self, graph, call):
        if graph.handle not in self._graphs:
            raise CudaError(call, INVALID_HANDLE, "this graph was not recorded to its end, or is destroyed already")


def address_of(array):
    """Where an array's bytes begin."""
    return array.__array_interface__["data"][0]


def _dotted(number):
    return "%d.%d" % (number // 1000, number % 1000 // 10)
