"""Makes the models beside this file: `python -m device_tests.health_models.make_models`.

One small convolutional net in both formats: a few kB of weights, about three million multiply-accumulates, so that the
arithmetic is timed and not the call. Its weights are drawn from a fixed seed; what it must answer is in expected.json.

    x [N, 48, 48, 1] (ONNX: [N, 1, 48, 48]) -> 3 x (3x3 convolution to 8 channels, ReLU) -> mean -> dense -> y [N, 4]
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_tests.health_models import SIDE, samples

HERE = Path(__file__).parent
CHANNELS, OUTPUTS = 8, 4


def _weights() -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Kernels of the convolutions [3, 3, in, 8] and of the dense layer [8, 4]."""
    draw = np.random.default_rng(7)
    shapes = [(3, 3, inputs, CHANNELS) for inputs in (1, CHANNELS, CHANNELS)]
    kernels = [(draw.normal(size=shape) * np.sqrt(2 / (9 * shape[2]))).astype(np.float32) for shape in shapes]
    kernels[0] /= 16
    return kernels, draw.normal(size=(CHANNELS, OUTPUTS)).astype(np.float32)


def make_onnx() -> None:
    """health.onnx."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernels, dense = _weights()
    names = ["x", *(f"features{index}" for index in range(len(kernels)))]
    nodes, stored = [], [numpy_helper.from_array(dense, "dense")]
    for index, (kernel, (before, after)) in enumerate(zip(kernels, itertools.pairwise(names), strict=True)):
        stored.append(numpy_helper.from_array(kernel.transpose(3, 2, 0, 1).copy(), f"kernel{index}"))
        nodes.append(helper.make_node("Conv", [before, f"kernel{index}"], [f"sum{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"sum{index}"], [after]))
    nodes.append(helper.make_node("GlobalAveragePool", [names[-1]], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "dense"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "health",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", OUTPUTS])],
        stored,
    )
    # Old enough for the runtimes that old boards are left with.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, HERE / "health.onnx")


def make_tflite() -> None:
    """health.tflite."""
    import tensorflow as tf

    from edgesmith.frameworks import import_keras

    layers = import_keras().layers
    kernels, dense = _weights()
    stack: list[Any] = [layers.Input((SIDE, SIDE, 1))]
    stack += [layers.Conv2D(CHANNELS, 3, padding="same", activation="relu", use_bias=False) for _ in kernels]
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(OUTPUTS, use_bias=False)]
    network = import_keras().Sequential(stack)
    network.set_weights([*kernels, dense])
    (HERE / "health.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())


def write_expected() -> None:
    """expected.json: by ONNX Runtime; `tests/unit/test_health.py` holds the other runtime against it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(HERE / "health.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"x": samples().transpose(0, 3, 1, 2)})
    rounded = [[round(float(value), 5) for value in row] for row in answers]
    (HERE / "expected.json").write_text(json.dumps(rounded) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_onnx()
    make_tflite()
    write_expected()
