"""Spells a float graph in what an older ONNX parser reads: an earlier operator set, and ops that it has importers for.

Op definitions: https://onnx.ai/onnx/operators/, version histories.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from edgesmith.errors import ModelError
from targets import onnx_file
from targets.plan_graph import LAYERS_KEY

_ADAPTED = 17
"""The opset down to which `onnx.version_converter` is asked; below it lacks adapters for operators that only got more
types."""

_SINCE = {"LayerNormalization": 17, "HardSwish": 14}
"""Ops that can be spelt in others, and the opset that brought them."""


def at_most(proto: Any, opset: int, *, lacks: Collection[str] = ()) -> Any:
    """A copy of a graph in an earlier operator set where its own is later; names stay.

    Args:
        proto: onnx.ModelProto.
        opset: the newest that the parser reads; 13 or later.
        lacks: ops of that set that the parser does not read.

    Raises:
        ModelError: the network uses operators that this opset does not have.
    """
    import onnx

    twin = type(proto)()
    twin.CopyFrom(proto)
    current = onnx_file.opset(twin)
    try:
        if current > opset and current > _ADAPTED:
            twin = onnx.version_converter.convert_version(twin, max(opset, _ADAPTED))
        spell_out(twin, {*lacks, *(op for op, since in _SINCE.items() if opset < since)})
        if current <= opset:
            return twin
        _drop_new_defaults(twin, opset)
        # Down to 13, no operator that both have means something else; new ones and new attributes the checker finds.
        next(entry for entry in twin.opset_import if entry.domain in onnx_file.STANDARD_DOMAINS).version = opset
        onnx.checker.check_model(twin, full_check=True)
    except ModelError:
        raise
    except Exception as error:
        raise _not_at(opset, current, " ".join(str(error).split())[:300]) from error
    names = {node.name for node in twin.graph.node}
    if lost := [node.name for node in proto.graph.node if node.name not in names]:
        raise _not_at(opset, current, f"the conversion loses node {lost[0]}")
    if changed := [node.name for node in twin.graph.node if node.op_type == "RoiAlign"]:
        raise _not_at(opset, current, f"{changed[0]}: RoiAlign has other defaults there")
    return twin


def _drop_new_defaults(proto: Any, opset: int) -> None:
    """Attributes that an older set does not have go where they say what it does anyway: a Reshape's allowzero of 0."""
    import onnx

    for node in proto.graph.node:
        if node.domain not in onnx_file.STANDARD_DOMAINS or not onnx.defs.has(node.op_type, opset):
            continue
        old = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset).attributes
        new = onnx.defs.get_schema(node.op_type, max_inclusive_version=onnx_file.opset(proto)).attributes
        for name in {each.name for each in node.attribute} - set(old):
            said = next(each for each in node.attribute if each.name == name)
            if name in new and _value(said) == _value(new[name].default_value):
                node.attribute.remove(said)


def _value(attribute: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(attribute) if attribute.type else None


def _not_at(opset: int, current: int, why: str) -> ModelError:
    return ModelError(
        f"the network has opset {current} and cannot be brought to {opset}, the newest that this TensorRT reads: {why}",
        next_step="Leave out the layers that need the newer opset, or use a JetPack with a newer TensorRT.",
    )


def spell_out(proto: Any, ops: Collection[str]) -> None:
    """Writes ops in others, in place; the last node of each keeps the name and the output.

    Args:
        proto: onnx.ModelProto of opset 17 or earlier, where it has a LayerNormalization.
        ops: op types; those that cannot be spelt are left.

    Raises:
        ModelError: a node says something that the others cannot say.
    """
    spelt = {op: _SPELLINGS[op] for op in ops if op in _SPELLINGS}
    if not any(node.op_type in spelt for node in proto.graph.node):
        return
    entry = next((entry for entry in proto.metadata_props if entry.key == LAYERS_KEY), None)
    layers: dict[str, str] = json.loads(entry.value) if entry else {}
    nodes: list[Any] = []
    for node in proto.graph.node:
        if node.op_type not in spelt:
            nodes.append(_copy(node))
            continue
        made, stored = spelt[node.op_type](node)
        nodes += made
        proto.graph.initializer.extend(stored)
        if node.name in layers:
            layers.update(dict.fromkeys((one.name for one in made), layers[node.name]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    if entry:
        entry.value = json.dumps(layers, sort_keys=True)


def drop_empty_inputs(proto: Any) -> None:
    """An empty region or scale of a Resize is left out, in place: the parser wonders at constants of no numbers."""
    empty = {tensor.name for tensor in proto.graph.initializer if 0 in tensor.dims}
    for node in proto.graph.node:
        if node.op_type == "Resize":
            node.input[:] = [name if index == 0 or name not in empty else "" for index, name in enumerate(node.input)]


def _layer_normalization(node: Any) -> tuple[list[Any], list[Any]]:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias, over the last axes."""
    from onnx import helper, numpy_helper

    said = {each.name: each for each in node.attribute}
    axis = int(said["axis"].i) if "axis" in said else -1
    epsilon = float(said["epsilon"].f) if "epsilon" in said else 1e-5
    if axis >= 0 or any(node.output[1:]):
        raise ModelError(
            f"{node.name}: a LayerNormalization with axis {axis} and {len(node.output)} outputs is not read by this "
            "TensorRT, and cannot be spelt in ops that are.",
            next_step="Export it with a negative axis and one output, or use a JetPack with TensorRT 8.6 or newer.",
        )
    axes = list(range(axis, 0))
    x, scale, bias = (*node.input, "")[:3]
    name = node.name
    stored = numpy_helper.from_array(np.array(epsilon, np.float32), f"{name}/epsilon")
    last = [scale, bias] if bias else [scale]
    centred, deviation, shaped = f"{name}/centred", f"{name}/deviation", f"{name}/shaped"
    steps = [
        ("ReduceMean", [x], f"{name}/mean", {"axes": axes, "keepdims": 1}),
        ("Sub", [x, f"{name}/mean"], centred, {}),
        ("Mul", [centred, centred], f"{name}/square", {}),
        ("ReduceMean", [f"{name}/square"], f"{name}/variance", {"axes": axes, "keepdims": 1}),
        ("Add", [f"{name}/variance", stored.name], f"{name}/above_zero", {}),
        ("Sqrt", [f"{name}/above_zero"], deviation, {}),
        ("Div", [centred, deviation], shaped, {}),
        ("Mul", [shaped, last[0]], f"{name}/scaled", {}),
        *([("Add", [f"{name}/scaled", last[1]], f"{name}/shifted", {})] if bias else []),
    ]
    nodes = [helper.make_node(op, inputs, [made], name=made, **more) for op, inputs, made, more in steps]
    nodes[-1].name, nodes[-1].output[0] = name, node.output[0]
    return nodes, [stored]


def _hard_swish(node: Any) -> tuple[list[Any], list[Any]]:
    """By its definition: x * HardSigmoid(x) with slope 1/6."""
    from onnx import helper

    gate = f"{node.name}/gate"
    return [
        helper.make_node("HardSigmoid", [node.input[0]], [gate], name=gate, alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [node.input[0], gate], [node.output[0]], name=node.name),
    ], []


_SPELLINGS: Mapping[str, Callable[[Any], tuple[list[Any], list[Any]]]] = {
    "LayerNormalization": _layer_normalization,
    "HardSwish": _hard_swish,
}


def _copy(node: Any) -> Any:
    twin = type(node)()
    twin.CopyFrom(node)
    return twin
