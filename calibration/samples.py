"""Where samples come from: a `.npz`, an image folder, or a function of the user's; all end as one `SampleSet`."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from calibration import arrays, image_folder, parts, user_arrays, user_code
from edgesmith.errors import DataError
from edgesmith.progress import Progress, Silent
from edgesmith.types import SampleSet, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesmith.config import DataSource

Role = Literal["train", "calibration", "evaluation"]

_SILENT = Silent()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    """What a source holds, before it is fitted to the model; `x` is already the chosen samples."""

    x: NDArray[Any]
    y: NDArray[Any] | None
    told: tuple[str, ...]
    class_names: tuple[str, ...] = ()


def load_samples(
    source: DataSource, *, role: Role, spec: TensorSpec, root: Path, seed: int, progress: Progress = _SILENT
) -> SampleSet:
    """Reads a sample set and fits it to a model's input; what was done to it is told in `SampleSet.source`.

    Only the dtype, a missing channel axis of 1 and the form of the labels are adapted (`calibration.arrays`). A shape
    that does not fit is left for `checks.check_samples` to name.

    Args:
        source: the entry of the config.
        role: what the samples are for.
        spec: the model's input, batch dimension first.
        root: the config's folder: relative paths and the user's modules are found there.
        seed: of the choice of `source.samples`.
        progress: told what is being read.

    Returns:
        x in the dtype of `spec`, contiguous; y int64 or float32, or None.

    Raises:
        DataError: not there, not readable, or not what the source should hold; says which and where.
    """
    where = f"data.{role}"
    path = root / Path(source.source).expanduser()
    if user_code.is_reference(source.source) and not path.exists():
        x, y = user_arrays.read(source.source, where, spec, root, progress)
        raw = _chosen(source, where, x, y, seed)
    elif path.is_dir():
        raw = _from_folder(source, path, where, spec, seed=seed, progress=progress)
    elif not path.exists():
        raise DataError(
            f"{where}: {path}: no such file or folder.",
            next_step="Name a .npz, a folder of class/name.jpg|png, or package.module:function.",
        )
    elif path.suffix.lower() == ".npz":
        with progress.task(f"Reading {path.name}"):
            raw = _from_npz(source, path, where, seed)
    else:
        raise DataError(
            f"{where}: {path} is neither a .npz nor a folder.",
            next_step="Save it with numpy.savez(path, x=..., y=...), or write a package.module:function that reads "
            "it. Pickles are never opened.",
        )
    told = list(raw.told)
    x = arrays.scaled(arrays.add_channel(raw.x, spec.shape), source.scale, source.offset)
    if source.scale != 1.0 or source.offset != 0.0:
        told.append(f"multiplied by {source.scale:g}, plus {source.offset:g}")
    x, cast_note = arrays.cast(x, spec, where)
    if cast_note:
        told.append(cast_note)
    return _sample_set(
        role, x, raw.y, source=f"{source.source}: {'; '.join(told)}", synthetic=False, class_names=raw.class_names
    )


def synthetic_samples(spec: TensorSpec, *, n: int, seed: int, role: Role) -> SampleSet:
    """Uniform noise in the shape of an input: only for `--allow-synthetic`, and marked as such.

    Floats are drawn from 0..1, 8-bit integers from their whole range, wider integers are 0 or 1 (safe as indices).

    Args:
        spec: the model's input.
        n: samples.
        seed: of the noise.
        role: what they stand in for.

    Raises:
        DataError: a dimension besides the batch is not known.
    """
    shape = [d for d in spec.shape[1:] if isinstance(d, int)]
    if len(shape) != len(spec.shape) - 1:
        raise DataError(
            f"data.{role}: no synthetic samples for {spec}: its size is not known.", next_step="Give real samples."
        )
    rng = np.random.default_rng(seed)
    dtype = np.dtype(spec.dtype)
    x: NDArray[Any]
    if dtype.kind == "f":
        x = rng.random((n, *shape), dtype=np.float32).astype(dtype)
    elif dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        x = rng.integers(limits.min, limits.max, (n, *shape), dtype=dtype, endpoint=True)
    else:
        x = rng.integers(0, 2, (n, *shape)).astype(dtype)
    return _sample_set(role, x, None, source=f"synthetic: {n} samples of uniform noise, seed {seed}", synthetic=True)


def some(samples: SampleSet, n: int, seed: int) -> SampleSet:
    """At most n of a set, as evenly over the classes as they allow; the same ones for the same seed."""
    if len(samples) <= n:
        return samples
    return chosen(samples, arrays.choose(samples.y, len(samples), n, seed, f"data.{samples.role}"))


def chosen(samples: SampleSet, index: NDArray[np.int64]) -> SampleSet:
    """These samples of a set.

    Args:
        samples: the set.
        index: int64 [n].
    """
    x, y = samples.x[index], None if samples.y is None else samples.y[index]
    told = f"{samples.source}; {len(index):,} of them"
    return replace(samples, x=x, y=y, sha256=digest(x, y), source=told)


def digest(x: NDArray[Any], y: NDArray[Any] | None) -> str:
    """Hex SHA-256 over dtype, shape and bytes of both arrays."""
    state = hashlib.sha256()
    for array in (x, y):
        if array is None:
            state.update(b"none\0")
        else:
            state.update(f"{array.dtype.str}{array.shape}\0".encode())
            state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _sample_set(
    role: Role,
    x: NDArray[Any],
    y: NDArray[Any] | None,
    *,
    source: str,
    synthetic: bool,
    class_names: tuple[str, ...] = (),
) -> SampleSet:
    x = np.ascontiguousarray(x)
    return SampleSet(
        role=role, x=x, y=y, sha256=digest(x, y), source=source, synthetic=synthetic, class_names=class_names
    )


def _from_npz(source: DataSource, path: Path, where: str, seed: int) -> _Raw:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{where}: {path} holds one bare array, not a .npz of x and y.")
            if "x" not in archive:
                found = ", ".join(f"'{name}'" for name in sorted(archive)) or "nothing"
                raise DataError(
                    f"{where}: {path} has no array 'x'; it holds {found}.",
                    next_step="Save the samples as x and the labels as y: numpy.savez(path, x=..., y=...).",
                )
            x = _member(archive, "x", path, where)
            y = _member(archive, "y", path, where) if "y" in archive else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        detail = "it is no .npz, or a part of one" if "pickle" in str(error) else str(error)
        raise DataError(
            f"{where}: {path} cannot be read: {detail}.", next_step="Write it again with numpy.savez."
        ) from None
    return _chosen(source, where, x, y, seed)


def _member(archive: Any, name: str, path: Path, where: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = archive[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise DataError(
            f"{where}: array '{name}' of {path} holds Python objects: reading it would run a pickle, and pickles "
            "are never opened.",
            next_step="Save it as plain numbers; rows of different length need padding.",
        ) from None
    return array


def _from_folder(
    source: DataSource, folder: Path, where: str, spec: TensorSpec, *, seed: int, progress: Progress
) -> _Raw:
    listing = image_folder.scan(folder, where)
    files, y = listing.files, listing.y
    if source.part is not None:
        inside = parts.within((file.read_bytes() for file in files), source.part, where)
        files, y = tuple(files[i] for i in inside), y[inside]
    told = _count(len(files))
    if source.samples is not None:
        chosen = arrays.choose(y, len(files), source.samples, seed, where)
        told = _count(len(chosen), len(files), y, seed)
        files, y = tuple(files[i] for i in chosen), y[chosen]
    pixels, how = image_folder.read(files, source, spec, where, progress)
    notes = [told, f"{len(listing.class_names)} classes in the order of their names as text", how]
    if source.part is not None:
        notes.insert(1, _share(source.part))
    if listing.others:
        notes.append(f"{listing.others} files that are no images left out")
    return _Raw(x=pixels, y=y, told=tuple(notes), class_names=listing.class_names)


def _chosen(source: DataSource, where: str, x: NDArray[Any], y: NDArray[Any] | None, seed: int) -> _Raw:
    """Labels in their one form, and `source.samples` of them."""
    if x.ndim == 0:
        raise DataError(f"{where}: x is a single number; it must be an array [N, ...].")
    fitted = None if y is None else arrays.labels(y, len(x), where)
    told_part: tuple[str, ...] = ()
    if source.part is not None:
        inside = parts.within((np.ascontiguousarray(sample).tobytes() for sample in x), source.part, where)
        x, fitted = x[inside], None if fitted is None else fitted[inside]
        told_part = (_share(source.part),)
    if source.samples is None:
        return _Raw(x=x, y=fitted, told=(_count(len(x)), *told_part))
    chosen = arrays.choose(fitted, len(x), source.samples, seed, where)
    told = _count(len(chosen), len(x), fitted, seed)
    return _Raw(x=x[chosen], y=None if fitted is None else fitted[chosen], told=(told, *told_part))


def _share(part: tuple[float, float]) -> str:
    return f"the share {part[0]:g} to {part[1]:g} of the source, by content"


def _count(n: int, of: int | None = None, y: NDArray[Any] | None = None, seed: int = 0) -> str:
    if of is None:
        return f"{n:,} samples"
    how = "picked at random"
    if y is not None and y.ndim == 1 and y.dtype.kind in "iu":
        how = f"spread evenly over {len(np.unique(y))} classes"
    return f"{n:,} of {of:,} samples, {how} (seed {seed})"
