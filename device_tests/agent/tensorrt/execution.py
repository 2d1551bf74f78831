"""Runs an engine: one sample at a time, on one stream, through buffers that stay.

A run is: inputs into page-locked memory, from there to the GPU, compute, outputs back, wait. A Jetson's GPU has no
memory of its own, and could read the page-locked memory in place; the copies are what an application that is written
for every NVIDIA GPU does, and `parts` tells what they take.
"""

import contextlib

import numpy as np

from device_tests.agent.cuda.interface import CudaError
from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import engine_io, layers

OUT_OF_MEMORY = 2
"""CUDA's number for it."""


class _Buffer:
    """Memory of one input or output: on the GPU, and page-locked here."""

    def __init__(self, address, whole):
        self.address = address
        self.whole = whole
        self.used = whole
        self.shaped = whole


class Execution:
    """An engine with a context, a stream and buffers.

    Attributes:
        inputs: `engine_io.Tensor` each, in the network's order.
        outputs: likewise.
        notes: what was asked for and is not done, and why.
    """

    def __init__(self, trt, engine, cuda, log, input_names, output_names, cuda_graph=False):
        """Takes an engine over.

        Args:
            trt: the module.
            engine: deserialized; closed with this.
            cuda: a `CudaRuntime`; stays the caller's.
            log: `log.Log` of the runtime that made the engine.
            input_names: the order in which samples come.
            output_names: the order in which outputs are given back.
            cuda_graph: launch the computation as one recorded graph; where it cannot be recorded it is not.
        """
        self.notes = []
        self._trt, self._engine, self._cuda, self._log = trt, engine, cuda, log
        self._context = engine.create_execution_context()
        if self._context is None:
            raise Refusal("not-enough-memory", "TensorRT gave no execution context: the board is out of memory")
        found = {tensor.name: tensor for tensor in engine_io.tensors(trt, engine)}
        self.inputs = [found[name] for name in input_names]
        self.outputs = [found[name] for name in output_names]
        self._wants_graph, self._graph = cuda_graph, None
        self._stream = cuda.stream()
        self._marks = [cuda.event() for _ in range(4)]
        self._shapes = None
        self._buffers = {}
        self._addresses = [0] * len(found)

    def run(self, arrays, marked=False):
        """The outputs for one sample, in arrays of their own.

        Args:
            arrays: per input, in its shape.
            marked: take the times that `parts` tells; four events more on the stream.
        """
        try:
            given = [np.shape(array) for array in arrays]
            if given != self._shapes:
                self._take_shapes(given)
            for tensor, array in zip(self.inputs, arrays):
                self._host(tensor)[...] = _fitted(tensor, array)
            self._put_on_stream(self._cuda.event_record if marked else _nothing)
            self._cuda.stream_synchronize(self._stream)
        except CudaError as error:
            code = "not-enough-memory" if error.code == OUT_OF_MEMORY else "runtime-failed"
            raise Refusal(code, "the run failed: %s" % error) from None
        return [self._host(tensor).copy() for tensor in self.outputs]

    def parts(self):
        """Milliseconds on the GPU of the last marked run: (inputs to the GPU, compute, outputs back)."""
        marks = self._marks
        return tuple(self._cuda.elapsed_ms(start, end) for start, end in zip(marks, marks[1:]))

    def inspected(self):
        """See `layers.inspected`, for the shapes of the last run."""
        return layers.inspected(self._trt, self._engine, self._context)

    def layer_times(self, arrays, runs):
        """Layer -> mean milliseconds of `runs`. Under a profiler each layer is waited for: their sum is no latency."""
        self.run(arrays)
        times, context = layers.Times(self._trt), self._context
        context.profiler = times.profiler
        for _ in range(runs):
            # The way to run that reports to a profiler in every version.
            if not engine_io.execute(context, self._addresses):
                raise Refusal("runtime-failed", "TensorRT did not take the run: %s" % self._log.last_errors())
        return times.mean_ms(runs)

    def close(self):
        """Gives buffers, stream and context back."""
        with contextlib.suppress(CudaError):
            self._cuda.stream_synchronize(self._stream)
        self._forget_graph()
        # Before the memory that they use, and a context before its engine.
        self._context = self._engine = None
        for mark in self._marks:
            self._cuda.event_destroy(mark)
        for name in list(self._buffers):
            self._release(name)
        self._cuda.stream_destroy(self._stream)

    def _put_on_stream(self, mark):
        cuda, stream, marks = self._cuda, self._stream, self._marks
        mark(marks[0], stream)
        for tensor in self.inputs:
            held = self._buffers[tensor.name]
            cuda.copy_to_device(held.address, held.used, stream)
        mark(marks[1], stream)
        if self._graph is None:
            self._enqueue()
        else:
            cuda.graph_launch(self._graph, stream)
        mark(marks[2], stream)
        for tensor in self.outputs:
            held = self._buffers[tensor.name]
            cuda.copy_to_host(held.used, held.address, stream)
        mark(marks[3], stream)

    def _enqueue(self):
        if not engine_io.enqueue(self._context, self._addresses, self._stream):
            raise Refusal("runtime-failed", "TensorRT did not take the run: %s" % self._log.last_errors())

    def _take_shapes(self, given):
        """Fixes shapes, and has buffers for them; a model with open sizes comes here when they change."""
        if len(given) != len(self.inputs):
            raise Refusal("model-refused", "the engine takes %d inputs, not %d" % (len(self.inputs), len(given)))
        self._forget_graph()
        self._shapes = None
        for tensor, shape in zip(self.inputs, given):
            if -1 in tensor.shape:
                engine_io.set_input_shape(self._context, tensor, shape)
            elif list(shape) != tensor.shape:
                raise Refusal("shape-refused", "input %r is %s, not %s" % (tensor.name, tensor.shape, list(shape)))
            self._hold(tensor, shape)
        for tensor in self.outputs:
            self._hold(tensor, engine_io.shape(self._context, tensor))
        engine_io.set_addresses(self._context, self.inputs + self.outputs, self._addresses)
        self._shapes = given
        if self._wants_graph:
            self._record()

    def _hold(self, tensor, shape):
        """Buffers of that shape; those that are large enough stay."""
        count = int(np.prod(shape, dtype=np.int64))
        held = self._buffers.get(tensor.name)
        if held is None or held.whole.size < count:
            self._release(tensor.name)
            # One element at least: what is empty needs an address all the same.
            whole = self._cuda.pinned((max(1, count),), tensor.dtype)
            held = _Buffer(self._cuda.malloc(whole.nbytes), whole)
            self._buffers[tensor.name] = held
        held.used = held.whole[: max(1, count)]
        held.shaped = held.whole[:count].reshape(shape)
        self._addresses[tensor.number] = held.address

    def _release(self, name):
        held = self._buffers.pop(name, None)
        if held is not None:
            self._cuda.free(held.address)
            self._cuda.free_pinned(held.whole)

    def _host(self, tensor):
        return self._buffers[tensor.name].shaped

    def _record(self):
        """Records the computation. TensorRT asks for one run before, in which it sets up what a graph cannot hold."""
        for tensor in self.inputs:
            self._host(tensor)[...] = 0
        self._put_on_stream(_nothing)
        self._cuda.stream_synchronize(self._stream)
        try:
            with self._cuda.capture(self._stream) as graph:
                self._enqueue()
            self._graph = graph
        except (CudaError, Refusal) as error:
            self._wants_graph = False
            self.notes.append("no CUDA graph: %s" % error)

    def _forget_graph(self):
        if self._graph is not None:
            self._cuda.graph_destroy(self._graph)
            self._graph = None


def _nothing(_event, _stream):
    """Takes no time."""


def _fitted(tensor, array):
    """The values in the engine's type. TensorRT 8 has int32 where the network says int64."""
    array = np.asarray(array)
    if array.dtype == tensor.dtype:
        return array
    if array.dtype.kind in "iu" and tensor.dtype.kind in "iu" and array.size:
        limits = np.iinfo(tensor.dtype)
        if array.min() < limits.min or array.max() > limits.max:
            told = "input %r holds %d..%d, which %s does not" % (tensor.name, array.min(), array.max(), tensor.dtype)
            raise Refusal("model-refused", told)
    return array.astype(tensor.dtype)
