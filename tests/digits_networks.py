"""A small trained classifier with layers that are damaged on purpose: int8 destroys them, float32 does not mind.

A weight that always meets zero (a pixel that is never set, a hidden unit that never fires) changes nothing in float,
and takes the whole range of its channel's int8 scale.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.plan_graph import PlanGraph

DAMAGED = ("second", "fourth")
"""Of the trunk: the layers that have to stay float32."""

SIDE = ("side_in", "side_out")
"""A second output, whose small signal sits on a large offset: noise that the task does not care for."""

_USELESS = 60.0
"""The weight that always meets zero; all others are below 3."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Digits:
    """The network and its samples: float32 [N, 64] in 0..1, labels int64 [N]."""

    graph: PlanGraph
    calibration: NDArray[np.float32]
    tuning: NDArray[np.float32]
    labels: NDArray[np.int64]


@functools.cache
def digits() -> Digits:
    """A trunk of five layers, scikit-learn's digits; trained in a second or two."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order].astype(np.int64)
    network = MLPClassifier((32, 32, 24, 24), max_iter=25, batch_size=32, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(x[:1000], y[:1000])
    weights = [w.astype(np.float32) for w in network.coefs_]
    biases = [b.astype(np.float32) for b in network.intercepts_]
    for layer in (1, 3):
        # One more unit in the layer before, which never fires.
        weights[layer - 1] = np.pad(weights[layer - 1], ((0, 0), (0, 1)))
        biases[layer - 1] = np.append(biases[layer - 1], np.float32(-1.0))
        weights[layer] = np.pad(weights[layer], ((0, 1), (0, 0)), constant_values=_USELESS)
    return Digits(graph=PlanGraph(_proto(weights, biases)), calibration=x[:256], tuning=x[1000:], labels=y[1000:])


def _proto(weights: list[NDArray[np.float32]], biases: list[NDArray[np.float32]]) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    stored: list[Any] = []

    def dense(name: str, source: str, w: NDArray[Any], b: NDArray[Any], *, relu: bool) -> str:
        stored.append(numpy_helper.from_array(np.asarray(w, np.float32), f"{name}_w"))
        stored.append(numpy_helper.from_array(np.asarray(b, np.float32), f"{name}_b"))
        out = f"{name}_product" if relu else f"{name}_output"
        nodes.append(helper.make_node("Gemm", [source, f"{name}_w", f"{name}_b"], [out], name=name))
        if relu:
            nodes.append(helper.make_node("Relu", [out], [f"{name}_output"], name=f"{name}_relu"))
        return f"{name}_output"

    names = ("first", "second", "third", "fourth", "head")
    x = "x"
    for i, (name, w, b) in enumerate(zip(names, weights, biases, strict=True)):
        x = dense(name, x, w, b, relu=name != "head")
        if i == 0:
            trunk = x
    random = np.random.default_rng(1)
    width = weights[0].shape[1]
    side = dense(SIDE[0], trunk, random.normal(size=(width, 8)) * 0.05, np.full(8, 40.0), relu=True)
    mixing = random.normal(size=(8, 2))
    mixing -= mixing.mean(axis=0)
    side = dense(SIDE[1], side, mixing, np.zeros(2), relu=False)
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [
            helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", 10]),
            helper.make_tensor_value_info(side, TensorProto.FLOAT, ["N", 2]),
        ],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
