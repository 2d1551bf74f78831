"""ONNX models in ONNX Runtime, on the processor."""

import numpy as np

from device_tests.agent.protocol import Refusal
from device_tests.agent.runners import Input

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
        inputs: `Input` each; quantization is inside the graph.
    """

    def __init__(self, path, threads, options=None):
        """Loads it.

        Args:
            path: the file.
            threads: that one op may use.
            options: {"as_written": True} computes every node as it stands, none fused with others.
        """
        import onnxruntime

        self.name = "onnxruntime %s" % onnxruntime.__version__
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        if (options or {}).get("as_written"):
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self.inputs = [_described(value) for value in self._session.get_inputs()]
        self._input_names = [one.name for one in self.inputs]
        self._output_names = [output.name for output in self._session.get_outputs()]

    @property
    def output_quantization(self):
        """None per output: quantization is inside the graph."""
        return [None for _ in self._output_names]

    def __call__(self, sample):
        """Runs one prepared sample, an array [1, ...] per input; returns its outputs."""
        return self._session.run(self._output_names, dict(zip(self._input_names, sample)))


def _described(value):
    shape = value.shape
    if not shape or (isinstance(shape[0], int) and shape[0] != 1):
        raise Refusal(
            "model-refused",
            "its batch size is fixed (input shape %s) and samples are measured one at a time: "
            "export it with batch size 1 or a dynamic batch" % shape,
        )
    if value.type not in _DTYPES:
        raise Refusal("model-refused", "input %r is %s" % (value.name, value.type))
    sizes = [size if isinstance(size, int) else None for size in shape[1:]]
    return Input(name=value.name, shape=sizes, dtype=np.dtype(_DTYPES[value.type]), quantization=None)
