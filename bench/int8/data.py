"""Samples of the bench: pictures and waveforms, read or drawn once and kept in the cache folder.

Training, calibration and evaluation never share a sample: calibration comes from the training split, behind what the
training takes, and evaluation from the test split.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT: Final = Path(__file__).resolve().parent.parent.parent
EXAMPLE: Final = ROOT / "examples" / "fashion_mnist"
FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
TRAINED_ON: Final = 20_000
"""Samples that the training takes from the front of the shuffled training split."""
WAVE_CLASSES: Final = 8
WAVE_LENGTH: Final = 1024


def shared_data() -> Path:
    """The folder with the files that the project does not ship."""
    return Path(os.environ.get("EDGESMITH_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Inputs float32 [N, ...] as the network takes them, and labels int64 [N]."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Data:
    """Three splits that share no sample."""

    train: Split
    calibration: Split
    evaluation: Split


def load(kind: str, cache: Path, *, calibration: int, evaluation: int) -> Data:
    """The data set of that name.

    Args:
        kind: "cifar" (pixels as -1..1), "cifar-raw" (0..255), "fashion" (0..1), "fashion-raw" (0..255) or "waves".
        cache: where decoded pictures are kept.
        calibration: how many samples.
        evaluation: how many at most; the first ones of the shuffled test split.

    Raises:
        FileNotFoundError: the pictures are not on this machine.
    """
    raw = splits(kind, cache)
    (x, y), (test_x, test_y) = raw
    cut = len(x) - calibration
    return Data(
        train=_split(kind, x[: min(cut, TRAINED_ON)], y[: min(cut, TRAINED_ON)]),
        calibration=_split(kind, x[cut:], y[cut:]),
        evaluation=_split(kind, test_x[:evaluation], test_y[:evaluation]),
    )


Arrays = tuple[NDArray[np.generic], NDArray[np.generic]]


def _split(kind: str, x: NDArray[np.generic], y: NDArray[np.generic]) -> Split:
    values = x.astype(np.float32)
    if kind == "cifar":
        values = values / np.float32(127.5) - np.float32(1)
    elif kind == "fashion":
        values = values / np.float32(255)
    return Split(x=values, y=y.astype(np.int64))


def splits(kind: str, cache: Path) -> tuple[Arrays, Arrays]:
    """Training and test split as they are stored, each shuffled with a fixed seed."""
    if kind == "bundled":
        files = (np.load(EXAMPLE / "data" / f"{name}.npz") for name in ("calibration", "evaluation"))
        return _shuffled(*((file["x"], file["y"]) for file in files))
    if kind.startswith("fashion"):
        return _shuffled(_idx("train"), _idx("t10k"))
    kept = cache / f"{kind.partition('-')[0]}.npz"
    if not kept.is_file():
        train, test = (_cifar("train"), _cifar("test")) if kind.startswith("cifar") else (_waves(0), _waves(1))
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part.npz")
        np.savez(part, x=train[0], y=train[1], test_x=test[0], test_y=test[1])
        part.rename(kept)
    with np.load(kept) as file:
        return _shuffled((file["x"], file["y"]), (file["test_x"], file["test_y"]))


def _shuffled(*splits: Arrays) -> tuple[Arrays, Arrays]:
    draw = np.random.default_rng(0)
    orders = [draw.permutation(len(y)) for _, y in splits]
    first, second = ((x[order], y[order]) for (x, y), order in zip(splits, orders, strict=True))
    return first, second


def _idx(split: str) -> Arrays:
    def read(name: str) -> NDArray[np.uint8]:
        raw = gzip.decompress((FASHION / f"{split}-{name}-ubyte.gz").read_bytes())
        header = 4 + 4 * raw[3]
        return np.frombuffer(raw[header:], np.uint8).reshape(np.frombuffer(raw[4:header], ">u4").astype(int))

    return read("images-idx3")[..., None], read("labels-idx1")


def _cifar(split: str) -> Arrays:
    """uint8 [N, 32, 32, 3], classes in alphabetical order, from the tar of JPEG files."""
    pictures: list[NDArray[np.uint8]] = []
    names: list[str] = []
    with tarfile.open(shared_data() / "cifar10-jpeg.tar") as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(f"{split}/") and (file := tar.extractfile(member)):
                pictures.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
                names.append(member.name.split("/")[1])
    classes = sorted(set(names))
    return np.stack(pictures), np.array([classes.index(name) for name in names])


def _waves(split: int) -> Arrays:
    """Short spoken-word-like sounds, drawn: float32 [N, 1024, 1], eight classes.

    A sound is one tone with overtones whose pitch glides between two of four heights, loud in one of a few rhythms, in
    coloured noise. Loudness is log-uniform over 30 dB, as with speakers near and far: a wide range for eight bits.
    """
    draw = np.random.default_rng([7, split])
    count = (24_000, 10_000)[split]
    label = draw.integers(WAVE_CLASSES, size=count)
    t = np.linspace(0, 1, WAVE_LENGTH, dtype=np.float64)[None]
    glide = np.array([(30, 30), (30, 60), (60, 30), (60, 60)])[label % 4] * draw.uniform(0.75, 1.3, (count, 2))
    phase = 2 * np.pi * np.cumsum(glide[:, :1] + (glide[:, 1:] - glide[:, :1]) * t, axis=1) / WAVE_LENGTH
    overtones = draw.uniform(0, 1, (count, 3))
    tone = sum(overtones[:, k : k + 1] * np.sin((k + 1) * phase + draw.uniform(0, 6.28, (count, 1))) for k in range(3))
    beats = np.where(label < WAVE_CLASSES // 2, 2, 3)[:, None] + draw.normal(0, 0.15, (count, 1))
    envelope = np.clip(np.sin(np.pi * beats * (t + draw.uniform(-0.05, 0.05, (count, 1)))), 0, 1)
    noise = draw.normal(0, 1, (count, WAVE_LENGTH))
    noise[:, 1:] += 0.7 * noise[:, :-1]
    sound = tone * envelope + noise * draw.uniform(0.1, 0.6, (count, 1))
    sound *= 10 ** draw.uniform(-1.5, 0, (count, 1))
    return sound[..., None].astype(np.float32), label
