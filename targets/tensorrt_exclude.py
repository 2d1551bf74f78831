"""The next int8 file after a board's builder found no kernel for some of its nodes: the same, with those in float.

GPUs up to compute capability 7.5 lack int8 kernels for some layers ("could not find any implementation for node"), and
which they are shows only when the board builds. Scales and integers of all others stay; a kernel whose product is now
computed in float keeps its planned rounding, which its bias was corrected for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgesmith.errors import InternalError, ModelError
from edgesmith.progress import Progress
from edgesmith.types import Artifact, Model
from targets import onnx_file, plan_files, tensorrt, tensorrt_placement, tensorrt_versions
from targets.base import CompileRequest
from targets.plan_files import Planned
from targets.plan_ops import PlanOp

_BEFORE = ("QuantizeLinear", "DequantizeLinear", "Cast")
"""Nodes that belong to the ops that read what they make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A file with fewer ops in int8.

    Attributes:
        artifact: the file.
        request: that it was made by: what to exclude from next, where the board finds no kernel for another node.
        ops: names of the plan's ops that are in float now and were not before.
        layers: the user's own layers they belong to.
    """

    artifact: Artifact
    request: CompileRequest
    ops: tuple[str, ...]
    layers: tuple[str, ...]


def int8_ops(request: CompileRequest, artifact: Artifact, nodes: Collection[str]) -> tuple[PlanOp, ...]:
    """The plan's ops that compute in int8 in a file and that some of its nodes belong to.

    Args:
        request: that the artifact was made by; with a plan.
        artifact: the file that the board could not build.
        nodes: names of its ONNX nodes, as the builder on the board told them.

    Raises:
        ModelError: there are none, so that leaving them in float would change nothing.
    """
    if request.plan is None:
        raise InternalError("a file without a plan has nothing in int8.")
    planned = plan_files.read(request.plan)
    board = tensorrt_versions.reads(request.runtime)
    found = _ops_behind(artifact, planned, nodes, tensorrt.in_float(planned, board, request.float_ops))
    if not found:
        raise ModelError(
            f"{artifact.path.name}: the board cannot build {', '.join(sorted(nodes)) or 'it'}, and it is not for int8: "
            "nothing of it is computed in int8.",
            next_step="Scheme 'float16' shows whether the board can build the network at all.",
        )
    return tuple(found)


def exclude(
    model: Model, request: CompileRequest, artifact: Artifact, nodes: Collection[str], progress: Progress
) -> Excluded:
    """Makes the file again without int8 around some nodes.

    Args:
        model: as the artifact was made from.
        request: that the artifact was made by; with a plan.
        artifact: the file that the board could not build.
        nodes: names of its ONNX nodes, as the builder on the board told them.
        progress: told what is done.

    Raises:
        ModelError: none of the nodes computes in int8, so that leaving it in float would change nothing.
    """
    found = int8_ops(request, artifact, nodes)
    floats = request.float_ops | {op.name for op in found}
    next_request = dataclasses.replace(request, float_ops=floats, name=f"{_stem(request)}-{len(floats)}-in-float")
    return Excluded(
        artifact=tensorrt.compile(model, next_request, progress),
        request=next_request,
        ops=tuple(op.name for op in found),
        layers=tuple(dict.fromkeys(op.layer for op in found)),
    )


def _stem(request: CompileRequest) -> str:
    """The name before anything was excluded."""
    return request.name.removesuffix(f"-{len(request.float_ops)}-in-float")


def _ops_behind(
    artifact: Artifact, planned: Planned, nodes: Collection[str], floats: Mapping[str, str]
) -> list[PlanOp]:
    """The ops that compute in int8 in a file and have one of these nodes, in the plan's order."""
    named = set(_readers_of_grids(onnx_file.read(artifact.path), nodes))
    reads = tensorrt_placement.place(planned, floats).reads
    return [op for op in planned.graph.ops if reads.get(op.name) and named.intersection(op.nodes)]


def _readers_of_grids(proto: Any, nodes: Collection[str]) -> Iterator[str]:
    """The nodes themselves; for a Q, a DQ or a Cast those that it leads to."""
    by_name = {node.name: node for node in proto.graph.node}
    readers: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    waiting = [by_name[name] for name in nodes if name in by_name]
    while waiting:
        node = waiting.pop()
        if node.op_type in _BEFORE:
            waiting += readers.get(node.output[0], [])
        else:
            yield str(node.name)
