"""A Keras model as a packed file, and back: the same layers, and weights that are equal bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from optimizer import keras_config
from optimizer.base import KerasModel
from optimizer.load_keras import LOAD_ERRORS, normalised
from optimizer.packing import container, tensors
from optimizer.packing.huffman import DamagedStream
from optimizer.packing.tensors import Form

_MOST_EXPANSION = 2000
_FREE_EXPANSION_BYTES = 256 << 20
_AGAIN = "Pack the model again."


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensor:
    """One weight in a packed file.

    Attributes:
        name: "conv1/kernel".
        float_bytes: in memory.
        packed_bytes: in the file, without its header.
        coding: how, for people.
    """

    name: str
    float_bytes: int
    packed_bytes: int
    coding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A packed file.

    Attributes:
        path: of the file.
        size_bytes: of the file, all included.
        float_bytes: of the weights in memory.
        tensors: each weight.
    """

    path: Path
    size_bytes: int
    float_bytes: int
    tensors: tuple[PackedTensor, ...]


def save_packed(model: KerasModel, path: Path) -> Packed:
    """Writes a model as a packed file, whole or not at all.

    Args:
        model: a Keras 3 model with a graph. Loss, metrics and optimizer are not written.
        path: to write, by custom `.esm`.

    Raises:
        ModelError: no graph, a layer that a reader would refuse, or weights of a type that has no packed form.
    """
    keras = import_keras()
    model = normalised(model)
    with third_party_warnings():
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    keras_config.inspect(config, where=f"{model.name}", keras_major=3, allow_lambda=False)
    rows: list[PackedTensor] = []
    entries: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for layer, key, name, variable in _variables(model):
        tensor = np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
        try:
            form, data = tensors.encode(tensor)
        except ValueError as error:
            raise ModelError(f"{model.name}: weight {name} cannot be packed: {error}.") from None
        entries.append({"layer": layer, "key": key, "bytes": len(data), **form.plain()})
        parts.append(data)
        rows.append(PackedTensor(name=name, float_bytes=tensor.nbytes, packed_bytes=len(data), coding=form.coding))
    header = {"keras": keras.__version__, "model": config, "tensors": entries}
    size = container.write(path, header, b"".join(parts))
    return Packed(path=path, size_bytes=size, float_bytes=sum(row.float_bytes for row in rows), tensors=tuple(rows))


def load_packed(path: Path) -> KerasModel:
    """The model of a packed file, with exactly the weights that were packed; not compiled.

    Raises:
        ModelError: damaged, cut off, made by something else, or a model that holds code or unknown layers.
    """
    header, payload = container.read(path)
    forms = _forms(path, header, payload)
    config = keras_config.parse(json.dumps(header.get("model")), where=f"{path}")
    keras_config.inspect(config, where=f"{path}", keras_major=3, allow_lambda=False)
    model = _built(path, config, {place: form for place, (form, _) in forms.items()}, str(header.get("keras"))[:20])
    decoded: dict[int, dict[str, NDArray[Any]]] = {}
    for (layer, key), (form, data) in forms.items():
        try:
            decoded.setdefault(layer, {})[key] = tensors.decode(form, data)
        except DamagedStream as error:
            raise ModelError(f"{path}: weight {key} of layer {layer}: {error}.", next_step=_AGAIN) from None
    layers = _layers(model)
    for index, store in decoded.items():
        layers[index].load_own_variables(store)
    return model


def _built(path: Path, config: dict[str, Any], forms: Mapping[tuple[int, str], Form], version: str) -> KerasModel:
    """The layers of a config, once it is known that their weights are those of the file.

    In a stateless scope a layer's variables have shapes and no values, so that a config that asks for more than the
    file holds is refused before it is given the memory.
    """
    keras = import_keras()
    from keras.src.backend.common import global_state
    from keras.src.backend.common.variables import initialize_all_variables

    try:
        with third_party_warnings():
            with keras.StatelessScope(initialize_variables=False):
                model = keras.saving.deserialize_keras_object(config, safe_mode=True)
                slots = {(at, key): (tuple(v.shape), str(v.dtype)) for at, key, _, v in _variables(model)}
            if slots != {place: (form.shape, form.dtype) for place, form in forms.items()}:
                raise ModelError(f"{path}: its weights are not those of its layers.", next_step=_AGAIN)
            initialize_all_variables()
    except LOAD_ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(
            f"{path}: Keras {keras.__version__} cannot build the model, which Keras {version} packed: {reason}",
            next_step="Unpack it with the Keras version that it was packed with.",
        ) from error
    finally:
        # What was refused must not be initialised by whoever asks Keras for it next.
        global_state.set_global_attribute("uninitialized_variables", [])
    return model


def _forms(
    path: Path, header: Mapping[str, Any], payload: memoryview
) -> dict[tuple[int, str], tuple[Form, memoryview]]:
    """Form and bytes of each tensor, judged before anything is allocated."""
    entries = header.get("tensors")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelError(f"{path}: the header of the packed model lists no tensors.", next_step=_AGAIN)
    found: dict[tuple[int, str], tuple[Form, memoryview]] = {}
    start = 0
    for entry in entries:
        rest = dict(entry)
        layer, key, size = rest.pop("layer", None), rest.pop("key", None), rest.pop("bytes", None)
        try:
            if type(layer) is not int or type(key) is not str or type(size) is not int or (layer, key) in found:
                raise DamagedStream("it has no place of its own")
            if not 0 <= size <= len(payload) - start:
                raise DamagedStream("it is longer than the file")
            found[layer, key] = (Form.of(rest), payload[start : start + size])
        except DamagedStream as error:
            raise ModelError(f"{path}: tensor {len(found) + 1} of the header: {error}.", next_step=_AGAIN) from None
        start += size
    if start != len(payload):
        raise ModelError(f"{path}: {len(payload) - start} bytes belong to no tensor.", next_step=_AGAIN)
    unpacked = sum(form.nbytes for form, _ in found.values())
    if unpacked > max(_FREE_EXPANSION_BYTES, _MOST_EXPANSION * len(payload)):
        raise ModelError(
            f"{path}: unpacks to {unpacked >> 20} MB, over {_MOST_EXPANSION} times its size. It was not unpacked.",
            next_step=_AGAIN,
        )
    return found


def _layers(model: KerasModel) -> list[Any]:
    """Every layer once, inner ones too, in an order that the config alone decides."""
    return list({id(layer): layer for layer in model._flatten_layers(include_self=False)}.values())  # noqa: SLF001 - Keras' own walk


def _variables(model: KerasModel) -> Iterator[tuple[int, str, str, Any]]:
    """Index of the layer, key, name for people, and variable of every weight, as Keras' own files keep them."""
    for index, layer in enumerate(_layers(model)):
        if getattr(layer, "quantization_mode", None):
            raise ModelError(f"Layer {layer.name} holds weights that Keras quantized itself.")
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        for key, variable in store.items():
            yield index, str(key), f"{layer.name}/{getattr(variable, 'name', key)}", variable
