"""Canonical Huffman codes, of at most 15 bits, for arrays of small integers.

Symbols are written in lanes of 1024, each with its length in bits in front, so that a reader decodes all lanes side by
side in numpy. The table of a code is its lengths alone, half a byte for each symbol of the alphabet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int64]
Lengths = NDArray[np.int64]

LONGEST = 15
MOST_SYMBOLS = 1 << 13
_LANE = 1024


class DamagedStream(ValueError):
    """Bytes that no encoder here writes."""


def code_lengths(counts: NDArray[np.int64], longest: int = LONGEST) -> Lengths:
    """Lengths of the shortest prefix code with no word over `longest` bits.

    Package-merge (Larmore & Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", JACM 37/3, 1990).

    Args:
        counts: [A] how often each symbol occurs; symbols that never do get length 0.
        longest: so many words, 2 ** longest, are at least as many as the symbols used.

    Returns:
        [A]; all 0 where at most one symbol is used, since there is nothing to tell.
    """
    lengths = np.zeros(len(counts), np.int64)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return lengths
    order = used[np.argsort(counts[used], kind="stable")]
    leaves = counts[order].astype(np.float64)
    weights, levels = leaves, [np.ones(len(leaves), np.bool_)]
    for _ in range(longest - 1):
        pairs = weights[: len(weights) // 2 * 2].reshape(-1, 2).sum(axis=1)
        both = np.concatenate([leaves, pairs])
        merged = np.argsort(both, kind="stable")
        weights = both[merged]
        levels.append(merged < len(leaves))
    taken = 2 * len(leaves) - 2
    for is_leaf in reversed(levels):
        alone = int(is_leaf[:taken].sum())
        lengths[order[:alone]] += 1
        taken = 2 * (taken - alone)
    return lengths


def size(counts: NDArray[np.int64]) -> int:
    """Bytes of `encode` for symbols that occur so often."""
    bits = int((counts * code_lengths(counts)).sum())
    lanes = -(-int(counts.sum()) // _LANE)
    return (len(counts) + 1) // 2 + 2 * lanes + (bits + 7) // 8


def encode(symbols: Symbols, alphabet: int) -> bytes:
    """Table, lane lengths and code words.

    Args:
        symbols: [N], each from 0 to alphabet - 1.
        alphabet: at most `MOST_SYMBOLS`.
    """
    counts = np.bincount(symbols, minlength=alphabet)
    lengths = code_lengths(counts)
    if np.count_nonzero(counts) == 1:  # the table tells which symbol it is, and no word is needed
        return _table((counts > 0).astype(np.int64)) + bytes(-(-len(symbols) // _LANE) * 2)
    words = _words(lengths)
    own = lengths[symbols]
    ends = np.cumsum(own)
    total = int(ends[-1]) if len(ends) else 0
    bits = np.zeros(total, np.uint8)
    for place in range(int(lengths.max(initial=0))):
        has = own > place
        bits[(ends - own)[has] + place] = (words[symbols[has]] >> (own[has] - 1 - place)) & 1
    firsts = np.arange(0, len(symbols), _LANE)
    lanes = np.add.reduceat(own, firsts) if len(firsts) else firsts
    return _table(lengths) + lanes.astype("<u2").tobytes() + np.packbits(bits).tobytes()


def decode(data: memoryview, count: int, alphabet: int) -> tuple[Symbols, int]:
    """The way back.

    Args:
        data: begins with what `encode` wrote.
        count: symbols; the caller has checked that so many may be allocated.
        alphabet: as it was encoded.

    Returns:
        [count] symbols, and how many bytes were read.

    Raises:
        DamagedStream: too short, no prefix code, or words that do not end where their lane does.
    """
    table, lane_bytes = (alphabet + 1) // 2, -(-count // _LANE) * 2
    if not 0 < alphabet <= MOST_SYMBOLS or len(data) < table + lane_bytes:
        raise DamagedStream("the table of a code is cut off")
    lengths = _read_table(data[:table], alphabet)
    lanes = np.frombuffer(data[table : table + lane_bytes], "<u2").astype(np.int64)
    read = table + lane_bytes + (int(lanes.sum()) + 7) // 8
    if len(data) < read:
        raise DamagedStream("code words are cut off")
    used = np.flatnonzero(lengths)
    if len(used) < 2:
        if lanes.any() or len(used) != min(count, 1):
            raise DamagedStream("code words without a code")
        return np.full(count, used[0] if count else 0, np.int64), read
    # Each lane looks at the 15 bits it has come to; three bytes hold them wherever they begin.
    source = np.concatenate([np.frombuffer(data[table + lane_bytes : read], np.uint8), np.zeros(3, np.uint8)])
    by_word = _lookup(lengths)
    ends = np.cumsum(lanes)
    at = ends - lanes
    left = np.minimum(_LANE, count - np.arange(len(lanes)) * _LANE)
    out = np.zeros((len(lanes), _LANE), np.int64)
    for step in range(min(_LANE, count)):
        open_ = left > step
        byte = np.minimum(at >> 3, len(source) - 3)
        three = (source[byte].astype(np.int64) << 16) | (source[byte + 1].astype(np.int64) << 8) | source[byte + 2]
        symbol = by_word[(three >> (24 - LONGEST - (at & 7))) & ((1 << LONGEST) - 1)]
        out[:, step] = np.where(open_, symbol, 0)
        at = np.where(open_, at + lengths[symbol], at)
    if (at != ends).any():
        raise DamagedStream("code words do not end where they should")
    return out.ravel()[:count], read


def _words(lengths: Lengths) -> NDArray[np.int64]:
    """Canonical words: shorter ones first, equal lengths in the order of their symbols."""
    words = np.zeros(len(lengths), np.int64)
    word = 0
    for length in range(1, LONGEST + 1):
        own = np.flatnonzero(lengths == length)
        words[own] = word + np.arange(len(own))
        word = (word + len(own)) << 1
    return words


def _lookup(lengths: Lengths) -> Symbols:
    """Symbol by the 15 bits that begin with its word."""
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    return np.repeat(order, 1 << (LONGEST - lengths[order]))


def _table(lengths: Lengths) -> bytes:
    even = np.append(lengths, 0)[: (len(lengths) + 1) // 2 * 2].astype(np.uint8).reshape(-1, 2)
    return (even[:, 0] << 4 | even[:, 1]).tobytes()


def _read_table(data: memoryview, alphabet: int) -> Lengths:
    both = np.frombuffer(data, np.uint8)
    lengths = np.stack([both >> 4, both & 15], axis=1).ravel()
    if lengths[alphabet:].any():
        raise DamagedStream("the table of a code is longer than its alphabet")
    found = lengths[:alphabet].astype(np.int64)
    used = found[found > 0]
    if len(used) == 1 and used[0] == 1:
        return found
    if len(used) and int((1 << (LONGEST - used)).sum()) != 1 << LONGEST:
        raise DamagedStream("the table holds no prefix code")
    return found
