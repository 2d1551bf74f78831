"""ONNX Runtime: Keras and ONNX models to `.onnx`, int8 as QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.errors import ConfigError, ModelError
from edgesmith.files import write_bytes
from edgesmith.frameworks import import_onnxruntime, third_party_warnings
from edgesmith.native_log import captured, collected
from edgesmith.progress import Progress
from edgesmith.types import Artifact, Capabilities, Deviation, Model, SampleSet, Scheme, Signature
from targets import onnx_export, onnx_file, onnx_kernels, onnx_order, onnx_qdq, plan_files
from targets.base import CompileRequest, RuntimeFacts, TargetState, check_request, describe, packages_state
from targets.instruction_set import is_arm, saturates

NAME = "onnxruntime"
FORMAT = "onnx"

DEFAULT_OPSET = 17
OPSETS = range(onnx_export.OLDEST_OPSET, 19)
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


def capabilities(board_isa: str | None = None, runtime: RuntimeFacts | None = None) -> Capabilities:
    """See `targets.base.Target.capabilities`."""
    del runtime  # every version reads what is written
    return Capabilities(
        target=NAME,
        model_kinds=frozenset({"keras", "onnx"}),
        schemes=frozenset(Scheme),
        runner="onnxruntime",
        per_isa=True,
        notes=(
            "int8 keeps float32 in and out: the first and last node of the graph quantize and dequantize.",
            f"int8 activations are {'int8' if is_arm(board_isa) else 'uint8'}, weights int8.",
            "On x86-64 processors without VNNI weights keep to 7 bits: products of 8 bits would saturate there.",
            "On ARM activations are int8, elsewhere uint8: on x86-64 that is 1.7 to 2.9 times faster, and as accurate.",
            "Keras models keep their NHWC input: one Transpose stays at the front of the graph.",
            "float16 halves the file; CPU kernels compute in float32.",
            "dynamic is slow on convolutions.",
        ),
    )


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
        deviations: tuple[Deviation, ...] = ()
        if request.plan is not None and request.scheme.needs_calibration:
            proto, deviations = _planned(request, request.plan)
        else:
            proto = _float_graph(model, request)
        if request.plan is None and request.scheme is not Scheme.NONE:
            with _telling_what_failed(model, request.scheme):
                proto = _quantized(proto, request, calibration, task.advance)
            onnx_order.normalise(proto)
        onnx_file.tidy(proto)
        write_bytes(path, proto.SerializeToString(deterministic=True))
    packages = [*_PACKAGES.values(), *(("tensorflow", "keras") if model.kind == "keras" else ())]
    return describe(
        NAME, FORMAT, path, model, request.scheme, signature(path), kernels(path), packages, deviations=deviations
    )


def _planned(request: CompileRequest, folder: Path) -> tuple[Any, tuple[Deviation, ...]]:
    """The plan's graph with its numbers."""
    if request.opset is not None:
        raise ConfigError(
            f"{NAME}: the opset of a planned artifact is the plan's; {request.opset} was asked for.",
            next_step="Leave the opset out, or use quantize: {plan: runtime}.",
        )
    planned = plan_files.read(folder)
    return onnx_qdq.lower(
        planned,
        activations="int8" if is_arm(request.board_isa) else "uint8",
        reduce_range=saturates(request.board_isa),
    )


def _float_graph(model: Model, request: CompileRequest) -> Any:
    if model.kind == "keras":
        return onnx_export.from_keras(model, opset=request.opset or DEFAULT_OPSET)
    at_least = 0 if request.scheme is Scheme.NONE else onnx_export.OLDEST_OPSET
    return onnx_export.from_onnx(model, opset=request.opset, at_least=at_least)


def _quantized(proto: Any, request: CompileRequest, calibration: SampleSet | None, advance: Callable[[], None]) -> Any:
    """Folds batch normalization and constants, then applies the scheme."""
    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        plain, folded, made = (Path(folder) / f"{name}.onnx" for name in ("plain", "folded", "made"))
        onnx.save(proto, plain)
        onnx_export.fold(plain, folded)
        if request.scheme is Scheme.FLOAT16:
            return _float16(onnx.load(folded))
        if calibration is None:
            quantize_dynamic(folded, made, per_channel=request.per_channel, weight_type=QuantType.QInt8)
        else:
            _quantize_static(folded, made, request, calibration, advance)
        return onnx.load(made)


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
            self._batches = _batches(calibration.x, _fixed_batch(signature))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            if batch is None:
                return None
            advance()
            return {spec.name: x for spec, x in zip(signature.inputs, inputs.split(batch), strict=True)}

    quantize_static(
        source,
        made,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=request.per_channel,
        activation_type=QuantType.QInt8 if is_arm(request.board_isa) else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _fixed_batch(signature: Signature) -> int:
    return next((spec.shape[0] for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], int)), 1)


def _batches(x: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
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
            raise _refusal(model, scheme, onnx_export.first_line(error)) from error
    logged = [r.getMessage() for r in (*ours, *roots) if r.levelname in ("ERROR", "CRITICAL")]
    if logged:
        raise _refusal(model, scheme, " ".join(logged))


def _refusal(model: Model, scheme: Scheme, why: str) -> ModelError:
    return ModelError(
        f"{NAME}: scheme '{scheme}' cannot be applied to {model.origin}: {why[:500]}",
        next_step="Scheme 'none' shows whether it is the model or its quantization.",
    )
