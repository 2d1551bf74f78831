"""Makes the plan graph of a model: exported, folded, and spelt in the few ways that lowering has to know."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_onnxruntime, third_party_warnings
from edgesmith.native_log import captured
from edgesmith.progress import Progress
from edgesmith.types import Model
from targets import (
    keras_model,
    onnx_export,
    onnx_file,
    onnx_order,
    plan_batch,
    plan_normalise,
    plan_scales,
    plan_split,
    plan_squeeze,
)
from targets.plan_graph import LAYERS_KEY, PlanGraph, run_batches
from targets.plan_layers import LayerNames
from targets.plan_ops import unique_node_names

OPSET = 17
"""What TensorRT 8.4 to 8.6 parse, and the first with LayerNormalization."""

_SAME = 1e-4
"""How far, relative to the largest output, a rewritten graph may be from the exported one: float32 reordering."""


def make_plan_graph(model: Model, progress: Progress) -> PlanGraph:
    """The float graph that a model's plan is decided on.

    Args:
        model: Keras or ONNX, float32.
        progress: told what is done.

    Raises:
        ModelError: it cannot be exported; names the layer.
    """
    with progress.task("plan graph"):
        if model.kind == "keras":
            return _from_keras(model)
        proto = onnx_export.from_onnx(model, at_least=onnx_export.OLDEST_OPSET)
        return _finished(proto, model, layer_names=None)


def _from_keras(model: Model) -> PlanGraph:
    """Exported with batch 1, which gives plain shapes, and opened again; with an open batch where that fails."""
    live = keras_model.load(model)
    names = LayerNames(live)
    exported = onnx_export.from_keras(model, opset=OPSET)
    single = onnx_export.from_keras(model, opset=OPSET, batch=1)
    plan_batch.open_batch(single)
    plan_normalise.layer_normalizations(single, _layer_norms(live, names, single))
    with contextlib.suppress(ModelError):
        graph = _finished(single, model, layer_names=names)
        if _same_outputs(exported, graph, model):
            return graph
    return _finished(exported, model, layer_names=names)


def _finished(proto: Any, model: Model, *, layer_names: LayerNames | None) -> PlanGraph:
    plan_squeeze.squeezes_last(proto)
    with tempfile.TemporaryDirectory() as folder, captured(), third_party_warnings():
        import_onnxruntime()
        import onnx

        plain, folded = Path(folder) / "plain.onnx", Path(folder) / "folded.onnx"
        onnx.save(proto, plain)
        try:
            onnx_export.fold(plain, folded)
        except Exception as error:
            raise ModelError(
                f"{model.origin}: its graph cannot be prepared for quantization: {onnx_export.first_line(error)}",
                next_step="Scheme 'none' or 'float16' shows whether it is the model or its quantization.",
            ) from error
        proto = onnx.load(folded)
    _refuse_control_flow(proto, model)
    plan_normalise.constants_to_initializers(proto)
    plan_split.splits_to_slices(proto)
    plan_normalise.skip_identities(proto)
    plan_scales.multipliers_folded(proto)
    plan_normalise.dense_layers(proto)
    plan_normalise.biases_behind_reshapes(proto)
    onnx_order.normalise(proto)
    unique_node_names(proto)
    plan_normalise.biases(proto)
    onnx_file.tidy(proto)
    layers = layer_names.of_nodes(proto) if layer_names else {}
    del proto.metadata_props[:]
    if layers:
        proto.metadata_props.add(key=LAYERS_KEY, value=json.dumps(layers, sort_keys=True))
    return PlanGraph(proto)


def _refuse_control_flow(proto: Any, model: Model) -> None:
    """The bodies of loops and branches are graphs of their own, whose tensors no plan names."""
    for node in proto.graph.node:
        if onnx_file.subgraphs(node):
            raise ModelError(
                f"{model.origin}: {node.name or node.output[0]} is a {node.op_type}, and a plan cannot look into it.",
                next_step="Build recurrent layers with unroll=True, or use quantize: {plan: runtime}.",
            )


def _same_outputs(exported: Any, graph: PlanGraph, model: Model) -> bool:
    """Whether the rewritten graph computes, for a batch of three, what the exported one does."""
    random = np.random.default_rng(0)
    feed = []
    for spec in model.signature.inputs:
        shape = tuple(dim if isinstance(dim, int) else 3 for dim in spec.shape)
        shape = (3, *shape[1:])
        kind = np.dtype(spec.dtype)
        feed.append(random.random(shape, np.float32) if kind.kind == "f" else random.integers(0, 2, shape).astype(kind))
    names = tuple(value.name for value in exported.graph.output)
    session = onnx_file.session(exported.SerializeToString())
    theirs = next(run_batches(session, graph.inputs, names, feed))
    try:
        with captured():  # what fails here is not used
            ours = next(graph.run(feed))
    except Exception:  # noqa: BLE001 - the runtime's errors share no base class; the exported graph is used then
        return False
    return all(
        ours[name].shape == theirs[name].shape
        and float(np.abs(ours[name] - theirs[name]).max()) <= _SAME * max(float(np.abs(theirs[name]).max()), 1e-6)
        for name in names
    )


def _layer_norms(live: Any, names: LayerNames, proto: Any) -> list[plan_normalise.LayerNorm]:
    """Every LayerNormalization over the last axis, with its nodes."""
    layers = {op.name: op for op in (getattr(live, "_functional", None) or live).layers}
    nodes: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        layer = layers.get(names.of(node.name))
        if layer is None or type(layer).__name__ != "LayerNormalization":
            continue
        axis = list(layer.axis) if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        if axis in ([-1], [len(layer.output.shape) - 1]):
            nodes.setdefault(layer.name, []).append(node)
    return [plan_normalise.layer_norm(layers[name], members) for name, members in nodes.items()]
