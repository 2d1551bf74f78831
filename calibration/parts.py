"""One source, several sets: each sample belongs to a share of [0, 1) by its own content.

The split needs no seed, equal samples always land on the same side, and adding samples moves none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import DataError


def place(content: bytes) -> float:
    """Where a sample lies in [0, 1): its 64-bit BLAKE2b digest over 2**64."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") / 2**64


def within(contents: Iterable[bytes], part: tuple[float, float], where: str) -> NDArray[np.int64]:
    """Indices of the samples in a share.

    Args:
        contents: of each sample, in order.
        part: [from, to).
        where: the set, for messages.

    Raises:
        DataError: none lies in it.
    """
    low, high = part
    index = np.array([i for i, content in enumerate(contents) if low <= place(content) < high], dtype=np.int64)
    if not len(index):
        raise DataError(f"{where}: no sample lies in the part [{low:g}, {high:g}) of the source; make the part larger.")
    return index
