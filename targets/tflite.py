"""TensorFlow Lite / LiteRT: Keras models to `.tflite`, with batch 1, built-in kernels only."""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from calibration import inputs
from edgesmith.errors import ConfigError, ModelError
from edgesmith.files import write_bytes
from edgesmith.frameworks import import_keras, import_tensorflow, third_party_warnings
from edgesmith.native_log import NativeLog, captured
from edgesmith.progress import Progress
from edgesmith.types import Artifact, Capabilities, Deviation, Model, SampleSet, Scheme
from targets import keras_model, plan_files, tflite_file, tflite_plan
from targets.base import CompileRequest, RuntimeFacts, TargetState, check_request, describe, packages_state
from targets.plan_graph import PlanGraph

NAME = "tflite"
FORMAT = "tflite"

_PACKAGES = {"tensorflow": "tensorflow", "keras": "keras", "ai_edge_litert": "ai-edge-litert"}

_MATCHED_ON = 8
"""Samples that tell the tensors of a float file apart."""

kernels = tflite_file.kernels
signature = tflite_file.signature
tensors = tflite_file.tensors
outputs = tflite_file.outputs


def state() -> TargetState:
    """See `targets.base.Target.state`."""
    return packages_state(_PACKAGES, extra="tflite")


def capabilities(board_isa: str | None = None, runtime: RuntimeFacts | None = None) -> Capabilities:
    """See `targets.base.Target.capabilities`."""
    del board_isa, runtime  # the file is the same for all; the runtime picks the kernels
    return Capabilities(
        target=NAME,
        model_kinds=frozenset({"keras"}),
        schemes=frozenset(Scheme),
        runner="tflite",
        notes=(
            "The batch is fixed to 1.",
            "int8 has int8 in and out; int8-float-io has float32.",
            "float16 halves the file, not the latency: the CPU kernels compute in float32.",
            "dynamic is slower than float32 on depthwise networks; tflite-runtime 2.14 cannot load it.",
        ),
    )


def compile(model: Model, request: CompileRequest, progress: Progress) -> Artifact:  # noqa: A001 - the verb of the contract
    """See `targets.base.Target.compile`."""
    check_request(capabilities(request.board_isa), model, request)
    _refuse_open_dimensions(model)
    if request.scheme is Scheme.DYNAMIC and not request.per_channel:
        raise ConfigError(
            f"{NAME}: scheme 'dynamic' is made per channel only: with one scale for a depthwise kernel the runtime "
            "answers NaN.",
            next_step="Leave per_channel on, or use scheme 'int8'.",
        )
    live = keras_model.load(model)
    path = request.out_dir / f"{request.name}.{FORMAT}"
    calibration = request.calibration if request.scheme.needs_calibration else None
    deviations: tuple[Deviation, ...] = ()
    if calibration is not None and request.plan is not None:
        with progress.task(f"{NAME} {request.scheme}"):
            content, deviations = _planned(live, model, request, calibration, request.plan, path)
            write_bytes(path, content)
    else:
        with progress.task(f"{NAME} {request.scheme}", total=len(calibration) if calibration else None) as task:
            write_bytes(path, _convert(live, model, request, calibration, task.advance))
    file = tflite_file.TfliteFile(path)
    if custom := file.custom_ops():
        path.unlink()
        raise _unsupported(model, custom, where=[])
    if not deviations and request.plan is None:
        _in_order(path, model)
    packages = _PACKAGES.values()
    return describe(
        NAME, FORMAT, path, model, request.scheme, signature(path), kernels(path), packages, deviations=deviations
    )


def _in_order(path: Path, model: Model) -> None:
    """Lists inputs and outputs in the model's order."""
    order = tflite_file.TfliteFile(path).signature_order([spec.name for spec in model.signature.inputs])
    write_bytes(path, tflite_file.reordered(path, *order))


def _planned(
    live: Any, model: Model, request: CompileRequest, calibration: SampleSet, folder: Path, path: Path
) -> tuple[bytes, tuple[Deviation, ...]]:
    """The float file with the plan's numbers."""
    write_bytes(path, _convert(live, model, request, None, lambda: None))
    _in_order(path, model)
    return tflite_plan.lower(
        plan_files.read(folder),
        PlanGraph.read(folder / plan_files.ORIGINAL),
        path.read_bytes(),
        inputs.split(calibration.x[:_MATCHED_ON]),
        float_io=request.scheme is not Scheme.INT8,
    )


def _refuse_open_dimensions(model: Model) -> None:
    for spec in model.signature.inputs:
        if not all(isinstance(dim, int) for dim in spec.shape[1:]):
            raise ModelError(
                f"{NAME}: input {spec} has an open dimension besides the batch.",
                next_step="Build the model with a fixed input size: `keras.Input((96, 96, 3))`.",
            )


def _convert(
    live: Any, model: Model, request: CompileRequest, calibration: SampleSet | None, advance: Callable[[], None]
) -> bytes:
    """Keras -> SavedModel with batch 1 -> `.tflite`; the float file where a plan is to be followed.

    The SavedModel is written here and not by `from_keras_model`: that one turns any failure of it into a silent
    second route, and `from_concrete_functions` drops the weights of Keras 3 models without a word.
    """
    keras, tf = import_keras(), import_tensorflow()
    specs = [
        tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=spec.name)
        for tensor, spec in zip(live.inputs, model.signature.inputs, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder, captured() as log, third_party_warnings():
        archive = keras.export.ExportArchive()
        archive.track(live)
        inference = functools.partial(live.__call__, training=False)
        archive.add_endpoint("serve", inference, specs if len(specs) == 1 else [specs])
        archive.write_out(folder, verbose=False)
        if request.scheme.needs_calibration and (loops := _loops(Path(folder))):
            raise ModelError(
                f"{NAME}: scheme '{request.scheme}' cannot be applied to {model.origin}: the tensors of the loop at "
                f"{', '.join(loops)} cannot be observed, and trying it crashes the runtime's calibrator.",
                next_step="Build recurrent layers with unroll=True, use scheme 'float16' or 'dynamic', or leave "
                "'tflite' out of `targets`.",
            )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if request.plan is None or not request.scheme.needs_calibration:
            _set_scheme(tf, converter, request)
        if calibration is not None:
            converter.representative_dataset = lambda: _one_by_one(model, calibration.x, advance)
        try:
            with warnings.catch_warnings():
                # The converter warns that ranges were "expected, but not specified" although it has just measured them.
                warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
                # Samples by input name go through an interpreter of its own, which is to move to another package.
                warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is deprecated")
                content: bytes = converter.convert()
        except Exception as error:
            raise _conversion_failed(model, error, log) from error
    return content


def _loops(saved_model: Path) -> list[str]:
    """Where the graph has control flow, by node name."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    functions = proto.meta_graphs[0].graph_def.library.function
    ops = ("While", "StatelessWhile", "If", "StatelessIf")
    return sorted({node.name for function in functions for node in function.node_def if node.op in ops})


def _set_scheme(tf: Any, converter: Any, request: CompileRequest) -> None:
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if request.scheme is Scheme.NONE:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if request.scheme is Scheme.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if request.scheme.needs_calibration:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if request.scheme is Scheme.INT8:
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    if not request.per_channel:
        converter._experimental_disable_per_channel = True  # noqa: SLF001 - there is no public switch


def _one_by_one(
    model: Model, x: NDArray[Any], advance: Callable[[], None]
) -> Iterator[list[NDArray[Any]] | dict[str, NDArray[Any]]]:
    """Batches of one; several inputs by name, since the converter lists them in an order of its own."""
    for index in range(len(x)):
        advance()
        parts = inputs.split(x[index : index + 1])
        names = [spec.name for spec in model.signature.inputs]
        yield list(parts) if len(parts) == 1 else dict(zip(names, parts, strict=True))


def _conversion_failed(model: Model, error: Exception, log: NativeLog) -> ModelError:
    """Names the op that the converter stumbled over, where it says which."""
    text = f"{error}\n{log.tail()}"
    listed = re.findall(r"(?:Custom ops|TF Select ops): ([\w, ]+)", text)
    ops = sorted({op for group in listed for op in group.replace(" ", "").split(",") if op})
    if ops:
        places = re.findall(r'fused\["(\w+):", "([^"@]+)@', text)
        return _unsupported(model, ops, where=sorted({place for op, place in places if op in ops}))
    first = next((line for line in text.splitlines() if "error:" in line), str(error).partition("\n")[0])
    return ModelError(
        f"{NAME}: {model.origin} cannot be converted: {first.strip()[:500]}",
        next_step="Scheme 'float16' or 'none' shows whether it is the model or its quantization.",
    )


def _unsupported(model: Model, ops: list[str], where: list[str]) -> ModelError:
    return ModelError(
        f"{NAME}: {model.origin} uses {', '.join(ops)}, which the runtime has no built-in kernel for"
        + (f" (at {', '.join(where)})." if where else "."),
        next_step="Express it with other layers, or leave 'tflite' out of `targets`.",
    )
