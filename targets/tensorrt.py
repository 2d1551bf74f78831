"""TensorRT: `.onnx` files that a Jetson builds its engine from, int8 as explicit Q/DQ.

An engine belongs to one GPU and one version of TensorRT, so the board builds it. What is written here is what that
board's parser reads: its operator set, the precisions as flags or, from TensorRT 11 on, as types in the file.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgesmith.errors import ConfigError, InternalError, ModelError
from edgesmith.files import write_bytes
from edgesmith.progress import Progress
from edgesmith.types import Artifact, Capabilities, Deviation, Model, Scheme
from targets import (
    onnx_export,
    onnx_file,
    onnx_kernels,
    onnx_order,
    onnxruntime,
    plan_export,
    plan_files,
    plan_normalise,
    tensorrt_build,
    tensorrt_half,
    tensorrt_onnx,
    tensorrt_opset,
    tensorrt_rules,
    tensorrt_shapes,
    tensorrt_versions,
)
from targets.base import CompileRequest, RuntimeFacts, TargetState, check_request, describe, packages_state
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.plan_ops import unique_node_names
from targets.tensorrt_versions import OLDEST_OPSET, Reads

NAME = "tensorrt"
FORMAT = "onnx"

_PACKAGES = {"onnx": "onnx", "onnxruntime": "onnxruntime", "tf2onnx": "tf2onnx"}
NO_KERNEL = "the TensorRT of the board has no int8 kernel for it"

_INT8 = frozenset({Scheme.INT8, Scheme.INT8_FLOAT_IO})

kernels = onnx_kernels.kernels
signature = onnxruntime.signature
tensors = onnx_file.tensors


def state() -> TargetState:
    """See `targets.base.Target.state`."""
    found = packages_state(_PACKAGES, extra="tensorrt")
    return TargetState(
        available=found.available, reason=found.reason, fix=found.fix, note="engines are built on the Jetson"
    )


def capabilities(board_isa: str | None = None, runtime: RuntimeFacts | None = None) -> Capabilities:
    """See `targets.base.Target.capabilities`."""
    del board_isa  # the GPU decides
    int8 = tensorrt_versions.reads(runtime).int8
    return Capabilities(
        target=NAME,
        model_kinds=frozenset({"keras", "onnx"}),
        schemes=frozenset({Scheme.NONE, Scheme.FLOAT16, *(_INT8 if int8 else ())}),
        runner="tensorrt",
        per_runtime=True,
        jetson_only=True,
        needs_plan=True,
        stand_in="onnxruntime",
        notes=(
            "The board builds the engine from the file, and keeps it.",
            "int8 has float32 in and out, and is made from a quantization plan.",
            "Jetson Nano, TX1 and TX2 do not compute in int8: float16 is what they gain from.",
            "Before TensorRT 11 a float16 file holds float32, and the builder rounds it.",
            "The batch is 1, unless the request says more.",
        ),
    )


def compile(model: Model, request: CompileRequest, progress: Progress) -> Artifact:  # noqa: A001 - the verb of the contract
    """See `targets.base.Target.compile`."""
    check_request(capabilities(request.board_isa), model, request)
    board = tensorrt_versions.reads(request.runtime)
    opset = _opset(request, board)
    if request.scheme in _INT8 and not board.int8:
        raise ConfigError(
            f"{NAME}: scheme '{request.scheme}': the GPU of this board (compute capability {board.compute}) does not "
            "compute in int8.",
            next_step="Use scheme 'float16' for it.",
        )
    if model.quantized and not board.int8:
        raise ModelError(
            f"{NAME}: {model.origin} is quantized ({model.quantized}), and the GPU of this board (compute capability "
            f"{board.compute}) does not compute in int8.",
            next_step="Give the float model with scheme 'float16'.",
        )
    path = request.out_dir / f"{request.name}.{FORMAT}"
    with progress.task(f"{NAME} {request.scheme}"):
        proto, build, deviations = _made(model, request, board, opset, progress)
        write_bytes(path, proto.SerializeToString(deterministic=True))
    packages = [*_PACKAGES.values(), *(("tensorflow", "keras") if model.kind == "keras" else ())]
    made = describe(
        NAME, FORMAT, path, model, request.scheme, signature(path), kernels(path), packages, deviations=deviations
    )
    return replace(made, build={**build, "onnx_sha256": made.sha256})


def _opset(request: CompileRequest, board: Reads) -> int:
    """The newest operator set that the file may have.

    Raises:
        ConfigError: one was asked for that the board does not read, or that has no scales for each channel.
    """
    if request.opset is None:
        return board.opset
    if not OLDEST_OPSET <= request.opset <= board.opset:
        raise ConfigError(
            f"{NAME}: opset {request.opset} is not read by {board.label}.",
            next_step=f"Choose one from {OLDEST_OPSET} to {board.opset}, or leave it out.",
        )
    return request.opset


def _made(
    model: Model, request: CompileRequest, board: Reads, opset: int, progress: Progress
) -> tuple[Any, dict[str, Any], tuple[Deviation, ...]]:
    """The finished graph, how it is to be built, and where it does not follow its plan."""
    deviations: tuple[Deviation, ...] = ()
    wide: frozenset[str] = frozenset()
    if request.scheme in _INT8:
        if request.plan is None:
            raise InternalError(f"{NAME}: scheme '{request.scheme}' without a plan")
        planned = plan_files.read(request.plan)
        kept = in_float(planned, board, request.float_ops)
        proto, deviations = tensorrt_onnx.lower(
            planned, opset=opset, weights=board.weights, lacks=board.lacks, floats=kept
        )
        wide = _too_wide(planned)
    else:
        proto = tensorrt_opset.at_most(_float_graph(model, progress), opset, lacks=board.lacks)
    profile = tensorrt_shapes.profile(proto, request.max_batch) if request.max_batch > 1 else {}
    if not profile:
        tensorrt_shapes.fix_batch(proto)
    tensorrt_opset.drop_empty_inputs(proto)
    onnx_order.normalise(proto)
    onnx_file.tidy(proto)
    float32 = _float32_nodes(proto, wide) if request.scheme is not Scheme.NONE else ()
    if board.typed and request.scheme is not Scheme.NONE:
        proto, float32 = tensorrt_half.typed(proto, floats=float32), ()
    # Q/DQ that a float request finds in the user's network: a weakly typed builder refuses it without the flag.
    computed = Scheme.INT8_FLOAT_IO if model.quantized else request.scheme
    build = tensorrt_build.options(proto, computed, board, profile, float32)
    tensorrt_build.put_in(proto, build)
    _check(proto, opset, model, ours=request.scheme in _INT8)
    return proto, build, deviations


def in_float(planned: Planned, board: Reads, excluded: Collection[str]) -> dict[str, str]:
    """Ops that a board does not compute in int8, whatever is planned: name -> why."""
    known = {op.name: board.floats[op.kind] for op in planned.graph.ops if op.kind in board.floats}
    return {**known, **dict.fromkeys(excluded, NO_KERNEL)}


def _float_graph(model: Model, progress: Progress) -> Any:
    """The network with batch normalization folded.

    It is the graph that plans are made on, so that the float file and the int8 file differ in their numbers only, and
    its nodes know the user's layers. A network with loops has none; TensorRT reads loops.
    """
    try:
        return plan_export.make_plan_graph(model, progress).proto
    except ModelError:
        if model.kind == "keras":
            proto = onnx_export.from_keras(model, opset=plan_export.OPSET, batch=1)
        else:
            proto = onnx_export.from_onnx(model, at_least=OLDEST_OPSET)
        plan_normalise.constants_to_initializers(proto)
        unique_node_names(proto)
        return proto


def _float32_nodes(proto: Any, wide: frozenset[str]) -> tuple[str, ...]:
    """Nodes that float16 is too narrow for: those of normalizations that are spelt out, and around these tensors."""
    ops = PlanGraph(proto).ops
    found = [op for op in ops if op.kind == "LayerNorm" or wide.intersection((op.output, *op.inputs))]
    return tuple(name for op in found for name in op.nodes)


def _too_wide(planned: Planned) -> frozenset[str]:
    """Tensors whose planned range comes near the end of float16's."""
    ends = {tensor.name: (tensor.low, tensor.high) for tensor in planned.plan.tensors}
    limit = tensorrt_half.LARGEST / 2
    return frozenset(name for name, both in ends.items() if any(end is not None and abs(end) > limit for end in both))


def _check(proto: Any, opset: int, model: Model, *, ours: bool) -> None:
    """Holds a file to what TensorRT reads, before it is written.

    Raises:
        InternalError: we wrote something that it does not read.
        ModelError: the user's network holds something that it does not read.
    """
    broken = [each for each in tensorrt_rules.violations(proto, max_opset=opset) if each.severity == "error"]
    if broken and ours:
        raise InternalError(f"written for TensorRT against its rule '{broken[0].rule}': {broken[0]}")
    if broken:
        where = " ".join(filter(None, (broken[0].node, broken[0].tensor)))
        raise ModelError(f"{NAME}: {model.origin} cannot be read: {where}: {broken[0].text}")


def outputs(path: Path, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """See `targets.base.Target.outputs`. CPU emulation of Q/DQ: each node computed as it is written, none fused."""
    return tuple(onnx_file.run(onnx_file.session(path, as_written=True), x).values())
