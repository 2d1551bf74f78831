"""Codes: as short as Huffman's, never too long, and back to the same symbols; damaged streams are refused."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.packing import huffman
from optimizer.packing.huffman import DamagedStream

SYMBOLS = st.integers(1, 40).flatmap(
    lambda alphabet: st.tuples(st.just(alphabet), st.lists(st.integers(0, alphabet - 1), max_size=60))
)


def _huffman_bits(counts: list[int]) -> int:
    """Sum of all merges: the length of Huffman's own code."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@settings(deadline=None)
@given(SYMBOLS, st.sampled_from([1, 7, 200]))
def test_any_symbols_come_back(given_: tuple[int, list[int]], times: int):
    alphabet, listed = given_
    symbols = np.array(listed * times, np.int64)
    data = huffman.encode(symbols, alphabet)
    assert len(data) == huffman.size(np.bincount(symbols, minlength=alphabet))
    found, read = huffman.decode(memoryview(data + b"more"), len(symbols), alphabet)
    assert read == len(data)
    assert found.tolist() == symbols.tolist()


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
def test_words_are_as_short_as_huffmans(counts: list[int]):
    lengths = huffman.code_lengths(np.array(counts), longest=60)
    assert int((lengths * counts).sum()) == _huffman_bits(counts)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=64))
def test_no_word_is_longer_than_asked_and_the_code_is_complete(counts: list[int]):
    lengths = huffman.code_lengths(np.array(counts), longest=6)
    assert lengths.max() <= 6
    assert float((0.5**lengths).sum()) == 1.0


def test_lengths_by_hand():
    # a: 1, b: 1, c: 2, d: 4 -> d 1 bit, c 2, a and b 3. With at most two bits all get two.
    counts = np.array([1, 1, 2, 4])
    assert huffman.code_lengths(counts).tolist() == [3, 3, 2, 1]
    assert huffman.code_lengths(counts, longest=2).tolist() == [2, 2, 2, 2]


def test_bytes_by_hand():
    # Canonical words: d 0, c 10, a 110, b 111. "abcdddcd": 110 111 10 0 0 0 10 0 -> 11011110 00010000
    symbols = np.array([0, 1, 2, 3, 3, 3, 2, 3])
    assert huffman.encode(symbols, 4) == bytes([0x33, 0x21, 14, 0, 0b11011110, 0b00010000])


def test_one_symbol_needs_no_words():
    data = huffman.encode(np.full(5000, 3), 6)
    assert len(data) == 3 + 2 * 5
    assert huffman.decode(memoryview(data), 5000, 6)[0].tolist() == [3] * 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:1], "table of a code is cut off"),
        (lambda d: d[:-1], "words are cut off"),
        (lambda d: b"\x11" + d[1:], "no prefix code"),
        (lambda d: d[:2] + b"\x0d" + d[3:], "do not end where they should"),
        (lambda d: b"\x00\x00" + d[2:], "without a code"),
    ],
)
def test_damaged_streams_are_refused(change: Callable[[bytes], bytes], message: str):
    data = huffman.encode(np.array([0, 1, 2, 3, 3, 3, 2, 3]), 4)
    with pytest.raises(DamagedStream, match=message):
        huffman.decode(memoryview(change(data)), 8, 4)


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, 3000), st.integers(1, 30))
def test_no_bytes_make_the_reader_fail_otherwise(data: bytes, count: int, alphabet: int):
    try:
        symbols, _ = huffman.decode(memoryview(data), count, alphabet)
    except DamagedStream:
        return
    assert len(symbols) == count
    assert not count or (symbols.min() >= 0 and symbols.max() < alphabet)
