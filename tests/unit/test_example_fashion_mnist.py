"""The bundled example: its data are what its README says, and its model is as good as its README says."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.config import load_config
from optimizer.recipe import parse_recipe

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist"
OFFICIAL = Path("/usr/share/datasets/fashion-mnist")
COUNTS = {"train": 4000, "calibration": 500, "evaluation": 2000}


def bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(EXAMPLE / "data" / f"{name}.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"x", "y"}
        return arrays["x"], arrays["y"]


def readme_accuracy(label: str) -> float:
    """A percentage out of the table row that starts with `label`."""
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {re.escape(label)} \|.* ([\d.]+) % \|$", readme, re.MULTILINE)
    assert row, f"README.md has no row for {label}"
    return float(row[1]) / 100


@pytest.fixture(scope="module")
def model() -> Any:
    import keras

    return keras.models.load_model(EXAMPLE / "model.keras")


@pytest.fixture
def official() -> Path:
    """The folder of the whole data set."""
    if not OFFICIAL.is_dir():
        message = f"{OFFICIAL} is not there: install the Debian package dataset-fashion-mnist."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return OFFICIAL


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_a_slice_has_the_stated_form_and_every_class_as_often(name: str, count: int):
    x, y = bundled(name)
    assert (x.shape, x.dtype) == ((count, 28, 28, 1), np.uint8)
    assert (y.shape, y.dtype) == ((count,), np.uint8)
    assert (int(x.min()), int(x.max())) == (0, 255)
    assert np.bincount(y).tolist() == [count // 10] * 10


def test_no_picture_occurs_twice_within_or_between_the_slices():
    digests = [hashlib.sha256(picture.tobytes()).digest() for name in COUNTS for picture in bundled(name)[0]]
    assert len(set(digests)) == len(digests) == sum(COUNTS.values())


def test_what_ships_is_small_and_complete():
    files = {p.relative_to(EXAMPLE).as_posix(): p for p in EXAMPLE.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert set(files) == {
        "LICENSE-data",
        "README.md",
        "data/calibration.npz",
        "data/evaluation.npz",
        "data/train.npz",
        "edgesmith.yaml",
        "make_data.py",
        "model.keras",
        "train.py",
    }
    assert files["model.keras"].stat().st_size < 500_000
    assert sum(path.stat().st_size for path in files.values()) < 4_500_000


def test_the_data_come_with_their_licence():
    text = (EXAMPLE / "LICENSE-data").read_text(encoding="utf-8")
    assert "The MIT License" in text
    assert "Zalando SE" in text


def test_the_config_is_valid_and_its_files_are_there():
    loaded = load_config(EXAMPLE / "edgesmith.yaml")
    data = loaded.config.data
    assert data.train
    assert data.calibration
    for path in (loaded.config.model, data.train.source, data.calibration.source, data.evaluation.source):
        assert loaded.resolve(path).is_file()
    prune, quantize = loaded.config.recipe
    assert prune["prune"]["final_sparsity"] == 0.5
    assert quantize == {"quantize": {"scheme": "int8-float-io"}}
    parse_recipe(loaded)


def test_the_model_is_as_described(model: Any):
    assert 45_000 <= model.count_params() <= 55_000
    assert (model.input_shape, model.output_shape) == ((None, 28, 28, 1), (None, 10))
    assert not model.compiled  # the state of an optimizer would triple the file
    kinds = {type(layer).__name__ for layer in model.layers}
    assert {"Rescaling", "DepthwiseConv2D", "BatchNormalization"} <= kinds
    # A short fine-tune cannot move batch statistics that follow slower than this.
    assert {layer.momentum for layer in model.layers if hasattr(layer, "momentum")} == {0.9}


def test_the_model_is_as_good_on_the_bundled_pictures_as_the_readme_says(model: Any):
    x, y = bundled("evaluation")
    probabilities = model.predict(x.astype(np.float32), batch_size=500, verbose=0)
    assert np.allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    accuracy = float(np.mean(probabilities.argmax(axis=-1) == y))
    assert accuracy == pytest.approx(readme_accuracy("`data/evaluation.npz`"), abs=0.01)


@pytest.mark.slow
def test_the_model_is_as_good_on_the_official_test_split_as_the_readme_says(official: Path):
    command = [sys.executable, str(EXAMPLE / "train.py"), "--evaluate", "--data", str(official)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    printed = re.search(r"^official test split, 10,000 pictures: ([\d.]+)%$", done.stdout, re.MULTILINE)
    assert printed, done.stdout
    accuracy = float(printed[1]) / 100
    assert accuracy >= 0.905
    assert accuracy == pytest.approx(readme_accuracy("official test split"), abs=0.0005)


@pytest.mark.slow
def test_the_slices_are_what_make_data_cuts_out_of_the_official_files(official: Path):
    spec = importlib.util.spec_from_file_location("fashion_mnist_make_data", EXAMPLE / "make_data.py")
    assert spec
    assert spec.loader
    make_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_data)
    slices = make_data.cut(official)
    assert set(slices) == set(COUNTS)
    for name, (images, labels) in slices.items():
        x, y = bundled(name)
        assert np.array_equal(x, images)
        assert np.array_equal(y, labels)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, "Install the Debian package dataset-fashion-mnist", id="missing"),
        pytest.param(b"PK", "is not a whole, gzipped IDX file", id="not gzip"),
        pytest.param(gzip.compress(b"text"), "it starts with b'text'", id="not IDX"),
        pytest.param(gzip.compress(b"\0\0\x08\x01\0\0\0\x09123"), "is not a whole, gzipped IDX file", id="too short"),
    ],
)
def test_an_official_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, expected: str):
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    if content is not None:
        path.write_bytes(content)
    command = [sys.executable, str(EXAMPLE / "make_data.py"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert expected in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
