"""Evaluation samples on the board: read from disk as needed, prepared in the model's own dtype."""

import numpy as np

from device_tests.agent.protocol import Refusal

TIMED_SAMPLES = 64


class Samples:
    """Rows of a `.npy` file, read one at a time: a board's memory belongs to the model.

    Of a model with several inputs a row is a record, with a field per input in the model's order.

    Not mapped: the kernel maps whole neighbourhoods of a page that is touched, and they would count as the model's.
    """

    def __init__(self, path, dtype):
        """`dtype` is what the values mean, e.g. "float32" for pixels that travelled as uint8; commas between inputs."""
        self._path = path
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self._shape, columns_first, self._stored = header(stream)
            self._start = stream.tell()
        if columns_first or self._stored.hasobject or not self._shape:
            raise Refusal("bad-request", "the samples are no plain array of rows: %s" % (path,))
        self._row_bytes = int(np.prod(self._shape[1:], dtype=np.int64)) * self._stored.itemsize
        self._dtypes = [np.dtype(name) for name in dtype.split(",")]
        if len(self._dtypes) != len(self._stored.names or "x"):
            raise Refusal("bad-request", "the samples are %s, their dtypes are said to be %s" % (self._stored, dtype))

    def __len__(self):
        return self._shape[0]

    def _row(self, index):
        """One array [1, ...] per input."""
        with open(self._path, "rb") as stream:
            stream.seek(self._start + index * self._row_bytes)
            content = stream.read(self._row_bytes)
        row = np.frombuffer(content, self._stored).reshape((1, *self._shape[1:]))
        return [row[name] for name in self._stored.names] if self._stored.names else [row]

    def check(self, inputs):
        """Refuses samples that do not fit the shapes of `inputs`, where None is a free size."""
        fields = self._stored.names
        shapes = [list(self._stored[name].shape) for name in fields] if fields else [list(self._shape[1:])]
        if len(shapes) != len(inputs):
            raise Refusal(
                "model-refused", "the model takes %d inputs, the samples have %d" % (len(inputs), len(shapes))
            )
        for own, one in zip(shapes, inputs):
            fits = len(own) == len(one.shape) and all(want in (None, size) for want, size in zip(one.shape, own))
            if not fits:
                place = " for %r" % one.name if len(inputs) > 1 else ""
                told = "the model takes samples of shape %s%s, these are %s" % (one.shape, place, own)
                raise Refusal("model-refused", told)

    def prepared(self, index, inputs):
        """Sample `index`, an array [1, ...] per input in the model's dtype.

        A quantized input gets `clip(round_half_even(x / scale) + zero_point)`, as ONNX QuantizeLinear says it.
        """
        rows = zip(self._row(index), self._dtypes, inputs)
        return [_quantized(row.astype(dtype), one.dtype, one.quantization) for row, dtype, one in rows]

    def timed(self, inputs):
        """Up to `TIMED_SAMPLES` prepared samples, spread evenly: what the timed runs cycle through."""
        count = min(len(self), TIMED_SAMPLES)
        return [self.prepared(index * len(self) // count, inputs) for index in range(count)]


def _quantized(values, dtype, quantization):
    if quantization is None:
        return values.astype(dtype)
    scale, zero_point = quantization
    limits = np.iinfo(dtype)
    steps = np.rint(values.astype(np.float32) / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)
