"""Numbers of a tensor as bytes, bit for bit: all of them, in half the bytes where that loses nothing, or by codebook.

All equality here is of bits: -0.0 is not 0.0, and a NaN is kept with its payload.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from optimizer.clustering.codebook import int8_scale
from optimizer.packing.huffman import DamagedStream

Kind = Literal["raw", "half", "int8"]
KINDS: tuple[Kind, ...] = ("raw", "half", "int8")

_STEPS = 2


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """The same bytes as unsigned integers, which compare by content."""
    return values.view(f"u{values.dtype.itemsize}")


def write(values: NDArray[Any]) -> tuple[Kind, bytes]:
    """The fewest bytes that give exactly these numbers back.

    Args:
        values: [N], any dtype; only float32 has shorter forms.

    Returns:
        The form, and the bytes: raw little-endian numbers, float16, or a float32 scale and int8 multiples of it.
    """
    if values.dtype == np.float32 and values.size:
        steps = _as_int8(values)
        if steps is not None and 4 + values.size < 2 * values.size:
            return "int8", steps
        with np.errstate(over="ignore", invalid="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(bits(half.astype(np.float32)), bits(values)):
            return "half", half.astype("<f2").tobytes()
    return "raw", values.astype(values.dtype.newbyteorder("<")).tobytes()


def nbytes(kind: Kind, count: int, dtype: np.dtype[Any]) -> int:
    """Bytes of `write` for so many numbers of that form."""
    return {"raw": count * dtype.itemsize, "half": 2 * count, "int8": 4 + count}[kind]


def read(data: memoryview, kind: Kind, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The way back.

    Args:
        data: begins with what `write` gave.
        kind: the form.
        count: numbers.
        dtype: of the tensor.

    Raises:
        DamagedStream: too short, or a form that this dtype does not have.
    """
    size = nbytes(kind, count, dtype)
    if len(data) < size:
        raise DamagedStream("numbers are cut off")
    if kind == "raw":
        return np.frombuffer(data[:size], dtype.newbyteorder("<")).astype(dtype)
    if dtype != np.float32:
        raise DamagedStream(f"{dtype} has no form '{kind}'")
    if kind == "half":
        return np.frombuffer(data[:size], "<f2").astype(np.float32)
    scale = np.frombuffer(data[:4], "<f4")[0]
    with np.errstate(invalid="ignore", over="ignore"):
        restored: NDArray[Any] = (np.frombuffer(data[4:size], np.int8) * scale).astype(np.float32)
    return restored


def _as_int8(values: NDArray[np.float32]) -> bytes | None:
    """Scale and steps, where every value is a whole number of steps of one scale."""
    if not np.isfinite(values).all():
        return None
    scale = np.float32(int8_scale(values))
    for _ in range(_STEPS):
        scale = np.nextafter(scale, np.float32(0))
    for _ in range(2 * _STEPS + 1):  # dividing 127 steps by 127 may miss the scale by its last bit
        if scale > 0:
            steps = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
            if np.array_equal(bits((steps * scale).astype(np.float32)), bits(values)):
                written: bytes = np.array(scale, "<f4").tobytes() + steps.tobytes()
                return written
        scale = np.nextafter(scale, np.float32(np.inf))
    return None
