"""An ONNX network with a plan, and requests to compile it for one TensorRT or another. No framework is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgesmith.files import sha256_file
from edgesmith.types import Model, SampleSet, Scheme
from targets import onnx_file, plan_files
from targets.base import CompileRequest, RuntimeFacts
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from tests import tiny_networks, tiny_plans

NANO = RuntimeFacts(version="8.2.1", compute="5.3")
TX2 = RuntimeFacts(version="8.2.1", compute="6.2")
XAVIER_JP4 = RuntimeFacts(version="8.2.1", compute="7.2")
XAVIER_JP5 = RuntimeFacts(version="8.5.2", compute="7.2")
ORIN_JP6 = RuntimeFacts(version="10.3.0", compute="8.7")
ORIN_11 = RuntimeFacts(version="11.4.1", compute="8.7")
THOR = RuntimeFacts(version="10.13.3", compute="11.0")

BOARDS = (NANO, TX2, XAVIER_JP4, XAVIER_JP5, ORIN_JP6, ORIN_11, THOR)


def saved(graph: PlanGraph, folder: Path, name: str = "net") -> Model:
    """The graph as a user's model."""
    path = folder / f"{name}.onnx"
    path.write_bytes(graph.proto.SerializeToString(deterministic=True))
    return Model(
        kind="onnx",
        path=path,
        sha256=sha256_file(path),
        signature=onnx_file.signature(graph.proto),
        origin=f"ONNX {path.name}",
        parameters=1,
    )


def planned_in(folder: Path, planned: Planned) -> Path:
    """The plan's folder, as a run leaves it."""
    plan_files.write(planned, folder / "plan")
    planned.graph.write(folder / "plan" / plan_files.ORIGINAL)
    return folder / "plan"


def samples(n: int = 4) -> SampleSet:
    """For `tiny_plans.network`."""
    return tiny_networks.samples(np.ascontiguousarray(tiny_plans.images(n)))


def request(scheme: Scheme, folder: Path, runtime: RuntimeFacts | None, **changes: Any) -> CompileRequest:
    """What a run would ask for; with the plan in `folder`, where there is one."""
    plan = folder / "plan"
    told: dict[str, Any] = {
        "scheme": scheme,
        "out_dir": folder,
        "name": f"{scheme}-{runtime.version if runtime else 'any'}",
        "calibration": samples(),
        "plan": plan if plan.is_dir() and scheme.needs_calibration else None,
        "runtime": runtime,
    }
    return CompileRequest(**{**told, **changes})
