"""A plan with its numbers: what every lowering takes, and the folder that holds it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from edgesmith.errors import ModelError
from edgesmith.files import replacing, sha256_file, write_bytes, write_text
from edgesmith.types import QuantPlan

if TYPE_CHECKING:
    from targets.plan_graph import PlanGraph

SCHEMA_VERSION = 1

PLAN, GRAPH, INTEGERS = "plan.json", "graph.onnx", "integers.npz"
"""The files of a plan's folder."""

ORIGINAL = "original.onnx"
"""Beside a plan that a run made: the plan graph before the repairs, which tells the tensors of other formats."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned:
    """What every lowering takes.

    Attributes:
        plan: scales, zero points, precisions.
        graph: the float network after the repairs; tensors and ops of the plan are named as in it.
        integers: weights of every op with `OpPlan.weights`, by op name, in the layout of the plan graph; int8 also
            where they hold int4 values. Float value = scale * integer.
    """

    plan: QuantPlan
    graph: PlanGraph
    integers: Mapping[str, NDArray[np.int8]]


class _Document(BaseModel):
    """`plan.json`. The hashes tell a folder whose writing was cut short, or that was edited by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: int = SCHEMA_VERSION
    graph_sha256: str
    integers_sha256: str
    plan: QuantPlan


def write(planned: Planned, folder: Path) -> None:
    """Writes a plan's folder; equal plans become equal bytes. `plan.json` comes last: with it the folder is whole.

    Args:
        planned: the plan.
        folder: made where it is not there; a plan in it is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).unlink(missing_ok=True)
    with replacing(folder / GRAPH) as part:
        planned.graph.write(part)
    write_bytes(folder / INTEGERS, _npz(planned.integers))
    document = _Document(
        graph_sha256=sha256_file(folder / GRAPH), integers_sha256=sha256_file(folder / INTEGERS), plan=planned.plan
    )
    write_text(folder / PLAN, document.model_dump_json(indent=2) + "\n")


def read(folder: Path) -> Planned:
    """Reads what `write` wrote.

    Raises:
        ModelError: a file is missing, damaged, of another schema version, or does not belong to the others.
    """
    from targets.plan_graph import PlanGraph

    try:
        document = _Document.model_validate_json((folder / PLAN).read_bytes())
        if document.schema_version != SCHEMA_VERSION:
            raise _unreadable(folder / PLAN, f"schema version {document.schema_version}, not {SCHEMA_VERSION}")
        for name, sha256 in ((GRAPH, document.graph_sha256), (INTEGERS, document.integers_sha256)):
            if sha256_file(folder / name) != sha256:
                raise _unreadable(folder / name, f"it is not the file that {PLAN} was written with")
        with np.load(folder / INTEGERS, allow_pickle=False) as arrays:
            integers = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise _unreadable(folder, f"{error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _unreadable(folder / PLAN, f"{where or 'the file'}: {first['msg']}") from error
    return Planned(plan=document.plan, graph=PlanGraph.read(folder / GRAPH), integers=integers)


def _npz(arrays: Mapping[str, NDArray[np.int8]]) -> bytes:
    """As `numpy.savez`, which takes no array called "file"; in the order of the names, without a date."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            held = io.BytesIO()
            np.lib.format.write_array(held, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), held.getvalue())
    return stream.getvalue()


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: no sound quantization plan: {why}.", next_step="Make the plan again.")
