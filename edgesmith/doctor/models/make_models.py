"""Makes the files beside this one: `python -m edgesmith.doctor.models.make_models [FOLDER]`.

A network of the layers that matter, small enough to ship, through edgesmith's own pipeline. Its weights are drawn from
a fixed seed; what it must answer is in expected.json, each file's own answers with every node computed as it is
written.

    x [N, 32, 32, 3] -> convolution 16, ReLU -> convolution 32 with stride 2, ReLU
      -> depthwise, ReLU6 -> convolution 32 with 1 x 1, added to what the depthwise one took, ReLU
      -> average of 8 x 8 -> dense -> y [N, 10]

For TensorRT before 11 the builder's flags say the precision, and operator set 13 is what 8.0 reads; from 11 on the
types in the file do. `int8-depthwise-float` is for GPUs without an int8 kernel for depthwise convolutions.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import targets
from edgesmith.doctor.models import EXPECTED, HERE, MANIFEST, OUTPUTS, SIDE, samples
from edgesmith.files import sha256_bytes, sha256_file, write_text
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, SampleSet, Scheme, Signature, TensorSpec
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import plan_files
from targets.base import CompileRequest, RuntimeFacts
from targets.instruction_set import NO_VNNI
from targets.plan_export import make_plan_graph

_WEAK = RuntimeFacts(version="8.0.1", compute="7.2")
_TYPED = RuntimeFacts(version="11.0.0", compute="8.7")
_CALIBRATION = 64
_DIGITS = 6


def make(folder: Path = HERE) -> None:
    """Writes models, manifest.json and expected.json into a folder."""
    x = samples(_CALIBRATION)
    calibration = SampleSet(role="calibration", x=x, y=None, sha256=sha256_bytes(x.tobytes()), source="a pattern")
    with tempfile.TemporaryDirectory() as scratch:
        made = list(_compiled(_model(Path(scratch)), calibration, Path(scratch), folder))
    manifest, expected = {}, {}
    for name, artifact in made:
        manifest[name] = {
            "file": artifact.path.name,
            "target": artifact.target,
            "precision": artifact.precision,
            "sha256": artifact.sha256,
            "build": dict(artifact.build),
        }
        (answers,) = targets.get(artifact.target).outputs(artifact.path, samples())
        expected[name] = [[round(float(value), _DIGITS) for value in row] for row in answers]
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    lines = [f" {json.dumps(name)}: {json.dumps(rows)}" for name, rows in sorted(expected.items())]
    write_text(folder / EXPECTED, "{\n" + ",\n".join(lines) + "\n}\n")


def _compiled(model: Model, calibration: SampleSet, scratch: Path, folder: Path) -> Iterator[tuple[str, Artifact]]:
    graph = make_plan_graph(model, Silent())
    settings = PtqSettings(observer="minmax", equalize=False, bias_correction=False)
    planned = make_plan(graph, calibration.x, settings)
    plan_files.write(planned, scratch / "plan")
    graph.write(scratch / "plan" / plan_files.ORIGINAL)
    kernels = {op.name: planned.graph.constants[op.weight] for op in planned.graph.ops if op.weight is not None}
    depthwise = frozenset(name for name, kernel in kernels.items() if kernel.ndim == 4 and kernel.shape[1] == 1)

    def compiled(target: str, name: str, scheme: Scheme, **more: Any) -> tuple[str, Artifact]:
        int8: dict[str, Any] = {}
        if scheme.needs_calibration:
            int8 = {"plan": scratch / "plan", "calibration": calibration}
        asked = CompileRequest(scheme=scheme, out_dir=folder, name=name, **int8, **more)
        return name, targets.get(target).compile(model, asked, Silent())

    for kind, runtime in (("weak", _WEAK), ("typed", _TYPED)):
        for scheme in (Scheme.NONE, Scheme.FLOAT16, Scheme.INT8_FLOAT_IO):
            yield compiled("tensorrt", f"tensorrt-{kind}-{_word(scheme)}", scheme, runtime=runtime)
    yield compiled(
        "tensorrt", "tensorrt-weak-int8-depthwise-float", Scheme.INT8_FLOAT_IO, runtime=_WEAK, float_ops=depthwise
    )
    yield compiled("onnxruntime", "onnxruntime-float32", Scheme.NONE)
    yield compiled("onnxruntime", "onnxruntime-arm-int8", Scheme.INT8_FLOAT_IO, board_isa="aarch64")
    # With weights of 7 bits: right on processors with VNNI and without.
    yield compiled("onnxruntime", "onnxruntime-x86-int8", Scheme.INT8_FLOAT_IO, board_isa="x86_64" + NO_VNNI)
    yield compiled("tflite", "tflite-float32", Scheme.NONE)
    yield compiled("tflite", "tflite-int8", Scheme.INT8)


def _word(scheme: Scheme) -> str:
    return "int8" if scheme is Scheme.INT8_FLOAT_IO else scheme.precision


def _model(scratch: Path) -> Model:
    """The network, its weights as large as trained ones are."""
    keras = import_keras()
    layers = keras.layers
    x = keras.Input((SIDE, SIDE, 3), name="x")
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="down")(y)
    z = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    z = layers.ReLU(6.0, name="clip")(z)
    z = layers.Conv2D(32, 1, name="pointwise")(z)
    y = layers.ReLU(name="relu")(layers.Add(name="add")([y, z]))
    y = layers.Flatten(name="flatten")(layers.AveragePooling2D(8, name="average")(y))
    network = keras.Model(x, layers.Dense(OUTPUTS, name="y")(y), name="self_test")
    draw = np.random.default_rng(7)
    path = scratch / "self_test.keras"
    with third_party_warnings():
        network.set_weights([_drawn(draw, np.shape(value)) for value in network.get_weights()])
        network.save(path)
    ends = Signature(
        inputs=(TensorSpec(name="x", shape=(None, SIDE, SIDE, 3), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(None, OUTPUTS), dtype="float32"),),
    )
    return Model(
        kind="keras", path=path, sha256=sha256_file(path), signature=ends, origin="the self-test's network",
        parameters=network.count_params(),
    )  # fmt: skip


def _drawn(draw: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if len(shape) == 1:
        return draw.uniform(-0.1, 0.1, size=shape).astype(np.float32)
    fan_in = np.prod(shape[:2]) if shape[-1] == 1 and len(shape) == 4 else np.prod(shape[:-1])
    drawn: NDArray[np.float32] = (draw.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32)
    return drawn


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
