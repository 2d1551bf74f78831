"""Kernels whose filters are turned, mirrored or negated copies of fewer ones: which copies of which.

`optimizer.filters` makes such kernels (`transferred_filters`); here they are recognised by their bits, so that any
kernel that happens to be one gains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.filters.bank import TransferredBank, recovered
from optimizer.filters.transforms import Kind, Transform, allowed
from optimizer.packing import huffman
from optimizer.packing.huffman import DamagedStream

_KINDS: tuple[Kind, ...] = ("negate", "rotate", "flip")
_CODES = 16
# Looking takes a copy for each transform; nothing so large is a bank of anything.
_MOST_WEIGHTS = 1 << 24


def found(tensor: NDArray[Any]) -> TransferredBank | None:
    """The bank that a kernel [*window, inputs, filters] is, bit for bit; None where no two filters share a base."""
    if tensor.dtype != np.float32 or not 2 <= tensor.ndim <= 5 or not 0 < tensor.size <= _MOST_WEIGHTS:
        return None
    if not 1 < tensor.shape[-1] <= huffman.MOST_SYMBOLS:
        return None
    bank = recovered(tensor, allowed(tensor.shape[:-2], _KINDS))
    same = len(bank.base) < tensor.shape[-1] and bank.expand().tobytes() == tensor.tobytes()
    return bank if same else None


def write(bank: TransferredBank) -> bytes:
    """Who is which copy of whom."""
    members = huffman.encode(bank.members.astype(np.int64), len(bank.base))
    return members + huffman.encode(bank.codes.astype(np.int64), _CODES)


def read(data: memoryview, filters: int, bases: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Bases and transforms of so many filters, and how many bytes were read.

    Raises:
        DamagedStream: the bytes are not those of such a list.
    """
    members, first = huffman.decode(data, filters, bases)
    codes, second = huffman.decode(data[first:], filters, _CODES)
    return members, codes, first + second


def expanded(base: NDArray[Any], members: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[Any]:
    """The kernel.

    Args:
        base: [*window, inputs, bases].
        members: base of each filter.
        codes: transform of each.

    Raises:
        DamagedStream: a transform that the window does not have.
    """
    known = allowed(base.shape[:-2], _KINDS)
    if any(Transform.of(int(code)) not in known for code in np.unique(codes)):
        raise DamagedStream("a filter is a transform that its window does not have")
    bank = TransferredBank(
        base=np.moveaxis(base, -1, 0),
        members=members.astype(np.int32),
        codes=codes.astype(np.uint8),
        scales=np.ones(len(members), np.float32),
    )
    return bank.expand()
