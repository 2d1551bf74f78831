"""CIFAR-10 as the benches of structured pruning and of transfer see it: pixels as -1..1, all 50,000 + 10,000 pictures.

Calibration samples come from the end of the shuffled training split and are not trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.int8.data import Data, Split, splits

CALIBRATION: Final = 1_000
SHIFT: Final = 4
"""Pixels that a picture is moved by at most, as in He et al. 2016, section 4.2."""


def load(cache: Path) -> Data:
    """49,000 training, 1,000 calibration and 10,000 evaluation pictures; float32 [N, 32, 32, 3].

    Raises:
        FileNotFoundError: the pictures are not on this machine.
    """
    (x, y), (test_x, test_y) = splits("cifar", cache)
    cut = len(x) - CALIBRATION
    return Data(train=_split(x[:cut], y[:cut]), calibration=_split(x[cut:], y[cut:]), evaluation=_split(test_x, test_y))


def moved(x: NDArray[np.float32], draw: np.random.Generator) -> NDArray[np.float32]:
    """Every picture moved by up to `SHIFT` pixels and half of them mirrored, grey outside."""
    count, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
    rows = draw.integers(2 * SHIFT + 1, size=count)[:, None] + np.arange(height)
    columns = draw.integers(2 * SHIFT + 1, size=count)[:, None] + np.arange(width)
    mirrored = draw.random(count) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    return np.asarray(padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]])


def copies(split: Split, count: int, seed: int) -> Split:
    """The split with so many moved copies of each picture behind it, for trainings that take samples as they are."""
    draw = np.random.default_rng([seed, 11])
    moves = [moved(split.x, draw) for _ in range(count)]
    return Split(x=np.concatenate([split.x, *moves]), y=np.tile(split.y, 1 + count))


def _split(x: NDArray[np.generic], y: NDArray[np.generic]) -> Split:
    return Split(x=x.astype(np.float32) / np.float32(127.5) - np.float32(1), y=y.astype(np.int64))
