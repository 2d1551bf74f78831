"""Multiply-accumulates and zeros against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, import_onnx
from optimizer import cost

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

IMAGE, SERIES = (8, 8, 4), (6, 4)
CASES: list[tuple[str, tuple[int, ...], Callable[[Any, Any], Any], int]] = [
    ("Dense", (5,), lambda ly, x: ly.Dense(3)(x), 5 * 3),
    ("Dense on a series", SERIES, lambda ly, x: ly.Dense(3)(x), 6 * 4 * 3),
    ("Conv2D valid", IMAGE, lambda ly, x: ly.Conv2D(5, 3)(x), 6 * 6 * 9 * 4 * 5),
    ("Conv2D strided same", IMAGE, lambda ly, x: ly.Conv2D(5, 3, strides=2, padding="same")(x), 4 * 4 * 9 * 4 * 5),
    ("Conv2D grouped", IMAGE, lambda ly, x: ly.Conv2D(6, 3, groups=2)(x), 36 * 9 * 2 * 6),
    ("Conv1D", SERIES, lambda ly, x: ly.Conv1D(5, 3)(x), 4 * 3 * 4 * 5),
    ("DepthwiseConv2D", IMAGE, lambda ly, x: ly.DepthwiseConv2D(3, depth_multiplier=2)(x), 36 * 9 * 4 * 2),
    ("SeparableConv2D", IMAGE, lambda ly, x: ly.SeparableConv2D(5, 3)(x), 36 * (9 * 4 + 4 * 5)),
    ("Conv2DTranspose", IMAGE, lambda ly, x: ly.Conv2DTranspose(5, 3, strides=2)(x), 64 * 9 * 4 * 5),
    ("EinsumDense", SERIES, lambda ly, x: ly.EinsumDense("abc,cd->abd", (6, 3))(x), 6 * 4 * 3),
    ("EinsumDense ellipsis", SERIES, lambda ly, x: ly.EinsumDense("...x,xy->...y", (3,))(x), 6 * 4 * 3),
    ("LSTM", SERIES, lambda ly, x: ly.LSTM(3)(x), 6 * 4 * 3 * (4 + 3)),
    ("GRU", SERIES, lambda ly, x: ly.GRU(3)(x), 6 * 3 * 3 * (4 + 3)),
    ("Bidirectional", SERIES, lambda ly, x: ly.Bidirectional(ly.SimpleRNN(3))(x), 2 * 6 * 3 * (4 + 3)),
    ("TimeDistributed", (5, *IMAGE), lambda ly, x: ly.TimeDistributed(ly.Conv2D(2, 3))(x), 5 * 36 * 9 * 4 * 2),
    (
        "MultiHeadAttention",
        SERIES,
        lambda ly, x: ly.MultiHeadAttention(2, 3)(x, x),
        # query, key, value and output projections; scores and weighted sum over 6 x 6 steps
        4 * (6 * 4 * 2 * 3) + 2 * (6 * 6 * 2 * 3),
    ),
    ("nothing", IMAGE, lambda ly, x: ly.ReLU()(ly.MaxPooling2D()(ly.BatchNormalization()(x))), 0),
]


@pytest.mark.parametrize(("shape", "apply", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_macs_by_hand(shape: tuple[int, ...], apply: Callable[[Any, Any], Any], expected: int):
    keras = import_keras()
    x = keras.Input(shape)

    assert cost.count_macs(keras.Model(x, apply(keras.layers, x))) == expected


def test_shared_layers_count_per_call_and_nested_models_are_opened():
    keras = import_keras()
    shared = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2)(shared(shared(x))))

    assert cost.count_macs(model) == 2 * 16 + 8
    assert cost.parameters(model) == 20 + 10
    assert cost.count_macs(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])) == 16


def test_what_has_no_count_is_said_by_name():
    keras = import_keras()
    x = keras.Input((None, 4), name="open")
    with pytest.raises(ModelError, match="Layer series: a dimension is open"):
        cost.count_macs(keras.Model(x, keras.layers.Dense(3, name="series")(x)))
    a = keras.Input((6, 4))
    with pytest.raises(ModelError, match="Layer dot is Dot, for which no count"):
        cost.count_macs(keras.Model(a, keras.layers.Dot(axes=2, name="dot")([a, a])))


def test_zeros_are_counted_in_kernels_alone():
    keras = import_keras()
    x = keras.Input((8, 8, 1))
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3)(x))
    model = keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(y)))
    conv, dense = model.layers[1], model.layers[-1]
    kernel = np.ones((3, 3, 1, 2), np.float32)
    kernel[0] = 0
    conv.set_weights([kernel, np.zeros(2)])
    dense.set_weights([np.ones((72, 4)), np.zeros(4)])

    assert cost.kernel_sparsity(model) == 6 / (18 + 288)
    # conv 12 of 18, norm: gamma 2 and variance 2, dense 288; all biases, beta and mean are zero
    assert cost.nonzero_parameters(model) == 12 + 4 + 288
    assert cost.parameters(model) == 18 + 2 + 8 + 288 + 4
    assert cost.kernel_sparsity(keras.Model(x, keras.layers.ReLU()(x))) == 0.0


def _onnx(nodes: list[Any], inputs: dict[str, Any], weights: dict[str, np.ndarray], path: Path) -> Path:
    onnx = import_onnx()
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def _f32(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("op", "settings", "shape", "weights", "expected"),
    [
        ("Conv", {}, ["N", 4, 8, 8], [_f32(5, 4, 3, 3)], 36 * 5 * 4 * 9),
        ("Conv", {"group": 4}, ["N", 4, 8, 8], [_f32(4, 1, 3, 3)], 36 * 4 * 9),
        ("Conv", {}, [2, 4, 8, 8], [_f32(5, 4, 3, 3)], 36 * 5 * 4 * 9),
        ("Conv", {}, ["N", 4, "H", 8], [_f32(5, 4, 3, 3)], None),
        ("ConvTranspose", {"strides": [2, 2]}, ["N", 4, 8, 8], [_f32(4, 5, 3, 3)], 64 * 4 * 5 * 9),
        ("Gemm", {}, ["N", 4], [_f32(4, 3)], 12),
        ("Gemm", {"transB": 1}, ["N", 4], [_f32(3, 4)], 12),
        ("MatMul", {}, ["N", 6, 4], [_f32(4, 3)], 6 * 4 * 3),
        ("LSTM", {"hidden_size": 3}, [6, 1, 4], [_f32(1, 12, 4), _f32(1, 12, 3)], 6 * 4 * 3 * (4 + 3)),
        ("Relu", {}, ["N", 4], [], 0),
        ("Einsum", {"equation": "ij,jk->ik"}, ["N", 4], [_f32(4, 3)], None),
    ],
)
def test_onnx_macs_by_hand(
    op: str, settings: dict[str, Any], shape: list[Any], weights: list[np.ndarray], expected: int | None, tmp_path: Path
):
    names = [f"w{at}" for at in range(len(weights))]
    node = import_onnx().helper.make_node(op, ["x", *names], ["y"], **settings)

    path = _onnx([node], {"x": shape}, dict(zip(names, weights, strict=True)), tmp_path / "m.onnx")

    assert cost.onnx_macs(path) == expected
