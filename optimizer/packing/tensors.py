"""One tensor as few bytes, and back to exactly the same bits.

"Deep Compression" (Han, Mao & Dally, ICLR 2016, sections 2 to 4): where most weights are zero, the others with their
distances; where values are shared, their indices in a codebook; both with a Huffman code. Distances are those of the
paper but for one thing: one that does not fit its k bits is written by a symbol of its own, "skip 2^k", where the paper
stores a zero weight, which costs a value besides. Every tensor is tried dense and sparse, in both orders of its axes,
with one codebook and with one for each channel, and the smallest is kept. A kernel whose filters are copies of fewer
ones (`banks`) is tried as these, too, and a list that says which is which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.packing import banks, huffman, values
from optimizer.packing.huffman import DamagedStream

_MOST_GAP_BITS = 12
_MOST_ENTRIES = 4096
_MOST_RANK = 8
DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a tensor is written; part of the header of a packed file.

    Attributes:
        dtype: of the tensor, of `DTYPES`.
        shape: of the tensor.
        axis: put first before weights are counted off; 0 leaves their order. Codebooks are those of this axis.
        gap_bits: of the distances between the weights that are not zero; 0 = all weights are written.
        gaps: symbols of these distances.
        written: weights whose values are written.
        books: codebooks: 0 = the values themselves, 1, or one for each place along `axis`.
        kind: form of the values, or of the codebooks' entries.
        entries: of all codebooks together.
        alphabet: entries of the largest codebook.
        bases: base filters that are written in the place of those along the last axis, all else being theirs; 0 = the
            tensor itself is written.
    """

    dtype: str
    shape: tuple[int, ...]
    axis: int = 0
    gap_bits: int = 0
    gaps: int = 0
    written: int = 0
    books: int = 0
    kind: values.Kind = "raw"
    entries: int = 0
    alphabet: int = 0
    bases: int = 0

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of what is written."""
        return (*self.shape[:-1], self.bases) if self.bases else self.shape

    @property
    def coding(self) -> str:
        """For people: "sparse, 16 shared values"."""
        where = f"sparse, {self.gap_bits}-bit gaps" if self.gap_bits else "dense"
        if self.bases:
            where = f"{self.shape[-1]} filters of {self.bases} bases, {where}"
        if not self.books:
            return f"{where}, {self.kind} values"
        each = "" if self.books == 1 else f" in each of {self.books} channels"
        return f"{where}, {self.alphabet} shared {self.kind} values{each}"

    def plain(self) -> dict[str, Any]:
        """As JSON; what has its default is left out."""
        return {k: v for k, v in asdict(self).items() if k in ("dtype", "shape") or v != _DEFAULTS[k]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Form:
        """The way back of `plain`, checked.

        Raises:
            DamagedStream: a key or value that no writer here gives.
        """
        if not set(plain) <= {*_DEFAULTS, "dtype", "shape"} or not {"dtype", "shape"} <= set(plain):
            raise DamagedStream("a tensor's header has other keys")
        shape = plain["shape"]
        numbers = [v for k, v in plain.items() if k not in ("dtype", "shape", "kind")]
        if not isinstance(shape, list | tuple) or len(shape) > _MOST_RANK:
            raise DamagedStream("a tensor's shape is none")
        if not all(type(n) is int and 0 <= n < 1 << 40 for n in (*numbers, *shape)):
            raise DamagedStream("a tensor's header holds something that is no count")
        form = cls(**{**plain, "shape": tuple(shape)})
        if form.dtype not in DTYPES or form.kind not in values.KINDS:
            raise DamagedStream("a tensor is of an unknown type")
        if form.bases and not (
            2 <= len(shape) <= 5 and form.bases < shape[-1] <= huffman.MOST_SYMBOLS and form.dtype == "float32"
        ):
            raise DamagedStream("a tensor's bases are none")
        stored = form.stored
        size, channels = math.prod(stored), stored[form.axis] if form.axis < len(stored) else 1
        sound = (
            form.axis < max(len(shape), 1)
            and form.gap_bits <= _MOST_GAP_BITS
            and form.written <= size
            and (form.written <= form.gaps <= size if form.gap_bits else form.written == size and not form.gaps)
            and form.books in (0, 1, channels)
            and (form.entries <= form.written and form.alphabet <= min(form.entries, _MOST_ENTRIES))
            and (form.books > 0) == (form.entries > 0)
        )
        if not sound:
            raise DamagedStream("a tensor's header contradicts itself")
        return form

    @property
    def nbytes(self) -> int:
        """Of the tensor in memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


_DEFAULTS = {name: field.default for name, field in Form.__dataclass_fields__.items() if name not in ("dtype", "shape")}


def encode(tensor: NDArray[Any]) -> tuple[Form, bytes]:
    """The smallest form of a tensor.

    Raises:
        ValueError: a dtype that is not one of `DTYPES`.
    """
    if tensor.dtype.name not in DTYPES:
        raise ValueError(f"{tensor.dtype.name} has no packed form")
    best = _best(tensor)
    bank = banks.found(tensor)
    if bank is not None:
        bases, which = _best(np.moveaxis(bank.base, 0, -1)), banks.write(bank)
        if bases.size + len(which) < best.size:
            return replace(bases.form, shape=tensor.shape, bases=len(bank.base)), which + bases.encode()
    return best.form, best.encode()


def decode(form: Form, data: memoryview) -> NDArray[Any]:
    """The tensor, bit for bit.

    Args:
        form: from `Form.of`; the caller has checked that `form.nbytes` may be allocated.
        data: exactly what `encode` gave.

    Raises:
        DamagedStream: the bytes are not those of such a tensor.
    """
    if form.bases:
        members, codes, read = banks.read(data, form.shape[-1], form.bases)
        return banks.expanded(decode(replace(form, shape=form.stored, bases=0), data[read:]), members, codes)
    size, dtype = math.prod(form.shape), np.dtype(form.dtype)
    places: NDArray[np.int64] = np.arange(0)
    if form.gap_bits:
        escape = 1 << form.gap_bits
        symbols, read = huffman.decode(data, form.gaps, escape + 1)
        data = data[read:]
        ends = np.cumsum(np.where(symbols == escape, escape, symbols + 1))
        places = ends[symbols != escape] - 1
        if len(places) != form.written or (len(ends) and ends[-1] > size):
            raise DamagedStream("distances lead out of the tensor")
    else:
        places = np.arange(size)
    if form.books:
        written, read = _from_books(form, data, places, size)
    else:
        written = values.read(data, form.kind, form.written, dtype)
        read = values.nbytes(form.kind, form.written, dtype)
    if read != len(data):
        raise DamagedStream("bytes are left over")
    flat = np.zeros(size, dtype)
    flat[places] = written
    turned = _turned_shape(form.shape, form.axis)
    return np.moveaxis(flat.reshape(turned), 0, form.axis).copy() if form.axis else flat.reshape(form.shape)


def _turned_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (shape[axis], *shape[:axis], *shape[axis + 1 :]) if axis else shape


def _from_books(form: Form, data: memoryview, places: NDArray[np.int64], size: int) -> tuple[NDArray[Any], int]:
    """Values of the written weights, and how many bytes were read."""
    counts, read = np.array([form.entries]), 0
    if form.books > 1:
        read = 2 * form.books
        if len(data) < read:
            raise DamagedStream("the codebooks' sizes are cut off")
        counts = np.frombuffer(data[:read], "<u2").astype(np.int64)
    if int(counts.sum()) != form.entries or int(counts.max()) != form.alphabet:
        raise DamagedStream("the codebooks are of another size")
    dtype = np.dtype(form.dtype)
    book = values.read(data[read:], form.kind, form.entries, dtype)
    read += values.nbytes(form.kind, form.entries, dtype)
    symbols, more = huffman.decode(data[read:], form.written, form.alphabet)
    owners = places // (size // form.books) if form.books > 1 else np.zeros(len(places), np.int64)
    if (symbols >= counts[owners]).any():
        raise DamagedStream("an index lies outside of its codebook")
    return book[(np.cumsum(counts) - counts)[owners] + symbols], read + more


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Candidate:
    """A form, and what of it has to be written after the header."""

    form: Form
    head: bytes
    streams: tuple[tuple[NDArray[np.int64], int], ...]
    tail: bytes

    @property
    def size(self) -> int:
        coded = sum(huffman.size(np.bincount(symbols, minlength=alphabet)) for symbols, alphabet in self.streams)
        return len(self.head) + coded + len(self.tail)

    def encode(self) -> bytes:
        """Distances, then codebooks and indices, or values."""
        parts = [huffman.encode(symbols, alphabet) for symbols, alphabet in self.streams]
        gaps = parts.pop(0) if self.form.gap_bits else b""
        return gaps + self.head + b"".join(parts) + self.tail


def _best(tensor: NDArray[Any]) -> _Candidate:
    """The smallest; of equal ones the first."""
    return min(_candidates(tensor), key=lambda candidate: candidate.size)


def _candidates(tensor: NDArray[Any]) -> Iterator[_Candidate]:
    flat = values.bits(np.ascontiguousarray(tensor).ravel())
    distinct, alive = len(np.unique(flat)), int(np.count_nonzero(flat))
    sparse = 2 * alive <= flat.size
    shared = 2 * distinct <= flat.size
    shared_sparse = 2 * (distinct - (alive < flat.size)) <= alive
    every = np.arange(flat.size)
    # Where neither helps, the order of the axes changes nothing.
    last = {0, tensor.ndim - 1, tensor.ndim - 2} if tensor.ndim > 1 and (sparse or shared) else {0}
    for axis in sorted(last):
        ordered = (np.moveaxis(tensor, axis, 0) if axis else tensor).ravel()
        yield from _valued(tensor, axis, ordered, every, (), {}, shared=shared)
        if sparse:
            places = np.flatnonzero(values.bits(ordered))
            yield from _valued(tensor, axis, ordered, places, *_best_gaps(places), shared=shared_sparse)


def _best_gaps(places: NDArray[np.int64]) -> tuple[tuple[tuple[NDArray[np.int64], int], ...], dict[str, int]]:
    """Distances in the number of bits that makes them smallest."""
    apart = np.diff(places, prepend=-1) - 1
    found: list[tuple[int, int]] = []
    for width in range(1, _MOST_GAP_BITS + 1):
        counts = np.bincount(apart & ((1 << width) - 1), minlength=(1 << width) + 1)
        counts[-1] = int((apart >> width).sum())
        found.append((huffman.size(counts), width))
    width = min(found)[1]
    escape = 1 << width
    skips = apart >> width
    symbols = np.full(len(apart) + int(skips.sum()), escape, np.int64)
    symbols[np.cumsum(skips + 1) - 1] = apart & (escape - 1)
    return ((symbols, escape + 1),), {"gap_bits": width, "gaps": len(symbols)}


def _valued(
    tensor: NDArray[Any],
    axis: int,
    ordered: NDArray[Any],
    places: NDArray[np.int64],
    streams: tuple[tuple[NDArray[np.int64], int], ...],
    where: Mapping[str, int],
    *,
    shared: bool,
) -> Iterator[_Candidate]:
    """The values at these places: as they are; where they are shared, by one codebook and by one for each channel."""
    common: dict[str, Any] = {"dtype": tensor.dtype.name, "shape": tensor.shape, "axis": axis, **where}
    own = ordered[places]
    kind, raw = values.write(own)
    yield _Candidate(form=Form(**common, written=len(own), kind=kind), head=b"", streams=streams, tail=raw)
    if not len(own) or not shared:
        return
    dtype = values.bits(own).dtype
    channels = tensor.shape[axis] if tensor.ndim and dtype.itemsize <= 4 else 1
    for books in sorted({1, channels}):
        owners = places // (len(ordered) // books)
        keys = values.bits(own) if books == 1 else (owners.astype(np.uint64) << 32) | values.bits(own)
        found, labels = np.unique(keys, return_inverse=True)
        counts = np.array([len(found)]) if books == 1 else np.bincount((found >> 32).astype(np.int64), minlength=books)
        most = int(counts.max())
        if most > _MOST_ENTRIES or 2 * len(found) > len(own):
            continue
        kind, book = values.write((found & 0xFFFFFFFF if books > 1 else found).astype(dtype).view(tensor.dtype))
        symbols = labels - (np.cumsum(counts) - counts)[owners]
        form = Form(**common, written=len(own), books=books, kind=kind, entries=len(found), alphabet=most)
        head = (counts.astype("<u2").tobytes() if books > 1 else b"") + book
        yield _Candidate(form=form, head=head, streams=(*streams, (symbols, most)), tail=b"")
