"""Image folders: order, pixels, threads and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calibration import image_folder
from calibration.samples import load_samples
from edgesmith.config import DataSource
from edgesmith.errors import DataError
from edgesmith.types import SampleSet, TensorSpec

Load = Callable[..., SampleSet]
RGB = TensorSpec(name="image", shape=(None, 6, 8, 3), dtype="uint8")
GRAY = TensorSpec(name="image", shape=(None, 6, 8, 1), dtype="float32")


def paint(path: Path, color: Any, size: tuple[int, int] = (8, 6), mode: str = "RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


@pytest.fixture
def folder(tmp_path: Path):
    paint(tmp_path / "pets/dog/b.png", (10, 20, 30))
    paint(tmp_path / "pets/dog/a.PNG", (40, 50, 60))
    paint(tmp_path / "pets/cat/z.jpeg", (128, 128, 128))
    return tmp_path / "pets"


@pytest.fixture
def load(tmp_path: Path):
    def load_(spec: TensorSpec = RGB, source: str = "pets", **settings: Any) -> SampleSet:
        return load_samples(
            DataSource(source=source, **settings), role="evaluation", specs=(spec,), root=tmp_path, seed=0
        )

    return load_


def test_sorted_classes_are_the_labels(folder: Path, load: Load):
    (folder / ".DS_Store").touch()
    (folder / ".git").mkdir()
    (folder / "dog/.hidden.png").touch()
    (folder / "cat/notes.txt").touch()
    samples = load()
    assert samples.class_names == ("cat", "dog")
    assert samples.y.tolist() == [0, 1, 1]
    assert samples.x.shape == (3, 6, 8, 3)
    assert samples.x[1, 0, 0].tolist() == [40, 50, 60]
    assert samples.x[2, 5, 7].tolist() == [10, 20, 30]
    assert samples.source == (
        "pets: 3 samples; 2 classes in the order of their names as text; decoded as rgb; "
        "1 files that are no images left out"
    )


def test_color_follows_the_model(folder: Path, load: Load):
    samples = load(GRAY)
    assert samples.x.shape == (3, 6, 8, 1)
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B = 48.15.
    assert samples.x[1, 0, 0, 0] == 48
    assert "decoded as grayscale; uint8 cast to float32" in samples.source


def test_layouts(folder: Path, load: Load):
    first = TensorSpec(name="image", shape=("N", 3, 6, 8), dtype="uint8")
    assert np.array_equal(load(first).x, load(RGB).x.transpose(0, 3, 1, 2))
    no_channel = TensorSpec(name="image", shape=(None, 6, 8), dtype="uint8")
    assert load(no_channel).x.shape == (3, 6, 8)
    unknown = TensorSpec(name="image", shape=(None, None, None, None), dtype="uint8")
    assert load(unknown).x.shape == (3, 6, 8, 3)


def test_color_can_be_forced(folder: Path, load: Load):
    assert load(RGB, color="grayscale").x.shape == (3, 6, 8, 1)


def test_png_modes_come_out_as_rgb(tmp_path: Path, load: Load):
    paint(tmp_path / "pets/a/1.png", 1, mode="1")
    paint(tmp_path / "pets/a/2.png", 7, mode="L")
    paint(tmp_path / "pets/a/3.png", (1, 2, 3, 128), mode="RGBA")
    Image.new("RGB", (8, 6), (9, 9, 9)).quantize(2).save(tmp_path / "pets/a/4.png")
    assert load().x[:, 0, 0].tolist() == [[255, 255, 255], [7, 7, 7], [1, 2, 3], [9, 9, 9]]


def test_resize_is_done_and_told(tmp_path: Path, load: Load):
    paint(tmp_path / "pets/a/1.png", (50, 50, 50), size=(20, 30))
    paint(tmp_path / "pets/a/2.png", (70, 70, 70), size=(9, 9))
    samples = load(resize=(6, 8), scale=2.0, offset=1.0)
    assert samples.x[:, 3, 4, 0].tolist() == [101, 141]
    assert samples.x.shape == (2, 6, 8, 3)
    assert "resized to 6x8 (bilinear, antialiased); multiplied by 2, plus 1" in samples.source


@pytest.mark.parametrize("one_thread_pixels", [0, 10**9])
def test_threads_change_nothing(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, one_thread_pixels: int):
    monkeypatch.setattr(image_folder, "_ONE_THREAD_PIXELS", one_thread_pixels)
    monkeypatch.setattr(image_folder, "_BATCH", 3)
    for index in range(20):
        paint(tmp_path / f"pets/c{index % 2}/{index:02}.png", (index, 0, 0))
    samples = load()
    assert samples.x[:, 0, 0, 0].tolist() == [*range(0, 20, 2), *range(1, 20, 2)]
    assert load().sha256 == samples.sha256


def test_subset_is_even_and_reads_no_other_file(tmp_path: Path, load: Load):
    for index in range(12):
        paint(tmp_path / f"pets/c{index % 3}/{index:02}.png", (index, 0, 0))
    chosen = load(samples=6)
    assert np.bincount(chosen.y).tolist() == [2, 2, 2]
    kept = set(chosen.x[:, 0, 0, 0].tolist())
    for index in set(range(12)) - kept:
        (tmp_path / f"pets/c{index % 3}/{index:02}.png").write_bytes(b"broken")
    assert load(samples=6).sha256 == chosen.sha256
    assert "6 of 12 samples, spread evenly over 3 classes (seed 0)" in chosen.source


@pytest.mark.parametrize("one_thread_pixels", [0, 10**9])
def test_one_broken_image_is_named(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, one_thread_pixels: int):
    monkeypatch.setattr(image_folder, "_ONE_THREAD_PIXELS", one_thread_pixels)
    monkeypatch.setattr(image_folder, "_BATCH", 2)
    for index in range(9):
        paint(tmp_path / f"pets/c/{index}.jpg", (index, 0, 0), size=(64, 64))
    victim = tmp_path / "pets/c/5.jpg"
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(
        DataError, match=r"data\.evaluation: .*/pets/c/5\.jpg cannot be decoded: .*[Tt]runcated.*\nReplace"
    ):
        load()
    victim.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"5\.jpg cannot be decoded: not a JPEG or PNG image \(22 bytes\)"):
        load()
    victim.unlink()
    victim.symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=r"5\.jpg cannot be decoded: .*No such file"):
        load()


def test_broken_png_is_named(folder: Path, load: Load):
    whole = (folder / "dog/b.png").read_bytes()
    for damaged in (whole[:40], whole[:10] + b"\xff" + whole[11:], whole[:16] + b"\0" * 8 + whole[24:]):
        (folder / "dog/b.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"dog/b\.png cannot be decoded"):
            load()


def test_sizes_that_differ_are_refused(folder: Path, load: Load):
    paint(folder / "dog/c.png", (0, 0, 0), size=(9, 9))
    with pytest.raises(DataError) as caught:
        load()
    assert caught.value.what.endswith("cat/z.jpeg is 6x8, " + str(folder / "dog/c.png") + " is 9x9 (height x width).")
    assert caught.value.next_step == "Set `resize: [6, 8]` for this source."


def test_16_bits_are_refused(folder: Path, load: Load):
    Image.fromarray(np.full((6, 8), 4000, np.uint16)).save(folder / "dog/b.png")
    with pytest.raises(DataError, match=r"dog/b\.png has more than 8 bits per channel \(I;16\)"):
        load()


def test_models_without_an_image_input_are_refused(folder: Path, load: Load):
    with pytest.raises(
        DataError, match=r"an image folder needs a model with an image input; it takes v: float32\[\?, 48\]"
    ):
        load(TensorSpec(name="v", shape=(None, 48), dtype="float32"))
    with pytest.raises(DataError, match=r"the model takes 4 channels .* an image folder gives 1 or 3"):
        load(TensorSpec(name="v", shape=(None, 6, 8, 4), dtype="float32"))


def test_folders_that_are_no_classes(tmp_path: Path, folder: Path, load: Load):
    (folder / "bird").mkdir()
    with pytest.raises(DataError, match=r"class folder .*/pets/bird holds no \.jpg, \.jpeg, \.png file"):
        load()
    paint(tmp_path / "flat/1.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"/flat has no class folders\.\nPut the images into one folder per class"):
        load(source="flat")
