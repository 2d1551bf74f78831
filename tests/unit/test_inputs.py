"""Samples of several inputs: joined into one array without a change, read from every source, checked one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calibration.checks import check_overlap, check_samples
from calibration.inputs import join, split
from calibration.samples import load_samples, some, synthetic_samples
from edgesmith.config import DataSource
from edgesmith.errors import DataError
from edgesmith.types import SampleSet, TensorSpec

PICTURE = TensorSpec(name="picture", shape=(None, 2, 2, 1), dtype="float32")
WORDS = TensorSpec(name="words", shape=(None, 3), dtype="int32")
BOTH = (PICTURE, WORDS)


def arrays(n: int = 20) -> dict[str, NDArray[Any]]:
    return {
        "picture": np.arange(n * 4, dtype=np.float32).reshape(n, 2, 2, 1) / 8,
        "words": np.arange(n * 3, dtype=np.int32).reshape(n, 3),
    }


def read(root: Path, source: str, specs: tuple[TensorSpec, ...] = BOTH, **settings: Any) -> SampleSet:
    return load_samples(DataSource(source=source, **settings), role="evaluation", specs=specs, root=root, seed=0)


def assert_holds(samples: SampleSet, wanted: dict[str, NDArray[Any]]) -> None:
    assert samples.x.dtype.names == tuple(spec.name for spec in BOTH)
    for part, spec in zip(split(samples.x), BOTH, strict=True):
        assert part.dtype == spec.dtype
        np.testing.assert_array_equal(part, wanted[spec.name])


def stored(root: Path, **held: Any) -> str:
    np.savez(root / "data.npz", **held)
    return "data.npz"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(name: str, body: str) -> str:
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{body}")
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"{name}:give"

    return write


@given(data=st.data(), n=st.integers(1, 4))
def test_join_and_split_change_nothing(data: st.DataObject, n: int):
    kinds = data.draw(st.lists(st.sampled_from(["float32", "int32", "uint8", "float64"]), min_size=2, max_size=4))
    given_arrays = [
        data.draw(hnp.arrays(kind, (n, *data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)))))
        for kind in kinds
    ]
    x = join(given_arrays, [f"in/{i}:0" for i in range(len(kinds))])
    assert x.shape == (n,)
    assert x.dtype.itemsize == sum(array[0].nbytes for array in given_arrays), "packed: no padding is hashed or sent"
    for part, array in zip(split(x), given_arrays, strict=True):
        assert (part.dtype, part.shape) == (array.dtype, array.shape)
        assert part.flags.aligned
        assert part.flags.c_contiguous
        assert part.tobytes() == array.tobytes()
    for part, array in zip(split(x[n - 1 :]), given_arrays, strict=True):
        assert part.tobytes() == array[n - 1 :].tobytes()


def test_a_single_input_stays_a_plain_array():
    x = np.zeros((3, 2), np.float32)
    assert join([x], ["x"]) is x
    assert split(x)[0] is x


def test_an_array_per_input_by_name(tmp_path: Path):
    held = arrays()
    samples = read(tmp_path, stored(tmp_path, y=np.arange(20), **held))
    assert_holds(samples, held)
    assert samples.y is not None
    assert len(samples) == 20


def test_each_input_is_brought_to_its_own_form(tmp_path: Path):
    held = arrays()
    samples = read(
        tmp_path, stored(tmp_path, picture=held["picture"][..., 0].astype(np.float64), words=held["words"] * 1.0)
    )
    assert_holds(samples, held)
    assert "picture: float64 rounded to float32; words: float64 cast to int32" in samples.source


def test_the_same_samples_are_picked_from_every_input(tmp_path: Path):
    held = arrays()
    source = stored(tmp_path, **held)
    few = read(tmp_path, source, samples=5)
    assert len(few) == 5
    picture, words = split(few.x)
    np.testing.assert_array_equal(picture[:, 0, 0, 0] * 8 / 4, words[:, 0] / 3)
    left, right = (read(tmp_path, source, part=part) for part in ((0.0, 0.5), (0.5, 1.0)))
    assert len(left) + len(right) == 20
    check_overlap(left, right)
    with pytest.raises(DataError, match="evaluation samples also occur"):
        check_overlap(few, read(tmp_path, source))
    assert len(some(read(tmp_path, source), 3, seed=0)) == 3


def test_the_digest_covers_every_input(tmp_path: Path):
    held = arrays()
    whole = read(tmp_path, stored(tmp_path, **held))
    held["words"][7, 2] += 1
    assert read(tmp_path, stored(tmp_path, **held)).sha256 != whole.sha256


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"x": np.zeros((3, 3))}, "has no array 'picture', 'words'; it holds 'x'. The model takes picture: float32"),
        ({"picture": np.zeros((3, 2, 2, 1)), "words": np.zeros((4, 3))}, "the inputs have 3, 4 samples"),
        ({"picture": np.zeros((3, 2, 2, 1)), "words": np.full((3, 3), 0.5)}, "the model's input 'words' is int32"),
    ],
)
def test_what_is_wrong_with_an_npz_is_said(tmp_path: Path, held: dict[str, Any], why: str):
    with pytest.raises(DataError) as caught:
        read(tmp_path, stored(tmp_path, **held))
    assert why in caught.value.what


def test_an_input_called_like_the_labels_needs_a_function(tmp_path: Path):
    specs = (PICTURE, TensorSpec(name="y", shape=(None, 3), dtype="float32"))
    with pytest.raises(DataError, match=r"in an \.npz that name is the labels'"):
        read(tmp_path, stored(tmp_path, picture=np.zeros((3, 2, 2, 1)), y=np.zeros((3, 3))), specs)


def test_scale_and_folders_are_for_one_input(tmp_path: Path):
    with pytest.raises(DataError, match="do not say which of the 2 inputs"):
        read(tmp_path, stored(tmp_path, **arrays()), scale=0.5)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="holds images for one input; the model takes picture") as caught:
        read(tmp_path, "pictures")
    assert "one array per input" in caught.value.next_step


FUNCTIONS = {
    "arrays": "def give(): return {'words': W, 'picture': P}, None",
    "tuple": "def give(): return (P, W), None",
    "stream": "def give():\n    for p, w in zip(P, W): yield {'picture': p, 'words': w}, None",
    "batches": "def give():\n    for i in range(0, 20, 8): yield (P[i : i + 8], W[i : i + 8]), None",
}


@pytest.mark.parametrize("how", FUNCTIONS)
def test_functions_give_a_dict_or_a_tuple_whole_or_in_parts(tmp_path: Path, module: Any, how: str):
    made = "P = np.arange(80, dtype=np.float32).reshape(20, 2, 2, 1) / 8\nW = np.arange(60).reshape(20, 3)\n"
    assert_holds(read(tmp_path, module(f"given_{how}", made + FUNCTIONS[how])), arrays())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("def give(): return np.zeros((4, 3)), None", "x is a ndarray; the model takes 2 inputs: picture"),
        ("def give(): return {'words': np.zeros((4, 3))}, None", "the model's inputs are 'picture', 'words'"),
        (
            "def give(): yield (np.zeros((2, 2, 1)), np.zeros((4, 3))), None",
            "a single sample for one input and a batch for another: picture [2, 2, 1], words [4, 3]",
        ),
    ],
)
def test_what_a_function_does_wrong_is_said(tmp_path: Path, module: Any, body: str, why: str):
    with pytest.raises(DataError) as caught:
        read(tmp_path, module(f"wrong_{abs(hash(body))}", body))
    assert why in caught.value.what


def test_checks_name_the_input(tmp_path: Path):
    held = arrays()
    samples = read(tmp_path, stored(tmp_path, **held))
    (few,) = check_samples(samples, BOTH, n_classes=None)
    assert few.code == "few_evaluation_samples"
    longer = TensorSpec(name="words", shape=(None, 4), dtype="int32")
    with pytest.raises(DataError, match=r"the samples are words: int32\[N, 3\], the model takes words: int32\[\?, 4\]"):
        check_samples(samples, (PICTURE, longer), n_classes=None)
    with pytest.raises(DataError, match="samples for 2 inputs; the model takes picture"):
        check_samples(samples, (PICTURE,), n_classes=None)
    held["picture"][4, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="1 values of picture are NaN or infinite; the first is in sample 4"):
        check_samples(read(tmp_path, stored(tmp_path, **held)), BOTH, n_classes=None)


def test_identical_samples_are_identical_in_every_input(tmp_path: Path):
    held = {"picture": np.zeros((20, 2, 2, 1), np.float32), "words": np.zeros((20, 3), np.int32)}
    codes = {f.code for f in check_samples(read(tmp_path, stored(tmp_path, **held)), BOTH, n_classes=None)}
    assert "identical_samples" in codes
    held["words"][3] = 1
    codes = {f.code for f in check_samples(read(tmp_path, stored(tmp_path, **held)), BOTH, n_classes=None)}
    assert "identical_samples" not in codes


def test_synthetic_samples_are_safe_as_indices():
    samples = synthetic_samples(BOTH, n=30, seed=0, role="calibration")
    picture, words = split(samples.x)
    assert 0 <= picture.min() < picture.max() <= 1
    assert set(np.unique(words)) == {0, 1}
