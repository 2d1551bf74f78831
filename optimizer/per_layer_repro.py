"""A layer that went wrong, cut out: one sample, what goes in and comes out on both sides, and the layer as a model."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.files import write_bytes, write_json
from optimizer.per_layer import PerLayer, TensorRow, float_tensors
from optimizer.tensor_sums import decibels
from targets import onnx_file
from targets.artifact_tensors import ArtifactTensors
from targets.plan_cut import Cut, cut

MANIFEST = "repro.json"
PARTS = ("sample", "float_before", "float_after", "artifact_before", "artifact_after", "expected_after")

Array = NDArray[Any]


def write_repro(
    found: PerLayer, row: TensorRow, artifact: ArtifactTensors, x: Array, folder: Path, *, command: Sequence[str]
) -> tuple[Path, ...]:
    """Writes the smallest thing that shows a layer's error. Files of an earlier one in the folder are replaced.

    sample.npy is the network's input, [1, ...] (one file per input where there are several). float_before_I.npy and
    artifact_before_I.npy are what the layer reads, input I of layer.onnx; float_after.npy and artifact_after.npy what
    it makes; expected_after.npy is what layer.onnx makes of the artifact's inputs. All are float32, dequantized, in the
    layout of layer.onnx. What the artifact does not have is left out.

    Args:
        found: the comparison.
        row: the layer.
        artifact: the open file.
        x: the samples that were compared.
        folder: made where it is not there.
        command: what was called, as a list of arguments.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / name for kind in PARTS for name in (f"{kind}.npy", *_numbered(folder, kind))):
        stale.unlink(missing_ok=True)
    sample = x[found.worst_sample : found.worst_sample + 1]
    ours, theirs = float_tensors(found.graph, sample), artifact.run(sample)
    columns = inputs.split(sample)
    given: dict[str, Array] = dict(zip(found.graph.inputs, columns, strict=True))
    given.update((name, pair.planned(theirs[pair.name], ours[name].shape)[0]) for name, pair in found.pairs.items())
    shapes = {name: values.shape[1:] for name, values in ours.items()}
    part = cut(found.graph, row.tensor, set(found.pairs), shapes)
    arrays = {"sample" if len(columns) == 1 else f"sample_{i}": column for i, column in enumerate(columns)}
    for index, name in enumerate(part.inputs if part else ()):
        arrays[f"float_before_{index}"] = ours[name][0] if name in ours else given[name]
        arrays[f"artifact_before_{index}"] = given[name]
    arrays["float_after"], arrays["artifact_after"] = ours[row.tensor][0], given[row.tensor]
    written = []
    (folder / "layer.onnx").unlink(missing_ok=True)
    if part is not None:
        written.append(folder / "layer.onnx")
        write_bytes(written[-1], part.proto.SerializeToString(deterministic=True))
        arrays["expected_after"] = _run(part, [given[name] for name in part.inputs])
    for name, values in arrays.items():
        written.append(folder / f"{name}.npy")
        _save(written[-1], values)
    written.append(folder / MANIFEST)
    write_json(written[-1], _manifest(found, row, part, arrays, command))
    return tuple(written)


def _run(part: Cut, values: Sequence[Array]) -> Array:
    session = onnx_file.session(part.proto.SerializeToString())
    feed = {name: np.ascontiguousarray(array) for name, array in zip(part.inputs, values, strict=True)}
    made: Array = session.run([part.output], feed)[0]
    return made


def _manifest(
    found: PerLayer, row: TensorRow, part: Cut | None, arrays: dict[str, Array], command: Sequence[str]
) -> dict[str, Any]:
    right, wrong = (arrays[name].astype(np.float64) for name in ("float_after", "artifact_after"))
    here = decibels(float(np.square(right).sum()), float(np.square(right - wrong).sum()))
    return {
        "layer": row.layer,
        "kind": row.kind,
        "tensor": row.tensor,
        "artifact_tensor": row.artifact_tensor,
        "reads": list(part.inputs) if part else [],
        "sqnr_db": number(row.sqnr_db),
        "own_sqnr_db": number(row.own_sqnr_db),
        "min_sqnr_db": found.min_sqnr_db,
        "sample_index": found.worst_sample,
        "sample_sqnr_db": number(here),
        "grid": None if row.grid is None else asdict(row.grid),
        "saturated": row.saturated,
        "values": row.values,
        "dead_channels": row.dead_channels,
        "files": sorted([f"{name}.npy" for name in arrays] + (["layer.onnx"] if part else [])),
        "command": list(command),
    }


def number(value: float | None) -> float | None:
    """JSON has no infinity: null."""
    return value if value is not None and math.isfinite(value) else None


def _numbered(folder: Path, kind: str) -> list[str]:
    return [path.name for path in folder.glob(f"{kind}_[0-9]*.npy")]


def _save(path: Path, values: Array) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    write_bytes(path, buffer.getvalue())
