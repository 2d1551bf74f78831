"""A training that was killed goes on from its last finished epoch: one `.npz`, whole or absent, no pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith import files

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where training is.

    Attributes:
        key: hash over all that the result depends on; a checkpoint of another key is not resumed.
        epochs_done: finished epochs.
        losses: mean training loss of each.
        best_epoch: 1-based epoch with the lowest validation loss; 0 = none yet.
        best_loss: that loss; None = none yet.
        stopped: early stopping has ended the training.
    """

    key: str
    epochs_done: int = 0
    losses: tuple[float, ...] = ()
    best_epoch: int = 0
    best_loss: float | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """All state of a training between two epochs."""

    position: Position
    model: Arrays
    optimizer: Arrays
    best: Arrays
    companions: tuple[Mapping[str, NDArray[Any]], ...]


def values(variables: Sequence[Any]) -> Arrays:
    """Copies of Keras variables. Types that `.npz` does not know (bfloat16) are widened, which loses nothing."""
    arrays = (np.asarray(v.numpy()) for v in variables)
    return tuple(a if a.dtype.kind in "biuf" else a.astype(np.float32) for a in arrays)


def assign(variables: Sequence[Any], arrays: Arrays) -> None:
    """The way back of `values`."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def digest(model: Any) -> str:
    """SHA-256 over all variables of a model but generator states, which are random until training begins."""
    kept = [v for v in model.variables if v.name != "seed_generator_state"]
    return files.sha256_bytes(b"".join(array.tobytes() for array in values(kept)))


def save(path: Path, snapshot: Snapshot) -> None:
    """Writes a snapshot; a crash leaves the old one or this one."""
    position = np.frombuffer(json.dumps(asdict(snapshot.position)).encode(), dtype=np.uint8)
    arrays: dict[str, NDArray[Any]] = {"position": position}
    for group in ("model", "optimizer", "best"):
        arrays |= {f"{group}:{i}": array for i, array in enumerate(getattr(snapshot, group))}
    for i, state in enumerate(snapshot.companions):
        arrays |= {f"companion{i}:{name}": array for name, array in state.items()}
    with files.replacing(path) as part, part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def load(path: Path, key: str) -> Snapshot | None:
    """Reads a snapshot.

    Args:
        path: may be absent.
        key: of the training that asks.

    Returns:
        None where there is none, it belongs to another training, or it cannot be read (a disk's fault: training then
        starts over, which costs time and nothing else).
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        fields = json.loads(arrays.pop("position").tobytes())
        position = Position(**{**fields, "losses": tuple(fields["losses"])})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    if position.key != key:
        return None
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        group, _, inner = name.partition(":")
        groups.setdefault(group, {})[inner] = array
    companions = sorted(group for group in groups if group.startswith("companion"))
    return Snapshot(
        position=position,
        model=_in_order(groups.get("model", {})),
        optimizer=_in_order(groups.get("optimizer", {})),
        best=_in_order(groups.get("best", {})),
        companions=tuple(groups[group] for group in companions),
    )


def _in_order(group: Mapping[str, NDArray[Any]]) -> Arrays:
    return tuple(group[str(i)] for i in range(len(group)))
