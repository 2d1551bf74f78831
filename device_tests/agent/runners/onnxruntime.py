"""ONNX models in ONNX Runtime, on the processor."""

import numpy as np

from device_tests.agent.protocol import Refusal

PACKAGES = ("onnxruntime",)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


def probe():
    """Package -> version. Raises ImportError where it is not installed."""
    import onnxruntime

    return {PACKAGES[0]: onnxruntime.__version__}


class Runner:
    """A model in a session, one sample at a time.

    Attributes:
        name: package and version.
    """

    def __init__(self, path, threads):
        import onnxruntime

        self.name = "onnxruntime %s" % onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise Refusal("model-refused", "the model takes %d inputs; one is supported" % len(inputs))
        self._input = inputs[0]
        if not self._input.shape or (isinstance(self._input.shape[0], int) and self._input.shape[0] != 1):
            raise Refusal(
                "model-refused",
                "its batch size is fixed (input shape %s) and samples are measured one at a time: "
                "export it with batch size 1 or a dynamic batch" % self._input.shape,
            )
        if self._input.type not in _DTYPES:
            raise Refusal("model-refused", "input %r is %s" % (self._input.name, self._input.type))
        self._input_name = self._input.name
        self._output_names = [output.name for output in self._session.get_outputs()]

    @property
    def input_shape(self):
        """Of one sample, without the batch dimension; None where a size is free."""
        return [size if isinstance(size, int) else None for size in self._input.shape[1:]]

    @property
    def input_dtype(self):
        """Of the model's input."""
        return np.dtype(_DTYPES[self._input.type])

    @property
    def input_quantization(self):
        """None: quantization is inside the graph."""
        return None

    @property
    def output_quantization(self):
        """None per output: quantization is inside the graph."""
        return [None for _ in self._output_names]

    def __call__(self, sample):
        """Runs one prepared sample [1, ...]; returns its outputs."""
        return self._session.run(self._output_names, {self._input_name: sample})
