"""Labelled images of the data folder: CIFAR-10, as JPEG."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images(data_dir: Path, part: str, per_class: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The first of each class: float32 [N, 32, 32, 3], 0..255, and class indices [N]."""
    found, labels = [], []
    with tarfile.open(data_dir / "cifar10-jpeg.tar") as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(f"{part}/") and int(Path(member.name).stem) < per_class:
                content = archive.extractfile(member)
                assert content is not None
                found.append(np.asarray(Image.open(io.BytesIO(content.read())).convert("RGB"), np.float32))
                labels.append(CLASSES.index(Path(member.name).parent.name))
    return np.stack(found), np.array(labels, np.int64)
