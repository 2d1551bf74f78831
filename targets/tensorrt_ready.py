"""An `.onnx` that somebody else wrote, for a Jetson as it is: nothing in it is changed, so what it holds decides.

Q/DQ asks for int8, float16 tensors for float16. What the parser of TensorRT makes of the file is told beforehand.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesmith.errors import ModelError
from edgesmith.types import Artifact, Finding, Scheme
from targets import onnx_file, tensorrt_build, tensorrt_rules, tensorrt_shapes, tensorrt_versions
from targets.base import RuntimeFacts
from targets.qdq_nodes import DEQUANTIZE
from targets.tensorrt_versions import Reads

TARGET = "tensorrt"
_FLOAT16 = 10
"""onnx.TensorProto.FLOAT16"""


def is_meant(path: Path) -> bool:
    """Whether a file was made for TensorRT: edgesmith says so in it, or it quantizes by Q/DQ."""
    if not path.is_file() or importlib.util.find_spec("onnx") is None:
        return False
    return tensorrt_build.read(path) is not None or _is_quantized(onnx_file.read(path))


def adopt(artifact: Artifact) -> Artifact:
    """A found `.onnx` as TensorRT's; a file that edgesmith wrote for it has its options already and is left alone.

    Raises:
        ModelError: its batch is fixed to more than 1, another size is open, or nothing here can read it.
    """
    if artifact.target == TARGET:
        return artifact
    path = artifact.path
    if importlib.util.find_spec("onnx") is None:
        raise ModelError(
            f"{path}: how TensorRT is to build it shows in the file, and is not read without the package onnx.",
            next_step='pip install "edgesmith[onnx]"',
        )
    for spec in artifact.signature.inputs:
        if not spec.shape or (isinstance(spec.shape[0], int) and spec.shape[0] != 1):
            raise ModelError(
                f"{path}: the batch of input {spec} is fixed, and samples are measured one at a time.",
                next_step="Export the model with batch 1 or an open batch (dynamic_axes).",
            )
    proto = onnx_file.read(path)
    half = any(tensor.data_type == _FLOAT16 for tensor in proto.graph.initializer)
    flags = ["fp16", "int8"] if _is_quantized(proto) else ["fp16"] if half else []
    return replace(
        artifact,
        target=TARGET,
        precision=artifact.precision if flags else Scheme.NONE.precision,
        build={"precision": flags, "profile": tensorrt_shapes.profile(proto, 1) or None},
    )


def for_board(artifact: Artifact, runtime: RuntimeFacts | None, device: str) -> tuple[Artifact, tuple[Finding, ...]]:
    """The artifact as one board builds it, and the rules of TensorRT that its file breaks.

    Args:
        artifact: one of `adopt`.
        runtime: what the board runs it with; None where it could not be reached.
        device: the board's name.

    Raises:
        ModelError: the board's TensorRT does not read the file, or its GPU does not compute in int8.
    """
    board = tensorrt_versions.reads(runtime)
    name, proto = artifact.path.name, onnx_file.read(artifact.path)
    broken = tensorrt_rules.violations(proto, max_opset=board.opset, needs_zero_point=board.weights == "float")
    if any(each.rule == "opset" for each in broken):
        raise ModelError(
            f"{device}: {name} has operator set {onnx_file.opset(proto)}; {board.label} there reads up to "
            f"{board.opset}.",
            next_step=f"Export it with opset {board.opset}, or use a JetPack with a newer TensorRT. A float model "
            "without `reference:` is compiled, which brings its operator set down.",
        )
    if "int8" in artifact.build.get("precision", ()) and not board.int8:
        raise ModelError(
            f"{device}: {name} is quantized, and the GPU there (compute capability {board.compute}) does not compute "
            "in int8.",
            next_step="Give the float model with `quantize: {scheme: float16}`.",
        )
    told = [each for each in broken if each.rule != "open-dimension"]  # the profile is for those
    return _typed(artifact, board), _findings(name, told)


def _typed(artifact: Artifact, board: Reads) -> Artifact:
    """Without flags where TensorRT takes precisions from the file. Files of edgesmith's own know what they are for."""
    if not board.typed or tensorrt_build.read(artifact.path) is not None:
        return artifact
    return replace(artifact, build={**artifact.build, "precision": []})


def _findings(name: str, broken: Sequence[tensorrt_rules.RuleViolation]) -> tuple[Finding, ...]:
    """One for each rule, with its first place: a network has hundreds of them."""
    counts = Counter(each.rule for each in broken)
    firsts = {each.rule: each for each in reversed(broken)}
    found = []
    for rule, count in counts.items():
        first = firsts[rule]
        where = " ".join(filter(None, (first.node, first.tensor)))
        places = f" (and {count - 1} more places)" if count > 1 else ""
        text = f"{name}: TensorRT's rule '{rule}': {where}{places}: {first.text}"
        found.append(
            Finding(severity="warning" if first.severity == "error" else "info", code="tensorrt_rule", text=text)
        )
    return tuple(found)


def _is_quantized(proto: Any) -> bool:
    return any(node.op_type == DEQUANTIZE for node in proto.graph.node)
