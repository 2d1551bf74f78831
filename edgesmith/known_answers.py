"""A few samples with what a board answered to them in a run: kept in the run folder, for the smoke check of a release.

`answers/inputs.npy` are the samples, `answers/<device>-<target>-<variant>-<output>.npy` the board's raw outputs. They
are the board's own, not this machine's: the same int8 file differs by up to 80 steps between processors, and by none
on the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesmith.errors import InputError
from edgesmith.files import safe_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FOLDER = "answers"
_SAMPLES = 8
_LARGEST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownAnswers:
    """Samples [N, ...] and the raw outputs [N, ...] that a board gave for them."""

    x: NDArray[Any]
    outputs: tuple[NDArray[Any], ...]


def keep(
    folder: Path, device: str, target: str, variant: str, x: NDArray[Any], outputs: Sequence[NDArray[Any]]
) -> None:
    """Writes the answers of one artifact on one board.

    Args:
        folder: the run folder.
        device: the board.
        target: with `variant`, the artifact.
        variant: "float" or "compressed".
        x: the evaluation samples.
        outputs: for all of them, raw.
    """
    import numpy as np

    fits = max(1, _LARGEST_BYTES // max(1, x[:1].nbytes))
    index = np.unique(np.linspace(0, len(x) - 1, num=min(_SAMPLES, fits, len(x)), dtype=np.int64))
    place = folder / _FOLDER
    place.mkdir(exist_ok=True)
    np.save(place / "inputs.npy", x[index], allow_pickle=False)
    for number, output in enumerate(outputs):
        np.save(place / f"{_stem(device, target, variant)}-{number}.npy", output[index], allow_pickle=False)


def are_kept(folder: Path, device: str, target: str, variant: str) -> bool:
    """Whether `read` finds any."""
    return (folder / _FOLDER / f"{_stem(device, target, variant)}-0.npy").is_file()


def read(folder: Path, device: str, target: str, variant: str) -> KnownAnswers:
    """What `keep` wrote.

    Raises:
        InputError: nothing was kept, as by an earlier edgesmith.
    """
    import numpy as np

    place, stem = folder / _FOLDER, _stem(device, target, variant)
    outputs: list[NDArray[Any]] = []
    while (file := place / f"{stem}-{len(outputs)}.npy").is_file():
        outputs.append(np.load(file, allow_pickle=False))
    inputs = place / "inputs.npy"
    if not outputs or not inputs.is_file():
        raise InputError(
            f"{folder}: the run kept no answers of {device} ({target} {variant}): a release could not be checked.",
            next_step="Run again: what did not change is taken from the store.",
        )
    return KnownAnswers(x=np.load(inputs, allow_pickle=False), outputs=tuple(outputs))


def _stem(device: str, target: str, variant: str) -> str:
    return f"{safe_name(device)}-{target}-{variant}"
