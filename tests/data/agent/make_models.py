"""Makes the models beside this file: one dense layer with weights a hand can check. Run it to make them anew.

The layer: 4 inputs, 3 outputs, y = x @ [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]] / 4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KERNEL = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32) / 4


def make_onnx() -> None:
    """dense.onnx: float32, dynamic batch."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "kernel"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(KERNEL, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, HERE / "dense.onnx")


def make_tflite() -> None:
    """dense.tflite: float32; dense_int8.tflite: int8 in and out, calibrated on 0..255."""
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
    model.layers[0].set_weights([KERNEL])

    def samples() -> object:
        for value in (0.0, 255.0):
            yield [np.full((1, 4), value, np.float32)]

    (HERE / "dense.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (HERE / "dense_int8.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    make_onnx()
    make_tflite()
