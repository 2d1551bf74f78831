"""Where samples come from: a `.npz`, an image folder, or a function of the user's; all end as one `SampleSet`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from calibration import arrays, image_folder, inputs, npz, parts, user_arrays, user_code
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
    """What a source holds, before it is fitted to the model; `x` is the chosen samples, one array per input."""

    x: tuple[NDArray[Any], ...]
    y: NDArray[Any] | None
    told: tuple[str, ...]
    class_names: tuple[str, ...] = ()


def load_samples(
    source: DataSource, *, role: Role, specs: Sequence[TensorSpec], root: Path, seed: int, progress: Progress = _SILENT
) -> SampleSet:
    """Reads a sample set and fits it to a model's inputs; what was done to it is told in `SampleSet.source`.

    Only the dtype, a missing channel axis of 1 and the form of the labels are adapted (`calibration.arrays`). A shape
    that does not fit is left for `checks.check_samples` to name.

    Args:
        source: the entry of the config.
        role: what the samples are for.
        specs: the model's inputs, batch dimension first.
        root: the config's folder: relative paths and the user's modules are found there.
        seed: of the choice of `source.samples`.
        progress: told what is being read.

    Returns:
        x in the dtypes of `specs`, contiguous (several inputs: `calibration.inputs`); y int64 or float32, or None.

    Raises:
        DataError: not there, not readable, or not what the source should hold; says which and where.
    """
    where = f"data.{role}"
    path = root / Path(source.source).expanduser()
    if user_code.is_reference(source.source) and not path.exists():
        x, y = user_arrays.read(source.source, where, specs, root, progress)
        raw = _chosen(source, where, x, y, seed)
    elif path.is_dir():
        raw = _from_folder(source, path, where, specs, seed=seed, progress=progress)
    elif not path.exists():
        raise DataError(
            f"{where}: {path}: no such file or folder.",
            next_step="Name a .npz, a folder of class/name.jpg|png, or package.module:function.",
        )
    elif path.suffix.lower() == ".npz":
        with progress.task(f"Reading {path.name}"):
            x, y = npz.read(path, where, specs)
            raw = _chosen(source, where, x, y, seed)
    else:
        raise DataError(
            f"{where}: {path} is neither a .npz nor a folder.",
            next_step="Save it with numpy.savez(path, x=..., y=...), or write a package.module:function that reads "
            "it. Pickles are never opened.",
        )
    told = list(raw.told)
    scaled = source.scale != 1.0 or source.offset != 0.0
    if scaled:
        if len(specs) > 1:
            raise DataError(
                f"{where}: `scale` and `offset` do not say which of the {len(specs)} inputs they are for.",
                next_step="Prepare the arrays in the source, and leave both out.",
            )
        told.append(f"multiplied by {source.scale:g}, plus {source.offset:g}")
    fitted = []
    for array, spec in zip(raw.x, specs, strict=True):
        values = arrays.scaled(arrays.add_channel(array, spec.shape), source.scale, source.offset)
        values, cast_note = arrays.cast(values, spec, where)
        fitted.append(values)
        if cast_note:
            told.append(cast_note if len(specs) == 1 else f"{spec.name}: {cast_note}")
    return _sample_set(
        role,
        inputs.join(fitted, [spec.name for spec in specs]),
        raw.y,
        source=f"{source.source}: {'; '.join(told)}",
        synthetic=False,
        class_names=raw.class_names,
    )


def synthetic_samples(specs: Sequence[TensorSpec], *, n: int, seed: int, role: Role) -> SampleSet:
    """Uniform noise in the shape of a model's inputs: only for `--allow-synthetic`, and marked as such.

    Floats are drawn from 0..1, 8-bit integers from their whole range, wider integers are 0 or 1 (safe as indices).

    Args:
        specs: the model's inputs.
        n: samples.
        seed: of the noise.
        role: what they stand in for.

    Raises:
        DataError: a dimension besides the batch is not known.
    """
    rng = np.random.default_rng(seed)
    x = inputs.join([_noise(spec, n, rng, role) for spec in specs], [spec.name for spec in specs])
    return _sample_set(role, x, None, source=f"synthetic: {n} samples of uniform noise, seed {seed}", synthetic=True)


def _noise(spec: TensorSpec, n: int, rng: np.random.Generator, role: Role) -> NDArray[Any]:
    shape = [d for d in spec.shape[1:] if isinstance(d, int)]
    if len(shape) != len(spec.shape) - 1:
        raise DataError(
            f"data.{role}: no synthetic samples for {spec}: its size is not known.", next_step="Give real samples."
        )
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return rng.random((n, *shape), dtype=np.float32).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, (n, *shape), dtype=dtype, endpoint=True)
    return rng.integers(0, 2, (n, *shape)).astype(dtype)


def some(samples: SampleSet, n: int, seed: int) -> SampleSet:
    """At most n of a set, as evenly over the classes as they allow; the same ones for the same seed."""
    if len(samples) <= n:
        return samples
    index = arrays.choose(samples.y, len(samples), n, seed, f"data.{samples.role}")
    return chosen(samples, index, f"{n:,} of these")


def chosen(samples: SampleSet, index: NDArray[np.int64], told: str) -> SampleSet:
    """These samples of a set.

    Args:
        samples: the set.
        index: int64 [n].
        told: how they were chosen, for the report.
    """
    x, y = samples.x[index], None if samples.y is None else samples.y[index]
    return replace(samples, x=x, y=y, sha256=digest(x, y), source=f"{samples.source}; {told}")


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


def _from_folder(
    source: DataSource, folder: Path, where: str, specs: Sequence[TensorSpec], *, seed: int, progress: Progress
) -> _Raw:
    if len(specs) > 1:
        raise DataError(
            f"{where}: {folder} holds images for one input; the model takes {', '.join(map(str, specs))}.",
            next_step=npz.HOW_SEVERAL,
        )
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
    pixels, how = image_folder.read(files, source, specs[0], where, progress)
    notes = [told, f"{len(listing.class_names)} classes in the order of their names as text", how]
    if source.part is not None:
        notes.insert(1, _share(source.part))
    if listing.others:
        notes.append(f"{listing.others} files that are no images left out")
    return _Raw(x=(pixels,), y=y, told=tuple(notes), class_names=listing.class_names)


def _chosen(source: DataSource, where: str, x: tuple[NDArray[Any], ...], y: NDArray[Any] | None, seed: int) -> _Raw:
    """Labels in their one form, and `source.samples` of them."""
    if any(array.ndim == 0 for array in x):
        raise DataError(f"{where}: x is a single number; it must be an array [N, ...].")
    n = len(x[0])
    if any(len(array) != n for array in x):
        counts = ", ".join(f"{len(array):,}" for array in x)
        raise DataError(
            f"{where}: the inputs have {counts} samples.", next_step="They must be in step: one row of each per sample."
        )
    fitted = None if y is None else arrays.labels(y, n, where)
    told_part: tuple[str, ...] = ()
    if source.part is not None:
        contents = (b"".join(np.ascontiguousarray(array[i]).tobytes() for array in x) for i in range(n))
        inside = parts.within(contents, source.part, where)
        x, n = tuple(array[inside] for array in x), len(inside)
        fitted = None if fitted is None else fitted[inside]
        told_part = (_share(source.part),)
    if source.samples is None:
        return _Raw(x=x, y=fitted, told=(_count(n), *told_part))
    chosen = arrays.choose(fitted, n, source.samples, seed, where)
    told = _count(len(chosen), n, fitted, seed)
    x, fitted = tuple(array[chosen] for array in x), None if fitted is None else fitted[chosen]
    return _Raw(x=x, y=fitted, told=(told, *told_part))


def _share(part: tuple[float, float]) -> str:
    return f"the share {part[0]:g} to {part[1]:g} of the source, by content"


def _count(n: int, of: int | None = None, y: NDArray[Any] | None = None, seed: int = 0) -> str:
    if of is None:
        return f"{n:,} samples"
    how = "picked at random"
    if y is not None and y.ndim == 1 and y.dtype.kind in "iu":
        how = f"spread evenly over {len(np.unique(y))} classes"
    return f"{n:,} of {of:,} samples, {how} (seed {seed})"
