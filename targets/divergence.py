"""Where an artifact leaves its model: the first tensor, in the order of computing, that is past a bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.frameworks import import_keras
from edgesmith.types import Artifact, Model
from targets import keras_model, onnx_file
from targets.base import Target

_FOLDED_INTO_BEFORE = ("BatchNormalization", "Activation", "ReLU", "LeakyReLU", "Dropout", "Softmax", "Rescaling")
"""Layers that converters merge into the op before them, whose tensor may keep only the first layer's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One tensor that is past the bound.

    Attributes:
        layer: the layer that computes it; for ONNX models the name of the tensor in the float model.
        tensor: its name in the artifact.
        sqnr_db: against the model.
    """

    layer: str
    tensor: str
    sqnr_db: float

    def __str__(self) -> str:
        return f"layer '{self.layer}' (tensor '{self.tensor}', {self.sqnr_db:.1f} dB)"


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Signal to quantization noise, 10 log10(sum reference^2 / sum (reference - other)^2).

    Args:
        reference: the float values, first.
        other: of the same size.

    Returns:
        dB; inf where they are equal, -inf where `other` has NaN or the reference is silent.
    """
    signal = float(np.sum(np.square(reference, dtype=np.float64)))
    noise = float(np.sum(np.square(reference.astype(np.float64) - other)))
    if noise == 0.0:
        return float("inf")
    if signal == 0.0 or not np.isfinite(noise):
        return float("-inf")
    return float(10.0 * np.log10(signal / noise))


def first_diverging_tensor(
    target: Target, model: Model, artifact: Artifact, x: NDArray[Any], min_sqnr_db: float
) -> Divergence | None:
    """Names the first tensor that differs from the model by more than the bound.

    A Keras model is compared layer by layer in topological order. A tensor of the artifact belongs to the last layer
    that its name mentions (converters join the names of what they fuse, "net/relu/Relu;net/conv/convolution") or, where
    the name keeps less than was fused, to a following batch normalization or activation; among these the layer whose
    output has the same size and the best SQNR. A layer whose output was fused away has no tensor and is passed over; of
    several tensors of one layer the best counts. Layers inside a nested model are told as that model. An ONNX model is
    compared tensor by tensor under equal names.

    Args:
        target: what made the artifact.
        model: the reference.
        artifact: made from `model`, or meant to be.
        x: a small batch of real samples, [N, ...], in the model's dtype.
        min_sqnr_db: below this a tensor diverges.

    Returns:
        The first one; None where every tensor that could be matched is within the bound.
    """
    found = list(target.tensors(artifact.path, x))
    matches = _match_onnx(model, found, x) if model.kind == "onnx" else _match_keras(model, artifact, found, x)
    return next((match for match in matches if match.sqnr_db < min_sqnr_db), None)


Tensors = Sequence[tuple[str, NDArray[np.float32]]]


def _match_onnx(model: Model, found: Tensors, x: NDArray[Any]) -> Iterator[Divergence]:
    theirs = dict(found)
    for name, reference in onnx_file.tensors(model.path, x):
        if name in theirs and theirs[name].shape == reference.shape:
            yield Divergence(layer=name, tensor=name, sqnr_db=sqnr_db(reference, theirs[name]))


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    name: str
    kind: str
    output: NDArray[np.float32]
    feeds: tuple[str, ...]


def _match_keras(model: Model, artifact: Artifact, found: Tensors, x: NDArray[Any]) -> Iterator[Divergence]:
    layers = {layer.name: layer for layer in _layers(model, x)}
    makers = _output_layers(model)
    outputs = {spec.name: makers[i] for i, spec in enumerate(artifact.signature.outputs) if i < len(makers)}
    suffix = _suffix(list(layers), [name for name, _ in found])
    best: dict[str, Divergence] = {}
    for name, values in found:
        owner = outputs.get(name) or _last_mentioned(name, list(layers), suffix)
        if owner not in layers:
            continue
        chain = [layers[owner]] if name in outputs else _chain(layers, owner)
        fits = [(_best_layout(layer.output, values), layer.name) for layer in chain if layer.output.size == values.size]
        if fits:
            quality, layer_name = max(fits)
            if layer_name not in best or quality > best[layer_name].sqnr_db:
                best[layer_name] = Divergence(layer=layer_name, tensor=name, sqnr_db=quality)
    return (best[name] for name in layers if name in best)


def _layers(model: Model, x: NDArray[Any]) -> list[_Layer]:
    """Every layer that is called once, in topological order, with its output for `x`."""
    keras = import_keras()
    live = keras_model.load(model)
    live = getattr(live, "_functional", None) or live  # a Sequential holds its graph there
    once = [op for op in live.operations if len(op._inbound_nodes) == 1]  # noqa: SLF001 - no public way to ask
    single = [op for op in once if isinstance(op.output, keras.KerasTensor)]
    single = [op for op in single if not isinstance(op, keras.layers.InputLayer)]
    values = keras.Model(keras_model.one_or_list(live.inputs), [op.output for op in single])(
        keras_model.one_or_list(inputs.split(x)), training=False
    )
    return [
        _Layer(
            name=op.name,
            kind=type(op).__name__,
            output=np.asarray(value, np.float32),
            feeds=tuple(node.operation.name for node in op._outbound_nodes),  # noqa: SLF001
        )
        for op, value in zip(single, values, strict=True)
    ]


def _output_layers(model: Model) -> list[str]:
    live = keras_model.load(model)
    return [tensor._keras_history.operation.name for tensor in live.outputs]  # noqa: SLF001


def _scopes(tensor_name: str) -> list[str]:
    """The layers a name mentions, "net_1/conv_1/Relu;net_1/bn_1/batchnorm/add_1" -> conv_1, bn_1.

    Only the scope below the model's own: deeper parts are ops, and an op may be called like a layer ("add_1").
    """
    return [scopes[1] for piece in tensor_name.split(";") if len(scopes := piece.split("/")) > 2]


def _suffix(layers: Sequence[str], tensors: Sequence[str]) -> str:
    """Tracing gives every scope of one graph the same number behind its name: "conv_1" for layer "conv"."""
    seen = {scope for name in tensors for scope in _scopes(name)}
    return max(("", "_1", "_2", "_3"), key=lambda suffix: sum(layer + suffix in seen for layer in layers))


def _last_mentioned(tensor_name: str, layers: Sequence[str], suffix: str) -> str:
    scopes = _scopes(tensor_name)
    return next((layer for layer in reversed(layers) if layer + suffix in scopes), "")


def _chain(layers: dict[str, _Layer], start: str) -> list[_Layer]:
    """A layer and what may have been folded into it: single consumers, one after the other."""
    chain = [layers[start]]
    while len(chain[-1].feeds) == 1:
        follower = layers.get(chain[-1].feeds[0])
        if follower is None or follower.kind not in _FOLDED_INTO_BEFORE:
            break
        chain.append(follower)
    return chain


def _best_layout(reference: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    """SQNR with the axes in the model's order, or with the channels moved to the end (ONNX computes in NCHW)."""
    layouts = [values]
    if values.ndim > 2:
        layouts.append(np.moveaxis(values, 1, -1))
    return max(sqnr_db(reference.ravel(), layout.ravel()) for layout in layouts)
