"""Evaluation samples on the board: read from disk as needed, prepared in the model's own dtype."""

import numpy as np

from device_tests.agent.protocol import Refusal

TIMED_SAMPLES = 64


class Samples:
    """Rows of a `.npy` file. It is mapped, not loaded: a board's memory belongs to the model."""

    def __init__(self, path, dtype):
        """`dtype` is what the values mean, e.g. "float32" for pixels that travelled as uint8."""
        self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        self._dtype = np.dtype(dtype)

    def __len__(self):
        return len(self._rows)

    def check(self, shape):
        """Refuses samples that do not fit `shape`, where None is a free size."""
        own = list(self._rows.shape[1:])
        fits = len(own) == len(shape) and all(want in (None, size) for want, size in zip(shape, own))
        if not fits:
            raise Refusal("model-refused", "the model takes samples of shape %s, these are %s" % (shape, own))

    def prepared(self, index, dtype, quantization):
        """Sample `index` as [1, ...] in the model's dtype.

        A quantized input gets `clip(round_half_even(x / scale) + zero_point)`, as ONNX QuantizeLinear says it.
        """
        values = np.ascontiguousarray(self._rows[index : index + 1]).astype(self._dtype)
        if quantization is None:
            return values.astype(dtype)
        scale, zero_point = quantization
        limits = np.iinfo(dtype)
        steps = np.rint(values.astype(np.float32) / np.float32(scale)) + zero_point
        return np.clip(steps, limits.min, limits.max).astype(dtype)

    def timed(self, dtype, quantization):
        """Up to `TIMED_SAMPLES` prepared samples, spread evenly: what the timed runs cycle through."""
        count = min(len(self), TIMED_SAMPLES)
        return [self.prepared(index * len(self) // count, dtype, quantization) for index in range(count)]
