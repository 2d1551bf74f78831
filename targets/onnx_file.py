"""Reads `.onnx` files: signature, intermediate tensors, outputs; and drops what exporters leave behind.

Op semantics: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.errors import ModelError
from edgesmith.frameworks import import_onnxruntime
from edgesmith.native_log import captured
from edgesmith.types import Dim, Signature, TensorSpec

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
"""Both name the operators of the ONNX standard."""

RUNTIME_DOMAINS = frozenset({"com.microsoft"})
"""ONNX Runtime's own operators, built into every build of it."""

BATCH = 32
"""Samples that go through the runtime at once, where the batch is open."""

_DEQUANTIZED = "_DequantizeLinear_Output"
"""ONNX Runtime's quantizer calls the dequantized twin of tensor `x` by this suffix."""


def read(path: Path) -> Any:
    """The checked `onnx.ModelProto`.

    Raises:
        ModelError: it is not there, is another format, is cut short, or breaks the ONNX rules.
    """
    import onnx

    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # protobuf's DecodeError for a cut file, the checker's ValidationError for a wrong one
        raise ModelError(
            f"{path}: not a sound .onnx file: {' '.join(str(error).split())[:400]}.",
            next_step="Export it again, or copy it again.",
        ) from error
    return proto


def foreign_ops(proto: Any) -> list[str]:
    """Ops that ONNX Runtime's standard build does not have, or that are no neural-network ops: "domain:Op (node)"."""
    known = STANDARD_DOMAINS | RUNTIME_DOMAINS
    return sorted({f"{n.domain}:{n.op_type} ({n.name})" for n in proto.graph.node if n.domain not in known})


def opset(proto: Any) -> int:
    """The version of the standard operator set that it uses."""
    return next(int(entry.version) for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS)


def tidy(proto: Any) -> None:
    """Drops what exporters and optimizers leave behind: operator sets no node uses, inferred shapes, doc strings."""
    used = {"" if node.domain in STANDARD_DOMAINS else node.domain for node in proto.graph.node} | {""}
    kept = [entry for entry in proto.opset_import if ("" if entry.domain in STANDARD_DOMAINS else entry.domain) in used]
    kept = sorted(({entry.domain: entry for entry in kept}).values(), key=lambda entry: str(entry.domain))
    copies = [(entry.domain, entry.version) for entry in kept]
    del proto.opset_import[:]
    for domain, version in copies:
        proto.opset_import.add(domain=domain, version=version)
    del proto.graph.value_info[:]
    proto.graph.doc_string = proto.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""


def name_batch(proto: Any, name: str = "N") -> None:
    """Calls an open first dimension of every input and output `name`, instead of an exporter's running number."""
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = name


def signature(proto: Any) -> Signature:
    """Inputs and outputs, initializers left out; open dimensions by name, or None where they have none."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return Signature(
        inputs=tuple(_spec(value) for value in proto.graph.input if value.name not in constants),
        outputs=tuple(_spec(value) for value in proto.graph.output),
    )


def runtime_signature(path: Path) -> Signature:
    """Inputs and outputs as ONNX Runtime tells them: for boards without the `onnx` package.

    Raises:
        ModelError: the runtime refuses the file.
    """
    live = session(path)
    return Signature(
        inputs=tuple(_runtime_spec(path, value) for value in live.get_inputs()),
        outputs=tuple(_runtime_spec(path, value) for value in live.get_outputs()),
    )


def _runtime_spec(path: Path, value: Any) -> TensorSpec:
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    try:
        np.dtype(dtype)
    except TypeError:
        raise ModelError(f"{path}: its '{value.name}' is {value.type}; only plain tensors can be measured.") from None
    return TensorSpec(name=value.name, shape=tuple(value.shape), dtype=dtype)


def _spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dims: tuple[Dim, ...] = tuple(
        int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim
    )
    return TensorSpec(
        name=value.name, shape=dims, dtype=str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    )


def subgraphs(node: Any) -> list[Any]:
    """The graphs a node holds: a loop's body, an If's branches."""
    return [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]


def session(model: Path | bytes, *, as_written: bool = False, entries: Mapping[str, str] | None = None) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        model: a file, or the bytes of one.
        as_written: nothing fused or rearranged, so that every tensor of the graph is there under its name.
        entries: further settings of the session, by ONNX Runtime's own keys.

    Raises:
        ModelError: the runtime refuses it.
    """
    onnxruntime = import_onnxruntime()

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin while they wait keep a core from whoever else needs it: several times as slow where one does.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        with captured():
            return onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
    except Exception as error:  # the runtime's errors share no base class
        where = "the graph in memory" if isinstance(model, bytes) else model
        raise ModelError(f"{where}: ONNX Runtime cannot load it: {str(error).strip().partition(chr(10))[0]}") from error


def run(live: Any, x: NDArray[Any], names: list[str] | None = None) -> dict[str, NDArray[Any]]:
    """Runs all samples through a session.

    Args:
        live: the session.
        x: [N, ...]; several inputs joined (`calibration.inputs`), in the session's order. Where the model's batch is
            fixed to B, samples go in groups of B; the last group is filled up with copies of its last sample, whose
            results are dropped.
        names: tensors wanted; None for the outputs.

    Returns:
        [N, ...] by name, in order; tensors without a batch dimension are left out.
    """
    sources = live.get_inputs()
    fixed = next((source.shape[0] for source in sources if source.shape and isinstance(source.shape[0], int)), None)
    names = [out.name for out in live.get_outputs()] if names is None else names
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for start in range(0, len(x), fixed or BATCH):
        batch = x[start : start + (fixed or BATCH)]
        filler = np.repeat(batch[-1:], fixed - len(batch) if fixed else 0, axis=0)
        filled = np.concatenate([batch, filler])
        feed = {source.name: values for source, values in zip(sources, inputs.split(filled), strict=True)}
        for name, values in zip(names, live.run(names, feed), strict=True):
            if values.ndim and len(values) == len(filled):
                parts[name].append(values[: len(batch)])
    return {name: np.concatenate(groups) for name, groups in parts.items() if groups}


def outputs(path: Path, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """See `targets.base.Target.outputs`."""
    return tuple(run(session(path), x).values())


def tensors(path: Path, x: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """See `targets.base.Target.tensors`. A quantized tensor is shown dequantized, under the float tensor's name."""
    import onnx

    proto = read(path)
    computed = _computed(proto)
    present = set(computed)
    wanted = [name for name in computed if f"{name}{_DEQUANTIZED}" not in present]
    declared = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in declared)
    live = session(proto.SerializeToString(), as_written=True)
    floats = {out.name for out in live.get_outputs() if out.type in ("tensor(float)", "tensor(float16)")}
    for name, values in run(live, x, [name for name in wanted if name in floats]).items():
        yield name.removesuffix(_DEQUANTIZED), values.astype(np.float32)


def _computed(proto: Any) -> list[str]:
    """Tensors that depend on an input, in the order they are computed."""
    alive = {value.name for value in proto.graph.input} - {tensor.name for tensor in proto.graph.initializer}
    found: list[str] = []
    for node in proto.graph.node:
        if alive.intersection(node.input):
            alive.update(node.output)
            found.extend(name for name in node.output if name)
    return found
