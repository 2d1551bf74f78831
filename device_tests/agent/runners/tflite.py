"""TFLite models: ai-edge-litert, else tflite-runtime."""

import numpy as np

from device_tests.agent.protocol import Refusal

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
    """

    def __init__(self, path, threads):
        package, version, interpreter = _interpreter()
        self.name = package + " " + version
        self._interpreter = interpreter(model_path=path, num_threads=threads)
        details = self._interpreter.get_input_details()
        if len(details) != 1:
            raise Refusal("model-refused", "the model takes %d inputs; one is supported" % len(details))
        self._input = details[0]
        shape = [int(size) for size in details[0]["shape"]]
        signature = [int(size) for size in details[0].get("shape_signature", shape)]
        if not shape or (shape[0] != 1 and signature[0] != -1):
            raise Refusal(
                "model-refused",
                "its batch size is fixed (input shape %s) and samples are measured one at a time: "
                "convert it with batch size 1 or a dynamic batch" % shape,
            )
        if shape[0] != 1:
            self._interpreter.resize_tensor_input(details[0]["index"], [1, *shape[1:]])
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = self._interpreter.get_output_details()
        self._input_index = self._input["index"]
        self._output_indices = [output["index"] for output in self._outputs]

    @property
    def input_shape(self):
        """Of one sample, without the batch dimension; None where a size is free."""
        shape = [int(size) for size in self._input["shape"]]
        signature = [int(size) for size in self._input.get("shape_signature", shape)]
        return [None if free == -1 else size for size, free in zip(shape[1:], signature[1:])]

    @property
    def input_dtype(self):
        """Of the model's input."""
        return np.dtype(self._input["dtype"])

    @property
    def input_quantization(self):
        """(scale, zero point) or None."""
        return _affine(self._input)

    @property
    def output_quantization(self):
        """(scale, zero point) or None, per output."""
        return [_affine(output) for output in self._outputs]

    def __call__(self, sample):
        """Runs one prepared sample [1, ...]; returns its outputs."""
        self._interpreter.set_tensor(self._input_index, sample)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._output_indices]


def _affine(details):
    scale, zero_point = details["quantization"]
    return (float(scale), int(zero_point)) if scale else None
