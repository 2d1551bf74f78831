"""Whether a file is compressed for its way to a board. Mostly it is not: the link is faster than the board's zlib."""

from __future__ import annotations

import gzip
import shutil
import time
import zlib
from pathlib import Path

LEVEL = 6
_SMALL = 1 << 18
_PIECES, _PIECE = 16, 1 << 14
_UNPACKED_THERE = 15e6
"""Bytes of content per second that a small board unpacks and writes to its memory card once more."""
_WORTH_IT = 0.8


def pays(path: Path, rate: float | None) -> bool:
    """Whether compressing gets a file to the board sooner.

    Of every byte of content, sending it as it is takes 1 / rate. Compressed it takes ratio / rate on the link, 1 / here
    to pack and 1 / there to unpack, one after the other. So compressing pays where

        ratio + rate * (1 / here + 1 / there) < 1

    and it is done below 0.8, since all four are estimates. A slow board unpacks some 15 MB a second: beyond 10 MB/s on
    the link it never pays, and at 1 MB/s it pays as soon as a fifth of the file can be saved. `ratio` and `here` are
    taken from pieces all over the file.

    Args:
        path: the file.
        rate: bytes per second that the link is known to reach; None where nothing is known: then it is not done.
    """
    if rate is None or rate / _UNPACKED_THERE >= _WORTH_IT or path.stat().st_size < _SMALL:
        return False
    ratio, here = _sample(path)
    return ratio + rate * (1 / here + 1 / _UNPACKED_THERE) < _WORTH_IT


def pack(path: Path, target: Path) -> None:
    """Writes the gzip of a file: the same bytes for the same content, so that an upload of it can be gone on with."""
    with (
        path.open("rb") as source,
        target.open("wb") as sink,
        gzip.GzipFile(filename="", mode="wb", fileobj=sink, compresslevel=LEVEL, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 1 << 20)


def _sample(path: Path) -> tuple[float, float]:
    """(compressed size / size, bytes per second that are compressed here), from pieces all over the file."""
    stride = max(_PIECE, (path.stat().st_size - _PIECE) // (_PIECES - 1))
    taken = packed = 0
    with path.open("rb") as source:
        start = time.perf_counter()
        for number in range(_PIECES):
            source.seek(number * stride)
            piece = source.read(_PIECE)
            taken += len(piece)
            packed += len(zlib.compress(piece, LEVEL))
        seconds = time.perf_counter() - start
    return packed / taken, taken / max(seconds, 1e-6)
