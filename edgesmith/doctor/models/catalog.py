"""The files beside this one as artifacts, and what each must answer; no framework is needed to read them.

How far an answer may lie from what is expected, as a share of the largest expected value. On the very network
(`tests/unit/test_doctor_models.py` computes these anew):

    float32    6e-7 when every node is computed in float32         1e-4 allowed: kernels add up in other orders
    TF32       4e-4 when operands are rounded to its 10 bits       2e-3 allowed
    float16    2e-3 when sums are float16, too                     1e-2 allowed
    int8       2e-2 when half of all roundings fall otherwise      4e-2 allowed

Two different inputs have answers that are 6e-2 apart at least. That a layer computes in float although it should not
is told by the precisions of an engine's layers: the answers of both are too near.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesmith.doctor.models import EXPECTED, HERE, MANIFEST
from edgesmith.files import sha256_file
from edgesmith.types import Artifact, Signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TF32 = "TF32"
TOLERANCES = {"float32": 1e-4, TF32: 2e-3, "float16": 1e-2, "int8": 4e-2}

_TF32_SINCE = 8
"""Compute capability of Ampere: from there on TensorRT computes float32 convolutions in TF32, unless told not to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Specimen:
    """One file of the self-test.

    Attributes:
        expected: float32 [8, 10].
    """

    artifact: Artifact
    expected: NDArray[np.float32]


def specimen(name: str) -> Specimen:
    """A file by its name in the manifest: "tensorrt-weak-float32"."""
    import numpy as np

    folder = HERE
    one = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[name]
    rows = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))[name]
    return Specimen(artifact=_artifact(one, folder), expected=np.asarray(rows, dtype=np.float32))


def tolerance(precision: str, compute: str = "") -> tuple[str, float]:
    """What numbers are computed in, and the error that is allowed then.

    Args:
        precision: "float32", "float16" or "int8".
        compute: capability of the GPU; empty for a processor.
    """
    has_tf32 = bool(compute) and int(compute.partition(".")[0]) >= _TF32_SINCE
    kind = TF32 if precision == "float32" and has_tf32 else precision
    return kind, TOLERANCES[kind]


def _artifact(one: dict[str, Any], folder: Path) -> Artifact:
    path = folder / one["file"]
    return Artifact(
        target=one["target"],
        path=path,
        format=path.suffix.removeprefix("."),
        precision=one["precision"],
        # Of what is sent: a file that was damaged here would be refused by the board under its old name.
        sha256=sha256_file(path),
        signature=Signature(inputs=(), outputs=()),
        toolchain={},
        made_from="",
        size_bytes=path.stat().st_size,
        gzip_bytes=0,
        sparsity=None,
        build=one["build"],
    )
