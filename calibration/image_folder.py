"""A folder `class/name.jpg|jpeg|png` as arrays: what is there, and how its pixels come out."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.arrays import channel_axis
from edgesmith.errors import DataError
from edgesmith.progress import Progress, Silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesmith.config import DataSource
    from edgesmith.types import TensorSpec

SUFFIXES = (".jpg", ".jpeg", ".png")
_BATCH = 64
_ONE_THREAD_PIXELS = 112 * 112
"""Below this, handing the interpreter from thread to thread costs more than decoding (measured: at 32x32 one thread
reads 9,700 images a second and two read 6,000; at 160x160 it is 1,700 and 4,900)."""
_SILENT = Silent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a folder, nothing decoded yet.

    Attributes:
        files: in order of class, then name.
        y: int64 [N], index of each file's class.
        class_names: folder names, sorted as text: the order of the labels.
        others: files left out because they are no images.
    """

    files: tuple[Path, ...]
    y: NDArray[np.int64]
    class_names: tuple[str, ...]
    others: int


def scan(folder: Path, where: str) -> Listing:
    """Lists the classes and images of a folder. Names that start with a dot are passed over.

    Raises:
        DataError: no class folders, a class without images, or a folder that cannot be read.
    """
    files: list[Path] = []
    y: list[int] = []
    others = 0
    try:
        entries = sorted(
            entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
        for index, name in enumerate(entries):
            found = sorted(e.name for e in os.scandir(folder / name) if not e.name.startswith("."))
            images = [file for file in found if file.lower().endswith(SUFFIXES)]
            if not images:
                raise DataError(
                    f"{where}: the class folder {folder / name} holds no {', '.join(SUFFIXES)} file.",
                    next_step="Every folder is a class and takes a label: fill it or remove it.",
                )
            files += [folder / name / file for file in images]
            y += [index] * len(images)
            others += len(found) - len(images)
    except OSError as error:
        raise DataError(f"{where}: {error.filename or folder} cannot be read: {error.strerror or error}.") from None
    if not entries:
        raise DataError(
            f"{where}: {folder} has no class folders.",
            next_step="Put the images into one folder per class: class/name.jpg or class/name.png.",
        )
    return Listing(files=tuple(files), y=np.array(y, dtype=np.int64), class_names=tuple(entries), others=others)


def read(
    files: Sequence[Path], source: DataSource, spec: TensorSpec, where: str, progress: Progress = _SILENT
) -> tuple[NDArray[np.uint8], str]:
    """Decodes images, larger ones in threads (Pillow lets go of the interpreter while it decodes).

    Colour follows the channels of the model unless the source says; EXIF rotation is not applied, as in Keras and
    torchvision. 16-bit images are refused: eight of their bits would be lost silently.

    Args:
        files: at least one.
        source: `resize` (height, width; bilinear, antialiased when shrinking) and `color`.
        spec: the model's image input: its rank, channel axis and channel count.
        where: the source, for messages.
        progress: gets one task over all files.

    Returns:
        uint8 [N, H, W, C], [N, C, H, W] or [N, H, W] as the input has it; and how it was prepared, in words.

    Raises:
        DataError: a file that cannot be decoded, or sizes that differ; names the file.
    """
    if len(spec.shape) not in (3, 4):
        raise DataError(
            f"{where}: an image folder needs a model with an image input; it takes {spec}.",
            next_step="Give the data as .npz or as package.module:function.",
        )
    axis = channel_axis(spec.shape)
    channels = 1 if axis is None else spec.shape[axis]
    color = source.color or {1: "grayscale", 3: "rgb"}.get(channels if isinstance(channels, int) else 3)
    if color is None:
        raise DataError(f"{where}: the model takes {channels} channels ({spec}); an image folder gives 1 or 3.")
    mode = "L" if color == "grayscale" else "RGB"
    size = None if source.resize is None else (source.resize[1], source.resize[0])
    first = _decode(files[0], mode, size, where)
    pixels = np.empty((len(files), *first.shape), dtype=np.uint8)

    def fill(start: int) -> int:
        stop = min(start + _BATCH, len(files))
        for index in range(start, stop):
            image = _decode(files[index], mode, size, where)
            if image.shape != first.shape:
                raise DataError(
                    f"{where}: images differ in size: {files[0]} is {first.shape[0]}x{first.shape[1]}, {files[index]} "
                    f"is {image.shape[0]}x{image.shape[1]} (height x width).",
                    next_step=f"Set `resize: {_wanted(spec, axis)}` for this source.",
                )
            pixels[index] = image
        return stop - start

    workers = 1 if _pixels(files[0], where) < _ONE_THREAD_PIXELS else min(8, os.cpu_count() or 1)
    with (
        progress.task(f"Reading {len(files):,} images", len(files)) as task,
        ThreadPoolExecutor(workers, thread_name_prefix="images") as pool,
    ):
        try:
            for done in pool.map(fill, range(0, len(files), _BATCH)):
                task.advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    told = [f"decoded as {color}"]
    if source.resize is not None:
        told.append(f"resized to {source.resize[0]}x{source.resize[1]} (bilinear, antialiased)")
    if axis is None:
        return pixels, "; ".join(told)
    stacked = pixels if pixels.ndim == 4 else pixels[..., None]
    return np.ascontiguousarray(np.moveaxis(stacked, 3, axis)), "; ".join(told)


def _decode(file: Path, mode: str, size: tuple[int, int] | None, where: str) -> NDArray[np.uint8]:
    """One image as uint8 [H, W] ("L") or [H, W, 3] ("RGB")."""
    from PIL import Image, UnidentifiedImageError

    try:
        # open() and a buffer: Path.open and Pillow's own file handling cost more than decoding a 32x32 JPEG.
        with open(file, "rb") as stream:  # noqa: PTH123
            data = stream.read()
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{where}: {file} has more than 8 bits per channel ({image.mode}).",
                    next_step="Convert it to 8 bits, or give the data as .npz.",
                )
            out: Image.Image = image if image.mode == mode else image.convert(mode)
            if size is not None and out.size != size:
                out = out.resize(size, Image.Resampling.BILINEAR)
            return np.asarray(out, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError for a broken PNG header and ValueError for some broken chunks.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"not a JPEG or PNG image ({len(data):,} bytes)" if unknown else error
        raise DataError(
            f"{where}: {file} cannot be decoded: {reason}.", next_step="Replace the file or remove it."
        ) from None


def _pixels(file: Path, where: str) -> int:
    """Pixels of an image before any resize."""
    return _decode(file, "L", None, where).size


def _wanted(spec: TensorSpec, axis: int | None) -> str:
    sides = [d for i, d in enumerate(spec.shape) if i not in (0, axis)]
    return str([d if isinstance(d, int) else "..." for d in sides]).replace("'", "")
