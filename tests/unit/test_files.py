"""Files that are whole or absent, and hashes that name content."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith import files


def test_a_failed_write_keeps_the_old_content(tmp_path: Path):
    place = tmp_path / "result.json"
    files.write_text(place, "old")
    with pytest.raises(RuntimeError), files.replacing(place) as part:
        part.write_text("half")
        raise RuntimeError
    assert place.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["result.json"]


def test_nan_is_refused_in_json(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_sha256_of_a_known_text(tmp_path: Path):
    place = tmp_path / "abc"
    place.write_bytes(b"abc")
    assert files.sha256_file(place) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_is_named_by_names_and_contents(tmp_path: Path):
    for name, inside in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(inside)
    first, same, other = (files.sha256_file(tmp_path / name) for name in "abc")
    assert first == same != other
    (tmp_path / "b" / "file").rename(tmp_path / "b" / "renamed")
    assert files.sha256_file(tmp_path / "b") != first


@given(st.dictionaries(st.text(), st.integers()))
def test_the_key_of_a_mapping_ignores_its_order(value: dict[str, int]):
    assert files.sha256_json(value) == files.sha256_json(dict(reversed(value.items())))


def test_gzip_size_is_that_of_gzip_9(tmp_path: Path):
    place = tmp_path / "zeros"
    place.write_bytes(bytes(10_000))
    assert files.gzip_size(place) == len(gzip.compress(bytes(10_000), 9, mtime=0))
