"""`.npz` files and functions: what is read, how it is fitted to the model, and what is refused."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration import user_arrays
from calibration.arrays import choose
from calibration.samples import Role, digest, load_samples, synthetic_samples
from edgesmith.config import DataSource
from edgesmith.errors import DataError
from edgesmith.progress import Progress, Silent
from edgesmith.types import SampleSet, TensorSpec

Load = Callable[..., SampleSet]
SaveNpz = Callable[..., str]
IMAGE = TensorSpec(name="image", shape=(None, 4, 4, 1), dtype="float32")
VECTOR = TensorSpec(name="features", shape=(None, 3), dtype="float32")


@pytest.fixture
def load(tmp_path: Path):
    def load_(
        source: str,
        spec: TensorSpec = VECTOR,
        role: Role = "evaluation",
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Any,
    ) -> SampleSet:
        return load_samples(
            DataSource(source=source, **settings), role=role, specs=(spec,), root=tmp_path, seed=seed,
            progress=progress or Silent(),
        )  # fmt: skip

    return load_


@pytest.fixture
def npz(tmp_path: Path):
    def save(**arrays: Any) -> str:
        np.savez(tmp_path / "data.npz", **arrays)
        return "data.npz"

    return save


def test_npz_as_it_is(load: Load, npz: SaveNpz):
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 0])
    samples = load(npz(x=x, y=y))
    assert samples.role == "evaluation"
    assert np.array_equal(samples.x, x)
    assert samples.y.tolist() == [0, 1, 2, 0]
    assert samples.y.dtype == np.int64
    assert samples.source == "data.npz: 4 samples"
    assert samples.sha256 == digest(x, y)
    assert not samples.synthetic


def test_npz_without_labels(load: Load, npz: SaveNpz):
    assert load(npz(x=np.zeros((4, 3), np.float32))).y is None


def test_compressed_npz_and_absolute_path(load: Load, tmp_path: Path):
    np.savez_compressed(tmp_path / "other.npz", x=np.ones((2, 3), np.float32))
    assert len(load(str(tmp_path / "other.npz"))) == 2


def test_digest_covers_dtype_shape_bytes_and_labels():
    x, y = np.zeros((2, 4), np.float32), np.zeros(2, np.int64)
    different = [
        digest(x, y), digest(x, None), digest(x.view(np.int32), y), digest(x.reshape(4, 2), y),
        digest(x + 1, y), digest(x, y + 1), digest(x, y.astype(np.int32)),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert digest(x, y) == digest(np.asfortranarray(x), y.copy())
    assert digest(x[:0], None) != digest(x, None)


@pytest.mark.parametrize(
    ("given_", "wanted", "note"),
    [
        (np.uint8, "float32", "uint8 cast to float32"),
        (np.bool_, "float32", "bool cast to float32"),
        (np.int64, "float32", "int64 cast to float32"),
        (np.float16, "float32", "float16 cast to float32"),
        (np.float64, "float32", "float64 rounded to float32"),
        (np.float32, "uint8", "float32 cast to uint8"),
        (np.int64, "int32", "int64 cast to int32"),
        (np.uint8, "int8", "uint8 cast to int8"),
    ],
)
def test_casts_that_keep_the_values(load: Load, npz: SaveNpz, given_: Any, wanted: Any, note: str):
    x = np.array([[0, 1, 1], [1, 0, 1]], dtype=given_)
    samples = load(npz(x=x), TensorSpec(name="in", shape=(None, 3), dtype=wanted))
    assert samples.x.dtype == np.dtype(wanted)
    assert np.array_equal(samples.x, x)
    assert samples.source == f"data.npz: 2 samples; {note}"


@pytest.mark.parametrize(
    ("x", "wanted", "says"),
    [
        (np.array([[0.5, 1, 2]]), "uint8", "x is float64 with values that are not whole; .* 'in' is uint8"),
        (np.array([[np.nan, 1, 2]]), "uint8", "values that are not whole"),
        (np.array([[0, 256, 2]]), "uint8", r"x runs from 0 to 256, the model's input 'in' is uint8 \(0\.\.255\)"),
        (np.array([[-1.0, 0, 2]]), "uint8", r"x runs from -1\.0 to 2\.0"),
        (np.array([[1e39, 0, 2]]), "float32", r"1 values of x \(float64\) are too large for the model's float32"),
        (np.array([[70000, 0, 2]]), "float16", "1 values of x .* are too large for the model's float16"),
        (np.array([["a", "b", "c"]]), "float32", "x is <U1, which is not numbers"),
        (np.array([[1j, 0, 0]]), "float32", "x is complex128, which is not numbers"),
    ],
)
def test_casts_that_would_lose_something(load: Load, npz: SaveNpz, x: NDArray[Any], wanted: Any, says: str):
    with pytest.raises(DataError, match=f"data.evaluation: .*{says}"):
        load(npz(x=x), TensorSpec(name="in", shape=(None, 3), dtype=wanted))


def test_scale_and_offset_are_applied_and_told(load: Load, npz: SaveNpz):
    samples = load(npz(x=np.array([[0, 51, 255]], np.uint8)), scale=1 / 255, offset=-0.5)
    assert samples.x == pytest.approx(np.array([[-0.5, -0.3, 0.5]]))
    assert samples.x.dtype == np.float32
    assert samples.source == "data.npz: 1 samples; multiplied by 0.00392157, plus -0.5"


def test_scale_may_make_whole_numbers(load: Load, npz: SaveNpz):
    spec = TensorSpec(name="in", shape=(None, 3), dtype="uint8")
    assert load(npz(x=np.array([[0, 0.5, 1.0]])), spec, scale=254).x.tolist() == [[0, 127, 254]]


@pytest.mark.parametrize(
    ("shape", "given_", "expected"),
    [
        ((None, 4, 4, 1), (2, 4, 4), (2, 4, 4, 1)),
        ((None, 1, 4, 4), (2, 4, 4), (2, 1, 4, 4)),
        ((None, 1, 5, 5), (2, 5, 5), (2, 1, 5, 5)),
        ((None, 4, 4, 3), (2, 4, 4), (2, 4, 4)),
        ((None, 4, 4), (2, 4, 4), (2, 4, 4)),
        ((None, 4, 4, 1), (2, 4, 4, 1), (2, 4, 4, 1)),
    ],
)
def test_a_missing_channel_is_added(
    load: Load, npz: SaveNpz, shape: tuple[int | None, ...], given_: Any, expected: Any
):
    spec = TensorSpec(name="image", shape=shape, dtype="float32")
    assert load(npz(x=np.zeros(given_, np.float32)), spec).x.shape == expected


@pytest.mark.parametrize(
    ("y", "expected", "dtype"),
    [
        (np.array([[1], [0]], np.uint8), [1, 0], np.int64),
        (np.array([True, False]), [1, 0], np.int64),
        (np.array([[0, 0, 1], [1, 0, 0]]), [2, 0], np.int64),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), [1, 0], np.int64),
        (np.array([0.5, 2.0]), [0.5, 2.0], np.float32),
        (np.array([[0.5], [2.0]]), [0.5, 2.0], np.float32),
        (np.array([[0.5, 0.5], [1, 0]]), [[0.5, 0.5], [1, 0]], np.float32),
        (np.array([[1, 1], [1, 0]]), [[1, 1], [1, 0]], np.int64),
    ],
)
def test_labels_take_one_of_two_forms(load: Load, npz: SaveNpz, y: Any, expected: Any, dtype: Any):
    samples = load(npz(x=np.zeros((2, 3), np.float32), y=y))
    assert samples.y.tolist() == expected
    assert samples.y.dtype == dtype


X = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X, "y": np.array(["cat", "dog", "cat", "dog"])}, r"labels y are <U3, not numbers\.\nNumber the classes"),
        ({"x": X, "y": np.arange(3)}, "4 samples but 3 labels"),
        ({"x": X, "y": np.array(3)}, "4 samples but a single value"),
        ({"x_train": X, "y_train": np.arange(4)}, r"has no array 'x'; it holds 'x_train', 'y_train'\.\nSave the"),
        ({"x": np.array([X, 1], dtype=object)}, "array 'x' of .*data.npz holds Python objects: .* never opened"),
        ({"x": X, "y": np.array([{}], dtype=object)}, "array 'y' of .*data.npz holds Python objects"),
        ({"x": np.float32(3)}, "x is a single number"),
    ],
)  # fmt: skip
def test_npz_contents_that_are_refused(load: Load, npz: SaveNpz, arrays: dict[str, Any], says: str):
    with pytest.raises(DataError, match=f"data.evaluation: .*{says}"):
        load(npz(**arrays))


def test_a_pickle_is_never_opened(load: Load, tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path.joinpath("opened").touch, ())

    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], dtype=object))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.npz", "bare.npz"):
        with pytest.raises(DataError):
            load(name)
    assert not (tmp_path / "opened").exists()


def test_damaged_files_are_refused(load: Load, npz: SaveNpz, tmp_path: Path):
    name = npz(x=np.random.default_rng(0).random((200, 3)).astype(np.float32))
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:10], b"", b"text" * 100):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=r"data.evaluation: .*data\.npz cannot be read: .*\nWrite it again"):
            load(name)
    flipped = bytearray(whole)
    flipped[300] ^= 0xFF
    (tmp_path / name).write_bytes(bytes(flipped))
    with pytest.raises(DataError, match="cannot be read: Bad CRC-32"):
        load(name)
    with (tmp_path / name).open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="holds one bare array"):
        load(name)


def test_paths_that_lead_nowhere(load: Load, tmp_path: Path):
    with pytest.raises(DataError, match=r"data.train: .*/missing\.npz: no such file or folder\.\nName a \.npz"):
        load("missing.npz", role="train")
    (tmp_path / "data.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.pkl is neither a \.npz nor a folder\.\n.*Pickles are never opened"):
        load("data.pkl")


def test_a_subset_is_told_and_keeps_the_order(load: Load, npz: SaveNpz):
    x = np.arange(30, dtype=np.float32).reshape(10, 3)
    samples = load(npz(x=x, y=np.array([0] * 7 + [1] * 3)), samples=6)
    assert np.bincount(samples.y).tolist() == [3, 3]
    assert (np.diff(samples.x[:, 0]) > 0).all()
    assert samples.source == "data.npz: 6 of 10 samples, spread evenly over 2 classes (seed 0)"
    again = load("data.npz", samples=6)
    assert again.sha256 == samples.sha256
    assert load("data.npz", samples=6, seed=1).sha256 != samples.sha256


def test_a_subset_without_classes_is_random(load: Load, npz: SaveNpz):
    name = npz(x=np.arange(30, dtype=np.float32).reshape(10, 3))
    assert load(name, samples=4).source == "data.npz: 4 of 10 samples, picked at random (seed 0)"


def test_more_samples_than_there_are(load: Load, npz: SaveNpz):
    with pytest.raises(DataError, match=r"`samples: 5` asks for more than the 4 .*\nSet `samples` to 4"):
        load(npz(x=X), samples=5)


@given(y=st.lists(st.integers(0, 5), min_size=1, max_size=80), data=st.data(), seed=st.integers(0, 1000))
def test_choice_is_as_even_as_the_classes_allow(y: Any, data: st.DataObject, seed: int):
    labels = np.array(y, dtype=np.int64) * 3 - 4
    wanted = data.draw(st.integers(1, len(y)))
    chosen = choose(labels, len(y), wanted, seed, "data")
    assert len(chosen) == wanted
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, choose(labels, len(y), wanted, seed, "data"))
    _, index, available = np.unique(labels, return_inverse=True, return_counts=True)
    taken = np.bincount(index[chosen], minlength=len(available))
    # Water-filling: a class gives less than the fullest minus one only when it has no more.
    assert ((taken >= taken.max() - 1) | (taken == available)).all()


FUNCTIONS = """
import numpy as np

def arrays():
    return np.arange(12).reshape(4, 3), np.array([0, 1, 0, 1])

def unlabelled():
    return np.arange(12).reshape(4, 3), None

def single_samples():
    for i in range(4):
        yield [3 * i, 3 * i + 1, 3 * i + 2], i % 2

def batches():
    yield np.arange(9).reshape(3, 3), np.array([0, 1, 0])
    yield np.arange(9, 12).reshape(1, 3), np.array([1])

def list_of_pairs():
    return list(single_samples())

def one_hot_samples():
    for i in range(4):
        yield np.arange(3 * i, 3 * i + 3), np.eye(2)[i % 2]

def images():
    for i in range(3):
        yield np.full((4, 4), i, np.uint8), i

def image_batches():
    yield np.zeros((2, 4, 4), np.uint8), [0, 1]
    yield np.zeros((1, 4, 4), np.uint8), [2]

def fails():
    return arrays() + undefined_name

def fails_midway():
    yield [1, 2, 3], 0
    raise KeyError("file 17 is missing")

def nothing():
    return
    yield

def number():
    return 3

def scalars():
    return 3, 4

def bare_samples():
    yield np.zeros(3)

def half_labelled():
    yield np.zeros(3), 1
    yield np.zeros(3), None

def ragged():
    yield np.zeros(3), 1
    yield np.zeros(2), 1

def dictionary():
    return {"x": 1}, None

def objects():
    return [[1, None, 3]], None

def endless():
    while True:
        yield np.zeros((1000, 3)), np.zeros(1000)
"""


@pytest.fixture
def functions(tmp_path: Path):
    (tmp_path / "sample_functions.py").write_text(FUNCTIONS)
    return "sample_functions:"


@pytest.mark.parametrize("name", ["arrays", "single_samples", "batches", "list_of_pairs", "one_hot_samples"])
def test_functions_give_the_same_however_they_give_it(load: Load, functions: str, name: str):
    samples = load(functions + name)
    assert np.array_equal(samples.x, np.arange(12).reshape(4, 3))
    assert samples.x.dtype == np.float32
    assert samples.y.tolist() == [0, 1, 0, 1]
    assert samples.source.startswith(f"sample_functions:{name}: 4 samples")


def test_function_without_labels(load: Load, functions: str):
    assert load(functions + "unlabelled").y is None
    assert len(load(functions + "unlabelled", samples=2)) == 2


@pytest.mark.parametrize("name", ["images", "image_batches"])
def test_functions_may_leave_the_channel_out(load: Load, functions: str, name: str):
    samples = load(functions + name, IMAGE)
    assert samples.x.shape == (3, 4, 4, 1)
    assert samples.y.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fails", r"raised NameError: name 'undefined_name' is not defined \(.*sample_functions\.py:\d+ in fails\)"),
        ("fails_midway", r"raised KeyError: 'file 17 is missing' \(.*in fails_midway\)"),
        ("nothing", "yielded nothing"),
        ("number", r"returned int\.\nReturn the arrays \(x, y\)"),
        ("scalars", "x is a single number"),
        ("bare_samples", r"item 0 is a ndarray, not a pair \(x, y\)"),
        ("half_labelled", r"some of its items have labels and some have none \(item 1\)"),
        ("ragged", r"item 1 has samples of shape \(2,\), the first had \(3,\)"),
        ("dictionary", "x and y must be arrays, one of them is a dict"),
        ("objects", "one of its arrays holds Python objects"),
        ("missing", "'sample_functions' has no function 'missing'"),
    ],
)
def test_functions_that_are_refused(load: Load, functions: str, name: str, says: str):
    with pytest.raises(DataError, match=says):
        load(functions + name)


def test_an_endless_function_is_stopped(load: Load, functions: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(user_arrays, "_MAX_STREAM_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"yielded more than .* and has not ended\.\nLet it end after one pass"):
        load(functions + "endless")


def test_progress_is_told(load: Load, functions: str):
    heard = []

    class Listener(Silent):
        @contextlib.contextmanager
        def task(self, label: str, total: float | None = None) -> Iterator[Self]:
            heard.append(label)
            yield self

        def advance(self, amount: float = 1.0, note: str = "") -> None:
            heard.append(note)

    load(functions + "batches", progress=Listener())
    assert heard == ["Calling sample_functions:batches", "1 items", "2 items"]


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("float32", 0, 1), ("uint8", 0, 255), ("int8", -128, 127), ("int32", 0, 1)]
)
def test_synthetic_samples(dtype: Any, low: int, high: int):
    spec = TensorSpec(name="in", shape=("batch", 20, 20), dtype=dtype)
    samples = synthetic_samples((spec,), n=50, seed=3, role="calibration")
    assert samples.x.shape == (50, 20, 20)
    assert samples.x.dtype == np.dtype(dtype)
    assert samples.x.min() == pytest.approx(low, abs=0.01)
    assert samples.x.max() == pytest.approx(high, abs=0.01)
    assert samples.synthetic
    assert samples.y is None
    assert samples.source == "synthetic: 50 samples of uniform noise, seed 3"
    assert samples.sha256 == synthetic_samples((spec,), n=50, seed=3, role="calibration").sha256
    assert samples.sha256 != synthetic_samples((spec,), n=50, seed=4, role="calibration").sha256


def test_synthetic_samples_of_unknown_size_are_refused():
    spec = TensorSpec(name="in", shape=(None, None, 3), dtype="float32")
    with pytest.raises(DataError, match=r"no synthetic samples for in: float32\[\?, \?, 3\]: its size is not known"):
        synthetic_samples((spec,), n=5, seed=0, role="calibration")
