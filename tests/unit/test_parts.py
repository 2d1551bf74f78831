"""Parts of one source: disjoint, complete, stable, and blind to order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import parts
from calibration.checks import check_overlap
from calibration.samples import Role, load_samples
from edgesmith.config import DataSource
from edgesmith.errors import DataError
from edgesmith.types import SampleSet, TensorSpec

SPEC = TensorSpec(name="x", shape=(None, 4), dtype="float32")


@given(st.lists(st.binary(), min_size=1, max_size=50), st.floats(0.1, 0.9))
def test_two_parts_are_disjoint_and_complete(contents: list[bytes], cut: float):
    def indices(low: float, high: float) -> set[int]:
        try:
            return set(parts.within(contents, (low, high), "data.train").tolist())
        except DataError:
            return set()

    first, second = indices(0.0, cut), indices(cut, 1.0)
    assert first | second == set(range(len(contents)))
    assert not first & second
    assert not {contents[i] for i in first} & {contents[i] for i in second}


def test_the_place_of_a_known_sample():
    # BLAKE2b-64 of b"abc" is d8bb14d833d59559; the place is that number over 2**64.
    assert parts.place(b"abc") == 0xD8BB14D833D59559 / 2**64


def test_one_npz_serves_three_sets(tmp_path: Path):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(200, 4)).astype(np.float32), 2, axis=0)  # every sample twice
    np.savez(tmp_path / "all.npz", x=x, y=np.arange(400) % 3)

    def part(low: float, high: float, role: Role) -> SampleSet:
        source = DataSource(source="all.npz", part=(low, high))
        return load_samples(source, role=role, specs=(SPEC,), root=tmp_path, seed=0)

    train, evaluation = part(0.0, 0.7, "train"), part(0.7, 1.0, "evaluation")
    assert len(train) + len(evaluation) == 400
    assert 200 < len(train) < 340
    check_overlap(train, evaluation)
    assert "the share 0 to 0.7 of the source, by content" in train.source


def test_an_empty_part_is_refused(tmp_path: Path):
    np.savez(tmp_path / "few.npz", x=np.zeros((3, 4), np.float32))
    source = DataSource(source="few.npz", part=(0.0, 1e-9))
    with pytest.raises(DataError, match=r"data.train: no sample lies in the part \[0, 1e-09\)"):
        load_samples(source, role="train", specs=(SPEC,), root=tmp_path, seed=0)
