"""Brings models in 16-bit floats to float32: every value is kept, and what computes with them computes more exactly.

float16 and bfloat16 are subsets of float32. Calibration, plans, verification and the runtimes' integer kernels all
start from float32; scheme `float16` gives the small file back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, import_onnx

NOTE = "16-bit floats brought to float32"

_HALF = frozenset({"float16", "bfloat16"})
_POLICIES = _HALF | {"mixed_float16", "mixed_bfloat16"}
_POLICY_CLASSES = frozenset({"DTypePolicy", "FloatDTypePolicy", "Policy"})


def keras_in_float32(model: Any, *, where: str, lambdas: bool) -> tuple[Any, bool]:
    """The same Keras model with every layer in float32.

    Args:
        model: keras.Model of Keras 3, with a graph.
        where: the file, for messages.
        lambdas: it holds Lambda layers, which are not built a second time.

    Returns:
        The model itself where nothing in it is 16 bits wide, else a twin with the same values; and whether it is one.

    Raises:
        ModelError: a cast to 16 bits is part of the graph, or Lambda layers stand in the way; names the layer.
    """
    if not _has_half_layers(model):
        return _checked(model, where), False
    if lambdas:
        raise ModelError(
            f"{where}: computes in 16-bit floats and holds Lambda layers, which cannot be built again in float32.",
            next_step="Set keras.config.set_dtype_policy('float32'), build the model and load its weights, then save.",
        )
    twin = type(model).from_config(_float32_config(model.get_config()))
    keras = import_keras()
    for ours, theirs in zip(twin.variables, model.variables, strict=True):
        ours.assign(keras.ops.cast(theirs.value, ours.dtype))
    return _checked(twin, where), True


def _has_half_layers(model: Any) -> bool:
    layers = model._flatten_layers()  # noqa: SLF001 - Keras' own walk; the public `layers` stops at wrappers
    return any(getattr(getattr(layer, "dtype_policy", None), "name", "") in _POLICIES for layer in layers)


def _float32_config(value: Any) -> Any:
    """A config with 32 bits wherever a dtype or a dtype policy has 16."""
    if isinstance(value, dict):
        if value.get("class_name") in _POLICY_CLASSES and _own_name(value) in _POLICIES:
            return value | {"config": value["config"] | {"name": "float32"}}
        return {
            key: "float32" if key == "dtype" and _is(part) else _float32_config(part) for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_float32_config(part) for part in value)
    return value


def _own_name(policy: dict[str, Any]) -> object:
    config = policy.get("config")
    return config.get("name") if isinstance(config, dict) else None


def _is(part: object) -> bool:
    return isinstance(part, str) and part in _POLICIES


def _checked(model: Any, where: str) -> Any:
    """Refuses what is still 16 bits wide: casts that were written into the graph."""
    graph = getattr(model, "_functional", None) or model  # a Sequential holds its graph there
    for operation in getattr(graph, "operations", ()):
        outputs = operation.output if isinstance(operation.output, (list, tuple)) else [operation.output]
        for tensor in outputs:
            if str(getattr(tensor, "dtype", "")) in _HALF:
                raise ModelError(
                    f"{where}: {operation.name} makes {tensor.dtype}, and no dtype policy says so: it is in the graph.",
                    next_step="Take that cast out; scheme 'float16' makes a small file of a float32 model.",
                )
    return model


def onnx_in_float32(model: Any) -> bool:
    """Makes float32 of every 16-bit float of an ONNX model, in place: weights, constants, casts, inputs and outputs.

    Args:
        model: onnx.ModelProto, tensors inside, functions inlined.

    Returns:
        Whether there were any.
    """
    onnx = import_onnx()
    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    changed = False
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in halves:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
                changed = True
        for tensor in graph.initializer:
            changed |= _widen(onnx, tensor, halves)
        for node in graph.node:
            for attribute in node.attribute:
                tensors = [attribute.t] if attribute.HasField("t") else []
                for tensor in (*tensors, *attribute.tensors):
                    changed |= _widen(onnx, tensor, halves)
                if attribute.name in ("to", "dtype") and attribute.i in halves:
                    attribute.i = onnx.TensorProto.FLOAT
                    changed = True
    return changed


def _widen(onnx: Any, tensor: Any, halves: set[int]) -> bool:
    if tensor.data_type not in halves:
        return False
    values = np.asarray(onnx.numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return True


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and the bodies of its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)
