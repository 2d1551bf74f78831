"""When a file is compressed for its way to a board."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from device_tests import packing

SIZE = 1 << 20


@pytest.fixture
def zeros(tmp_path: Path) -> Path:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_on_a_slow_link_what_compresses_well_is_compressed(zeros: Path):
    assert packing.pays(zeros, 5e5)


@pytest.mark.parametrize("rate", [None, 13e6, 1e8])
def test_on_a_fast_or_unknown_link_nothing_is(zeros: Path, rate: float | None):
    assert not packing.pays(zeros, rate)


def test_what_does_not_compress_never_is(noise: Path):
    assert not packing.pays(noise, 1e3)


def test_a_sample_looks_at_the_whole_file(tmp_path: Path):
    """A header that compresses well says nothing about the weights behind it."""
    path = tmp_path / "model"
    path.write_bytes(bytes(SIZE // 8) + os.urandom(SIZE))
    assert not packing.pays(path, 1e3)


def test_small_files_never_are(tmp_path: Path):
    path = tmp_path / "small"
    path.write_bytes(bytes(1000))
    assert not packing.pays(path, 1.0)


def test_the_decision_is_the_inequality_of_the_docstring(zeros: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "_sample", lambda path: (0.5, 30e6))
    # The sum of both reciprocals is 1e-7 seconds for a byte.
    assert packing.pays(zeros, 2.9e6)
    assert not packing.pays(zeros, 3.1e6)


def test_the_same_content_gives_the_same_bytes(zeros: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packing.pack(zeros, tmp_path / "one.gz")
    monkeypatch.setattr(time, "time", lambda: 1.0)
    other = tmp_path / "other name"
    other.write_bytes(zeros.read_bytes())
    packing.pack(other, tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == bytes(SIZE)
