"""Writes a `.npy` file row by row, so that a full disk is an error and not a bus error, as in a mapped file."""

import hashlib

import numpy as np

from device_tests.agent.protocol import Refusal


class RowWriter:
    """An array [rows, ...] on its way to disk."""

    def __init__(self, path, first, rows):
        """`first` is a row as the runtime returns it, [1, ...] or without a batch dimension."""
        first = _row(first)
        self._path = path
        self._shape = first.shape
        self._dtype = first.dtype
        self._digest = hashlib.sha256()
        self._stream = open(path, "wb")  # noqa: SIM115 - closed by finish(), or with the process
        header = {
            "descr": np.lib.format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": (rows, *first.shape),
        }
        np.lib.format.write_array_header_1_0(_Tee(self._stream, self._digest), header)

    def add(self, array):
        """Writes the next row."""
        row = _row(array)
        if row.shape != self._shape or row.dtype != self._dtype:
            raise Refusal(
                "model-refused",
                "an output changed from %s %s to %s %s between samples"
                % (self._dtype, list(self._shape), row.dtype, list(row.shape)),
            )
        data = row.tobytes()
        self._digest.update(data)
        self._stream.write(data)

    def finish(self):
        """Closes the file; returns {"path", "sha256"}."""
        self._stream.close()
        return {"path": self._path, "sha256": self._digest.hexdigest()}


class _Tee:
    def __init__(self, stream, digest):
        self._stream, self._digest = stream, digest

    def write(self, data):
        self._digest.update(data)
        return self._stream.write(data)


def _row(array):
    array = np.asarray(array)
    return array[0] if array.ndim and array.shape[0] == 1 else array


def save(path, values):
    """Writes integers as int64 [n]; returns {"path", "sha256"}."""
    np.save(path, np.asarray(values, np.int64))
    with open(path, "rb") as stream:
        return {"path": path, "sha256": hashlib.sha256(stream.read()).hexdigest()}
