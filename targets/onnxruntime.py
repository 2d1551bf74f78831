"""ONNX Runtime: Keras and ONNX models to `.onnx`, int8 as QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ConfigError, ModelError
from edgesmith.files import write_bytes
from edgesmith.frameworks import import_onnxruntime, import_tensorflow, third_party_warnings
from edgesmith.native_log import captured, collected
from edgesmith.progress import Progress
from edgesmith.types import Artifact, Capabilities, Model, SampleSet, Scheme, Signature
from targets import keras_model, onnx_file, onnx_kernels, onnx_order
from targets.base import CompileRequest, TargetState, check_request, describe, packages_state

NAME = "onnxruntime"
FORMAT = "onnx"

DEFAULT_OPSET = 17
OPSETS = range(13, 19)
"""From the first with per-channel QuantizeLinear (13) to the newest that tf2onnx writes (18)."""

_PACKAGES = {"onnx": "onnx", "onnxruntime": "onnxruntime", "tf2onnx": "tf2onnx"}

kernels = onnx_kernels.kernels
tensors = onnx_file.tensors
outputs = onnx_file.outputs


def signature(path: Path) -> Signature:
    """See `targets.base.Target.signature`."""
    if importlib.util.find_spec("onnx") is None:
        return onnx_file.runtime_signature(path)
    return onnx_file.signature(onnx_file.read(path))


def state() -> TargetState:
    """See `targets.base.Target.state`."""
    return packages_state(_PACKAGES, extra="onnx")


def capabilities(board_isa: str | None = None) -> Capabilities:
    """See `targets.base.Target.capabilities`."""
    return Capabilities(
        target=NAME,
        model_kinds=frozenset({"keras", "onnx"}),
        schemes=frozenset(Scheme),
        runner="onnxruntime",
        per_isa=True,
        notes=(
            "int8 keeps float32 in and out: the first and last node of the graph quantize and dequantize.",
            f"int8 activations are {'int8' if _signed_activations(board_isa) else 'uint8'}, weights int8.",
            "uint8 activations can saturate on x86-64 processors without VNNI; the accuracy on the board shows it.",
            "Keras models keep their NHWC input: one Transpose stays at the front of the graph.",
            "float16 halves the file; CPU kernels compute in float32.",
            "dynamic is slow on convolutions.",
        ),
    )


def _signed_activations(board_isa: str | None) -> bool:
    """S8S8 on ARM; U8S8 elsewhere: on x86-64 it is 1.7 to 2.9 times faster, and as accurate."""
    return board_isa in ("aarch64", "arm64", "armv7l")


def compile(model: Model, request: CompileRequest, progress: Progress) -> Artifact:  # noqa: A001 - the verb of the contract
    """See `targets.base.Target.compile`."""
    check_request(capabilities(request.board_isa), model, request)
    if request.opset is not None and request.opset not in OPSETS:
        raise ConfigError(
            f"{NAME}: opset {request.opset} cannot be written.",
            next_step=f"Choose one from {OPSETS.start} to {OPSETS.stop - 1}; the default is {DEFAULT_OPSET}.",
        )
    calibration = request.calibration if request.scheme.needs_calibration else None
    path = request.out_dir / f"{request.name}.{FORMAT}"
    with progress.task(f"{NAME} {request.scheme}", total=len(calibration) if calibration else None) as task:
        proto = _from_keras(model, request) if model.kind == "keras" else _from_onnx(model, request)
        if request.scheme is not Scheme.NONE:
            with _telling_what_failed(model, request.scheme):
                proto = _quantized(proto, request, calibration, task.advance)
            onnx_order.normalise(proto)
        onnx_file.tidy(proto)
        write_bytes(path, proto.SerializeToString(deterministic=True))
    packages = [*_PACKAGES.values(), *(("tensorflow", "keras") if model.kind == "keras" else ())]
    return describe(NAME, FORMAT, path, model, request.scheme, signature(path), kernels(path), packages)


def _from_keras(model: Model, request: CompileRequest) -> Any:
    """The float graph, with an open batch called N."""
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
            tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=spec.name)
            for tensor, spec in zip(live.inputs, model.signature.inputs, strict=True)
        ]
        try:
            proto, _ = tf2onnx.convert.from_keras(
                live,
                input_signature=specs if len(specs) == 1 else [specs],
                opset=request.opset or DEFAULT_OPSET,
                optimizers=passes,
            )
        except Exception as error:
            raise ModelError(f"{NAME}: {model.origin} cannot be exported: {_first_line(error)}") from error
    _refuse_unconverted(model, [record.getMessage() for record in complaints])
    onnx_file.name_batch(proto)
    onnx_order.normalise(proto)
    return proto


def _refuse_unconverted(model: Model, complaints: list[str]) -> None:
    """The exporter logs an op it does not know and writes a graph that no runtime can load."""
    missing = [found for text in complaints for found in re.findall(r"op \[([^:\]]+): (\w+)\] is not supported", text)]
    if missing:
        what = sorted({_SPOKEN.get(op, op) for _, op in missing})
        raise ModelError(
            f"{NAME}: {model.origin} uses {', '.join(what)}, which ONNX does not have "
            f"(at {', '.join(sorted({place for place, _ in missing}))}).",
            next_step="Express it with other layers, or leave 'onnxruntime' out of `targets`.",
        )


_SPOKEN = {"StatefulPartitionedCall": "a function that Keras compiles by itself (a grouped convolution is one)"}
"""Ops whose name says nothing to whoever wrote the model."""


def _from_onnx(model: Model, request: CompileRequest) -> Any:
    """The user's own graph, brought to the opset asked for, or to one that can be quantized per channel."""
    import onnx

    proto = onnx_file.read(model.path)
    if foreign := onnx_file.foreign_ops(proto):
        raise ModelError(
            f"{NAME}: {model.origin} holds operators that ONNX Runtime's standard build or this compiler does not "
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
    wanted = request.opset or (current if request.scheme is Scheme.NONE else max(current, OPSETS.start))
    if wanted == current:
        return proto
    try:
        converted = onnx.version_converter.convert_version(proto, wanted)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:
        raise ModelError(
            f"{NAME}: {model.origin} has opset {current} and cannot be brought to {wanted}: {_first_line(error)}",
            next_step=f"Export it again with opset {wanted}.",
        ) from error
    return converted


def _quantized(proto: Any, request: CompileRequest, calibration: SampleSet | None, advance: Callable[[], None]) -> Any:
    """Folds batch normalization and constants, then applies the scheme."""
    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        plain, folded, made = (Path(folder) / f"{name}.onnx" for name in ("plain", "folded", "made"))
        onnx.save(proto, plain)
        _fold(plain, folded)
        if request.scheme is Scheme.FLOAT16:
            return _float16(onnx.load(folded))
        if calibration is None:
            quantize_dynamic(folded, made, per_channel=request.per_channel, weight_type=QuantType.QInt8)
        else:
            _quantize_static(folded, made, request, calibration, advance)
        return onnx.load(made)


def _fold(source: Path, folded: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Symbolic shape inference fails on Einsum and on loops, and then leaves a file in the working directory. ONNX's own
    # inference, which runs anyway, finds every shape that the quantizer asks for.
    quant_pre_process(source, folded, skip_symbolic_shape=True)


def _float16(proto: Any) -> Any:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = ONNXModel(convert_float_to_float16(proto, keep_io_types=True))
    halved.topological_sort()  # the casts at the inputs were appended behind the nodes that read them
    return halved.model


def _quantize_static(
    source: Path, made: Path, request: CompileRequest, calibration: SampleSet, advance: Callable[[], None]
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    signature = onnx_file.signature(onnx_file.read(source))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the samples as the quantizer asks for them; a fixed batch is filled up by repeating the last."""

        def __init__(self) -> None:
            self._batches = _batches(calibration.x, signature.inputs[0].shape[0])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            if batch is None:
                return None
            advance()
            return {signature.inputs[0].name: batch}

    quantize_static(
        source,
        made,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=request.per_channel,
        activation_type=QuantType.QInt8 if _signed_activations(request.board_isa) else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _batches(x: NDArray[Any], batch: object) -> Iterator[NDArray[Any]]:
    size = batch if isinstance(batch, int) else 1
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


@contextlib.contextmanager
def _telling_what_failed(model: Model, scheme: Scheme) -> Iterator[None]:
    """Turns the quantizer's exceptions, and the errors that it only logs, into a ModelError."""
    with captured(), third_party_warnings(), collected("onnxruntime") as ours, collected("root") as roots:
        try:
            yield
        except Exception as error:
            raise _refusal(model, scheme, _first_line(error)) from error
    logged = [r.getMessage() for r in (*ours, *roots) if r.levelname in ("ERROR", "CRITICAL")]
    if logged:
        raise _refusal(model, scheme, " ".join(logged))


def _refusal(model: Model, scheme: Scheme, why: str) -> ModelError:
    return ModelError(
        f"{NAME}: scheme '{scheme}' cannot be applied to {model.origin}: {why[:500]}",
        next_step="Scheme 'none' shows whether it is the model or its quantization.",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.partition("\n")[0] if text else type(error).__name__
