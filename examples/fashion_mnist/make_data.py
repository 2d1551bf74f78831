"""Cuts the three small data sets of this example out of Fashion-MNIST.

Debian and Ubuntu ship the data set: `apt-get install dataset-fashion-mnist`. Then `python make_data.py` writes
`data/train.npz`, `data/calibration.npz` and `data/evaluation.npz` next to this file, with the same content every time.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import zlib
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

HERE: Final = Path(__file__).resolve().parent
DEBIAN_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
CLASSES: Final = 10

Split = Literal["train", "t10k"]
Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images uint8 [N, 28, 28, 1] of 0..255, labels uint8 [N] of 0..9."""

# Which part of which official split, and how many of each class. A slice never takes what an earlier one took.
SLICES: Final[tuple[tuple[str, Split, int], ...]] = (
    ("evaluation", "t10k", 200),
    ("train", "train", 400),
    ("calibration", "train", 50),
)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads one gzipped IDX file of unsigned bytes.

    Args:
        path: the `.gz` file.

    Returns:
        uint8 array of the shape that the file declares.

    Raises:
        SystemExit: the file is missing, damaged, or not IDX of unsigned bytes.

    Reference: the IDX format as described with MNIST, http://yann.lecun.com/exdb/mnist/
    """
    if not path.is_file():
        sys.exit(
            f"{path} is not there. Install the Debian package dataset-fashion-mnist, or name its folder by --data."
        )
    try:
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != b"\x00\x00\x08":
            raise ValueError(f"it starts with {raw[:4]!r}")
        header = 4 + 4 * raw[3]
        shape = np.frombuffer(raw[4:header], dtype=">u4").astype(int)
        return np.frombuffer(raw[header:], dtype=np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        sys.exit(f"{path} is not a whole, gzipped IDX file of unsigned bytes: {error}.")


def read_split(folder: Path, split: Split) -> Labelled:
    """Reads one official split: 60,000 images for `train`, 10,000 for `t10k`."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return images[..., None], labels


def cut(folder: Path, seed: int = 0) -> dict[str, Labelled]:
    """Cuts the slices: class-balanced, and no picture occurs twice, within a slice or between them.

    The official splits hold a few identical pictures, so "other index" is not enough: content decides.

    Args:
        folder: where the four official files lie.
        seed: of the draw.

    Returns:
        Images and labels by slice name, in the order of the official files.
    """
    taken: set[bytes] = set()
    slices: dict[str, Labelled] = {}
    for name, split, per_class in SLICES:
        images, labels = read_split(folder, split)
        chosen: list[int] = []
        room = [per_class] * CLASSES
        for index in np.random.default_rng(seed).permutation(len(images)):
            content = images[index].tobytes()
            if room[labels[index]] and content not in taken:
                room[labels[index]] -= 1
                taken.add(content)
                chosen.append(int(index))
        chosen.sort()
        slices[name] = images[chosen], labels[chosen]
    return slices


def main() -> None:
    """Writes the slices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the official files")
    parser.add_argument("--out", type=Path, default=HERE / "data", help="folder to write to")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in cut(args.data).items():
        path = args.out / f"{name}.npz"
        np.savez_compressed(path, x=images, y=labels)
        print(f"{path}: {len(labels)} samples, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
