"""TFLite models: ai-edge-litert, else tflite-runtime."""

import numpy as np

from device_tests.agent.protocol import Refusal
from device_tests.agent.runners import Input

PACKAGES = ("ai-edge-litert", "tflite-runtime")


def _interpreter():
    """(package, version, Interpreter class) of the first runtime that imports."""
    try:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        return PACKAGES[0], getattr(ai_edge_litert, "__version__", "unknown"), Interpreter
    except ImportError as first:
        try:
            import tflite_runtime
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise first from None
        return PACKAGES[1], getattr(tflite_runtime, "__version__", "unknown"), Interpreter


def probe():
    """Package -> version of the runtime that would be used. Raises ImportError where there is none."""
    package, version, _ = _interpreter()
    return {package: version}


class Runner:
    """A model in an interpreter, one sample at a time.

    Attributes:
        name: package and version.
        inputs: `Input` each, in the file's order.
    """

    def __init__(self, path, threads, _options=None):
        package, version, interpreter = _interpreter()
        self.name = package + " " + version
        self._interpreter = interpreter(model_path=path, num_threads=threads)
        for details in self._interpreter.get_input_details():
            shape, signature = _shapes(details)
            if not shape or (shape[0] != 1 and signature[0] != -1):
                raise Refusal(
                    "model-refused",
                    "its batch size is fixed (input shape %s) and samples are measured one at a time: "
                    "convert it with batch size 1 or a dynamic batch" % shape,
                )
            if shape[0] != 1:
                self._interpreter.resize_tensor_input(details["index"], [1, *shape[1:]])
        self._interpreter.allocate_tensors()
        found = self._interpreter.get_input_details()
        self.inputs = [_described(details) for details in found]
        self._outputs = self._interpreter.get_output_details()
        self._input_indices = [details["index"] for details in found]
        self._output_indices = [output["index"] for output in self._outputs]

    @property
    def output_quantization(self):
        """(scale, zero point) or None, per output."""
        return [_affine(output) for output in self._outputs]

    def __call__(self, sample):
        """Runs one prepared sample, an array [1, ...] per input; returns its outputs."""
        for index, values in zip(self._input_indices, sample):
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._output_indices]


def _shapes(details):
    """(shape, the same with -1 where a size is free)."""
    shape = [int(size) for size in details["shape"]]
    return shape, [int(size) for size in details.get("shape_signature", shape)]


def _described(details):
    sizes = [None if free == -1 else size for size, free in zip(*_shapes(details))][1:]
    return Input(name=details["name"], shape=sizes, dtype=np.dtype(details["dtype"]), quantization=_affine(details))


def _affine(details):
    scale, zero_point = details["quantization"]
    return (float(scale), int(zero_point)) if scale else None
