"""`.onnx` -> a checked, self-contained `.onnx` whose inputs are only the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_onnx
from edgesmith.types import Dim, Signature, TensorSpec
from optimizer import half_precision

OLDEST_OPSET = 8
"""Opset 8 (ONNX 1.3, 2018): older BatchNormalization and Upsample mean other things."""

INPUT_DTYPES = ("float32", "int32", "uint8")
_STANDARD_DOMAINS = ("", "ai.onnx")
_LARGEST_BYTES = (2 << 30) - (1 << 20)  # protobuf's own limit is 2 GiB
_FIRST_IR_WITHOUT_INITIALIZER_INPUTS = 4
_AGAIN = "Copy the file again from where it was made (compare sizes), or export the model again."


@dataclass(frozen=True, slots=True)
class LoadedOnnx:
    """A checked ONNX model.

    Attributes:
        proto: onnx.ModelProto, self-contained.
        changed: differs from the file: external data taken in, functions inlined, initializers removed from inputs,
            or 16-bit floats widened.
        companions: files beside the model that its tensors live in, relative to it.
        parameters: elements of its weight tensors.
        quantized: the first operator that says the model is quantized, "QLinearConv conv1"; empty for a float model.
    """

    proto: Any
    changed: bool
    companions: tuple[str, ...]
    signature: Signature
    parameters: int
    label: str
    quantized: str


def load_onnx(path: Path) -> LoadedOnnx:
    """Reads and checks an ONNX file.

    Raises:
        ModelError: damaged, external data missing, an opset below 8, an operator of another domain, an input of a
            dtype other than float32, int32 or uint8, no graph; names the node or tensor.
    """
    onnx = import_onnx()
    model, companions = _read(onnx, path)
    opset = _check_opset(onnx, path, model)
    changed = bool(companions)
    if model.functions:
        model = _inlined(path, model)
        changed = True
    _check_domains(path, model)
    changed |= _drop_initializer_inputs(model)
    changed |= _complete_outputs(onnx, path, model)
    widened = half_precision.onnx_in_float32(model)
    changed |= widened
    signature = _signature(onnx, path, model)
    _check_form(onnx, path, model)
    _check_finite(onnx, path, model)
    return LoadedOnnx(
        proto=model,
        changed=changed,
        companions=companions,
        signature=signature,
        parameters=sum(int(np.prod(tensor.dims)) for tensor in weights(onnx, model)),
        label=f"ONNX opset {opset}, {half_precision.NOTE}:" if widened else f"ONNX opset {opset}",
        quantized=_quantized(model),
    )


_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    | {"ConvInteger", "MatMulInteger"}
)


def _quantized(model: Any) -> str:
    first = next((node for node in _nodes(model.graph) if node.op_type in _QUANTIZED), None)
    return "" if first is None else f"{first.op_type} {first.name or first.output[0]}"


def weights(onnx: Any, model: Any) -> Iterator[Any]:
    """TensorProtos that are weights: floating point, or integers that a DequantizeLinear or an integer op reads.

    Shapes, axes and indices are constants too, but int64 and no weights. Scalars are settings, not weights.
    """
    consumers = {name for node in _nodes(model.graph) if node.op_type in _INTEGER_READERS for name in node.input}
    floating = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    for name, tensor in _constants(onnx, model.graph):
        integer = tensor.data_type not in floating and tensor.data_type != onnx.TensorProto.INT64
        if tensor.dims and (tensor.data_type in floating or (integer and name in consumers)):
            yield tensor


_INTEGER_READERS = frozenset(
    {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "Gather"}
)


def _constants(onnx: Any, graph: Any) -> Iterator[tuple[str, Any]]:
    """(name, TensorProto) of initializers and Constant nodes, subgraphs included."""
    for inner in _graphs(graph):
        yield from ((tensor.name, tensor) for tensor in inner.initializer)
        for node in inner.node:
            if node.op_type == "Constant":
                yield from (
                    (node.output[0], attribute.t)
                    for attribute in node.attribute
                    if attribute.type == onnx.AttributeProto.TENSOR
                )


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and, depth first, the bodies of its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _nodes(graph: Any) -> Iterator[Any]:
    for inner in _graphs(graph):
        yield from inner.node


def _read(onnx: Any, path: Path) -> tuple[Any, tuple[str, ...]]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships without types
    from onnx import external_data_helper

    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ModelError(f"{path}: truncated or damaged: no ONNX protobuf ({error}).", next_step=_AGAIN) from None
    if not model.graph.node:
        raise ModelError(
            f"{path}: no ONNX model: it holds no graph. The file is truncated, or of another format.", next_step=_AGAIN
        )
    external = [t for _, t in _constants(onnx, model.graph) if external_data_helper.uses_external_data(t)]
    companions = []
    for tensor in external:
        entry = external_data_helper.ExternalDataInfo(tensor)
        companions.append(entry.location)
        if not (path.parent / entry.location).is_file():
            raise ModelError(
                f"{path}: tensor {tensor.name} lives in the file {entry.location}, which is not beside the model.",
                next_step=f"Copy {entry.location} into {path.parent}, or export with all weights in one file.",
            )
    size = path.stat().st_size + sum((path.parent / name).stat().st_size for name in set(companions))
    if size > _LARGEST_BYTES:
        raise ModelError(
            f"{path}: {size >> 20} MB with its external data; one ONNX file holds 2 GB at most.",
            next_step="This tool is for networks that fit edge boards; split the model or take a smaller one.",
        )
    if external:
        try:
            external_data_helper.load_external_data_for_model(model, str(path.parent))
        except (onnx.checker.ValidationError, OSError, ValueError) as error:
            raise ModelError(
                f"{path}: its external data cannot be read: {_first_line(error)}", next_step=_AGAIN
            ) from error
        for tensor in external:
            _check_length(onnx, path, tensor)
    return model, tuple(dict.fromkeys(companions))


def _check_length(onnx: Any, path: Path, tensor: Any) -> None:
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4}.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    if bits is None:
        bits = 8 * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)
    expected = (int(np.prod(tensor.dims)) * bits + 7) // 8
    if len(tensor.raw_data) != expected:
        raise ModelError(
            f"{path}: the external data of tensor {tensor.name} has {len(tensor.raw_data)} bytes, its shape needs "
            f"{expected}: the file beside the model is truncated.",
            next_step=_AGAIN,
        )


def _check_opset(onnx: Any, path: Path, model: Any) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS]
    if not versions:
        raise ModelError(f"{path}: imports no ONNX opset.", next_step=_AGAIN)
    opset = int(max(versions))
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"{path}: opset {opset}; opset {OLDEST_OPSET} and newer can be read.",
            next_step="Export again with a newer opset (17 suits all targets), or use onnx.version_converter.",
        )
    newest = int(onnx.defs.onnx_opset_version())
    if opset > newest:
        raise ModelError(
            f"{path}: opset {opset}; onnx {onnx.__version__}, installed here, knows up to {newest}.",
            next_step="Export with opset 17, which suits all targets, or update the package onnx.",
        )
    return opset


def _inlined(path: Path, model: Any) -> Any:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path}: its local functions cannot be written out: {_first_line(error)}",
            next_step="Export without functions (torch.onnx.export(..., dynamo=False)).",
        ) from error


def _check_domains(path: Path, model: Any) -> None:
    for node in _nodes(model.graph):
        if node.domain in _STANDARD_DOMAINS:
            continue
        name = f"node {node.name}" if node.name else f"the node that makes {node.output[0]}"
        hint = (
            "Pass the model from before ONNX Runtime optimised or quantized it."
            if node.domain.startswith(("com.microsoft", "com.ms."))
            else "Export the model with standard ONNX operators only."
        )
        raise ModelError(
            f"{path}: {name} is {node.op_type} of domain {node.domain}, which is not a standard ONNX operator.",
            next_step=hint,
        )


def _drop_initializer_inputs(model: Any) -> bool:
    """Until IR 3 each initializer was an input as well: a default to override. Nothing overrides them here."""
    graph = model.graph
    initialized = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    doubled = [value for value in graph.input if value.name in initialized]
    for value in doubled:
        graph.input.remove(value)
    if initialized and model.ir_version < _FIRST_IR_WITHOUT_INITIALIZER_INPUTS:
        model.ir_version = _FIRST_IR_WITHOUT_INITIALIZER_INPUTS
        return True
    return bool(doubled)


def _check_form(onnx: Any, path: Path, model: Any) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"{path}: onnx.checker refuses it: {_first_line(error)}",
            next_step="Export the model again; if it persists, with a newer exporter.",
        ) from error


def _check_finite(onnx: Any, path: Path, model: Any) -> None:
    for tensor in weights(onnx, model):
        if tensor.data_type == onnx.TensorProto.FLOAT and not np.isfinite(onnx.numpy_helper.to_array(tensor)).all():
            raise ModelError(
                f"{path}: tensor {tensor.name} holds NaN or infinity: training diverged or the file is damaged.",
                next_step="Take an earlier checkpoint and export again.",
            )


def _complete_outputs(onnx: Any, path: Path, model: Any) -> bool:
    """Writes inferred shapes where outputs have none, which some exporters leave out and onnx.checker wants."""
    bare = [value for value in model.graph.output if not _has_shape(value)]
    if not bare:
        return False
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path}: shapes cannot be inferred: {_first_line(error)}",
            next_step="Export the model again with fixed shapes.",
        ) from error
    known = {value.name: value for value in inferred.graph.output}
    for value in bare:
        value.type.CopyFrom(known[value.name].type)
    return True


def _signature(onnx: Any, path: Path, model: Any) -> Signature:
    if not model.graph.input or not model.graph.output:
        missing = "input" if not model.graph.input else "output"
        raise ModelError(f"{path}: the graph has no {missing}.", next_step="Export the model again with named ends.")
    inputs = tuple(_spec(onnx, path, value, "input") for value in model.graph.input)
    for spec in inputs:
        if spec.dtype not in INPUT_DTYPES:
            raise ModelError(
                f"{path}: input {spec.name} is {spec.dtype}; {', '.join(INPUT_DTYPES)} can be fed.",
                next_step=f"Put a Cast to {spec.dtype} behind an int32 or float32 input when you export.",
            )
    return Signature(inputs=inputs, outputs=tuple(_spec(onnx, path, value, "output") for value in model.graph.output))


def _has_shape(value: Any) -> bool:
    return bool(value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"))


def _spec(onnx: Any, path: Path, value: Any, role: str) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "nothing"
        raise ModelError(
            f"{path}: {role} {value.name} is a {kind.removesuffix('_type')}, not a tensor.",
            next_step="Export the model with tensors at both ends.",
        )
    if not _has_shape(value):
        raise ModelError(
            f"{path}: {role} {value.name} has no shape, not even its number of dimensions.",
            next_step="Export again with shapes; only dimensions that really change may be left open.",
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    dims = tuple(_dim(dim) for dim in value.type.tensor_type.shape.dim)
    is_string = value.type.tensor_type.elem_type == onnx.TensorProto.STRING
    return TensorSpec(name=value.name, shape=dims, dtype="string" if is_string else np.dtype(dtype).name)


def _dim(dim: Any) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else None


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
