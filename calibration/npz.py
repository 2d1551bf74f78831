"""What a `.npz` holds: the samples `x`, or an array per input by name, and the labels `y`. No pickle is opened."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesmith.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesmith.types import TensorSpec

HOW_SEVERAL = (
    "Give an .npz with one array per input, named as the model names them, or a package.module:function whose x is "
    "a dict of such arrays."
)
_LABELS = "y"


def read(path: Path, where: str, specs: Sequence[TensorSpec]) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None]:
    """The arrays of a `.npz`, as they are.

    Args:
        path: the file.
        where: the set, for messages.
        specs: the model's inputs; several are looked for by their names.

    Returns:
        One array per input, and the labels or None.

    Raises:
        DataError: no `.npz`, damaged, an array is missing, or holds Python objects.
    """
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{where}: {path} holds one bare array, not a .npz of x and y.")
            _refuse_missing(archive, path, where, specs)
            names = ["x"] if len(specs) == 1 else [spec.name for spec in specs]
            x = tuple(_member(archive, name, path, where) for name in names)
            y = _member(archive, _LABELS, path, where) if _LABELS in archive else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        detail = "it is no .npz, or a part of one" if "pickle" in str(error) else str(error)
        raise DataError(
            f"{where}: {path} cannot be read: {detail}.", next_step="Write it again with numpy.savez."
        ) from None
    return x, y


def _refuse_missing(archive: Any, path: Path, where: str, specs: Sequence[TensorSpec]) -> None:
    found = ", ".join(f"'{name}'" for name in sorted(archive)) or "nothing"
    if len(specs) == 1:
        if "x" not in archive:
            raise DataError(
                f"{where}: {path} has no array 'x'; it holds {found}.",
                next_step="Save the samples as x and the labels as y: numpy.savez(path, x=..., y=...).",
            )
        return
    names = [spec.name for spec in specs]
    if _LABELS in names:
        raise DataError(
            f"{where}: the model calls an input '{_LABELS}', and in an .npz that name is the labels'.",
            next_step="Give a package.module:function whose x is a dict of arrays by input name.",
        )
    if missing := [name for name in names if name not in archive]:
        raise DataError(
            f"{where}: {path} has no array {', '.join(map(repr, missing))}; it holds {found}. The model takes "
            f"{', '.join(map(str, specs))}.",
            next_step=f"{HOW_SEVERAL} Labels are y.",
        )


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
