"""Evaluation samples on the board: read from disk as needed, prepared in the model's own dtype."""

import numpy as np

from device_tests.agent.protocol import Refusal

TIMED_SAMPLES = 64


class Samples:
    """Rows of a `.npy` file, read one at a time: a board's memory belongs to the model.

    Not mapped: the kernel maps whole neighbourhoods of a page that is touched, and they would count as the model's.
    """

    def __init__(self, path, dtype):
        """`dtype` is what the values mean, e.g. "float32" for pixels that travelled as uint8."""
        self._path = path
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self._shape, columns_first, self._stored = header(stream)
            self._start = stream.tell()
        if columns_first or self._stored.hasobject or not self._shape:
            raise Refusal("bad-request", "the samples are no plain array of rows: %s" % (path,))
        self._row_bytes = int(np.prod(self._shape[1:], dtype=np.int64)) * self._stored.itemsize
        self._dtype = np.dtype(dtype)

    def __len__(self):
        return self._shape[0]

    def _row(self, index):
        with open(self._path, "rb") as stream:
            stream.seek(self._start + index * self._row_bytes)
            content = stream.read(self._row_bytes)
        return np.frombuffer(content, self._stored).reshape((1, *self._shape[1:]))

    def check(self, shape):
        """Refuses samples that do not fit `shape`, where None is a free size."""
        own = list(self._shape[1:])
        fits = len(own) == len(shape) and all(want in (None, size) for want, size in zip(shape, own))
        if not fits:
            raise Refusal("model-refused", "the model takes samples of shape %s, these are %s" % (shape, own))

    def prepared(self, index, dtype, quantization):
        """Sample `index` as [1, ...] in the model's dtype.

        A quantized input gets `clip(round_half_even(x / scale) + zero_point)`, as ONNX QuantizeLinear says it.
        """
        values = self._row(index).astype(self._dtype)
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
