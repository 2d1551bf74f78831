"""Brings a model into the ONNX graph that its artifacts are made from: exported, or the user's own, in float32."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_tensorflow, third_party_warnings
from edgesmith.native_log import captured, collected
from edgesmith.types import Model
from targets import keras_model, onnx_file, onnx_order

_TARGET = "onnxruntime"
"""The target whose words errors use."""

OLDEST_OPSET = 13
"""The first with per-channel QuantizeLinear."""


def from_keras(model: Model, *, opset: int, batch: int | None = None) -> Any:
    """The float graph of a Keras model.

    Args:
        model: kind "keras".
        opset: to write.
        batch: a fixed one; None: open, called N.

    Raises:
        ModelError: it holds something that ONNX does not have; names the layer.
    """
    live = keras_model.load(model)
    tf = import_tensorflow()
    with captured(), third_party_warnings(), collected("tf2onnx") as complaints:
        import tf2onnx
        from tf2onnx.optimizer import _get_optimizers

        tf2onnx.utils.INTERNAL_NAME = onnx_order.FIRST_GENERATED
        # Which of two equal nodes this pass keeps depends on memory addresses; `normalise` merges constants instead,
        # and ONNX Runtime shares equal nodes when it loads the file.
        passes = {name: make for name, make in _get_optimizers().items() if name != "merge_duplication"}
        specs = [
            tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name=spec.name)
            for tensor, spec in zip(live.inputs, model.signature.inputs, strict=True)
        ]
        try:
            proto, _ = tf2onnx.convert.from_keras(
                live,
                input_signature=specs if len(specs) == 1 else [specs],
                opset=opset,
                optimizers=passes,
                custom_op_handlers={"Erfc": (_erfc, [])},
            )
        except Exception as error:
            raise ModelError(f"{_TARGET}: {model.origin} cannot be exported: {first_line(error)}") from error
    _refuse_unconverted(model, [record.getMessage() for record in complaints])
    _in_order(proto, [spec.name for spec in model.signature.inputs])
    onnx_file.name_batch(proto)
    onnx_order.normalise(proto)
    return proto


def _in_order(proto: Any, names: list[str]) -> None:
    """Lists the inputs in the model's order, whatever the exporter's is."""
    listed = {value.name: type(value).FromString(value.SerializeToString()) for value in proto.graph.input}
    if list(listed) != names and set(listed) == set(names):
        del proto.graph.input[:]
        proto.graph.input.extend(listed[name] for name in names)


def _erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    """The complementary error function of the exact GELU, which tf2onnx has no rule for: 1 - Erf(x)."""
    del args
    import numpy as np

    dtypes, shapes = node.output_dtypes, node.output_shapes
    result = node.output[0]
    ctx.remove_node(node.name)
    erf = ctx.make_node("Erf", node.input, op_name_scope=name, dtypes=dtypes, shapes=shapes)
    one = ctx.make_const(f"{name}/one", np.array(1.0, np.float32))
    ctx.make_node("Sub", [one.output[0], erf.output[0]], outputs=[result], name=name, dtypes=dtypes, shapes=shapes)


def _refuse_unconverted(model: Model, complaints: list[str]) -> None:
    """The exporter logs an op it does not know and writes a graph that no runtime can load."""
    missing = [found for text in complaints for found in re.findall(r"op \[([^:\]]+): (\w+)\] is not supported", text)]
    if missing:
        what = sorted({_SPOKEN.get(op, op) for _, op in missing})
        raise ModelError(
            f"{_TARGET}: {model.origin} uses {', '.join(what)}, which ONNX does not have "
            f"(at {', '.join(sorted({place for place, _ in missing}))}).",
            next_step="Express it with other layers, or leave 'onnxruntime' out of `targets`.",
        )


_SPOKEN = {"StatefulPartitionedCall": "a function that Keras compiles by itself (a grouped convolution is one)"}
"""Ops whose name says nothing to whoever wrote the model."""


def from_onnx(model: Model, *, opset: int | None = None, at_least: int = 0) -> Any:
    """The user's own graph.

    Args:
        model: kind "onnx".
        opset: to bring it to; None: its own, if that is not below `at_least`.
        at_least: the oldest that will do.

    Raises:
        ModelError: foreign operators, not the file that was read, or an opset that cannot be converted.
    """
    import onnx

    proto = onnx_file.read(model.path)
    if foreign := onnx_file.foreign_ops(proto):
        raise ModelError(
            f"{_TARGET}: {model.origin} holds operators that ONNX Runtime's standard build or this compiler does not "
            f"take: {', '.join(foreign)}.",
            next_step="Export the network alone, without custom or ai.onnx.ml operators.",
        )
    found = onnx_file.signature(proto)
    if found != model.signature:
        raise ModelError(
            f"{model.path}: it has {', '.join(map(str, found.inputs + found.outputs))}; "
            f"{', '.join(map(str, model.signature.inputs + model.signature.outputs))} was expected.",
            next_step="The file changed since it was read, or belongs to another model. Run again from the start.",
        )
    onnx_file.tidy(proto)
    current = onnx_file.opset(proto)
    wanted = opset or max(current, at_least)
    if wanted == current:
        return proto
    try:
        converted = onnx.version_converter.convert_version(proto, wanted)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:
        raise ModelError(
            f"{_TARGET}: {model.origin} has opset {current} and cannot be brought to {wanted}: {first_line(error)}",
            next_step=f"Export it again with opset {wanted}.",
        ) from error
    return converted


def fold(source: Path, folded: Path) -> None:
    """Folds constants and batch normalization into the weights, and infers shapes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Symbolic shape inference fails on Einsum and on loops, and then leaves a file in the working directory. ONNX's own
    # inference, which runs anyway, finds every shape that the quantizer asks for.
    quant_pre_process(source, folded, skip_symbolic_shape=True)


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    text = str(error).strip()
    return text.partition("\n")[0] if text else type(error).__name__
