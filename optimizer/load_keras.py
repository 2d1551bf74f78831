"""Keras files of both generations -> one live Keras 3 functional model. Judged as data first, then built."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, import_tensorflow, import_tf_keras, third_party_warnings
from optimizer import half_precision, keras2, keras2_ops, keras_config

_AGAIN = "Copy the file again from where it was made (compare sizes), or save the model again."
_MAX_EXPANSION = 100
_FREE_EXPANSION_BYTES = 256 << 20
_METRIC = "_tf_keras_metric"
_CONTAINERS = frozenset({"Functional", "Sequential", "Model"})
_OF_TF_KERAS = frozenset({"TFOpLambda", "SlicingOpLambda", "AddLoss", "AddMetric"})
_OPS_WITH_EFFECTS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles"})
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
LOAD_ERRORS = (
    AttributeError,
    AssertionError,
    ImportError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What rebuilding or a Keras constructor may raise on a file that is damaged or from an odd version."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory.

    Attributes:
        model: keras.Model (Keras 3), functional, with flat lists of inputs and outputs.
        label: what the file was, e.g. "Keras 2 .h5".
        lambdas: holds Lambda layers, and the user allowed them.
    """

    model: Any
    label: str
    lambdas: bool


def load_zip(path: Path, *, allow_lambda: bool) -> Loaded:
    """Reads a `.keras` file of Keras 3 or Keras 2.

    Raises:
        ModelError: damaged, no Keras model, or a model that cannot be deployed; see `optimizer.keras_config`.
    """
    with _damaged(path, "Keras file"), zipfile.ZipFile(path) as archive:
        _refuse_bomb(path, archive)
        metadata = _json_member(path, archive, "metadata.json")
        raw = _member(path, archive, "config.json")
        weights = [name for name in archive.namelist() if name.endswith(".weights.h5")]
        if not weights:
            raise ModelError(f"{path}: holds no weights.", next_step="Save the model again with model.save().")
        if (bad := archive.testzip()) is not None:
            raise ModelError(f"{path}: {bad} inside it is damaged (checksum differs).", next_step=_AGAIN)
        with archive.open(weights[0]) as stream:
            if stream.read(len(_HDF5_MAGIC)) != _HDF5_MAGIC:
                raise ModelError(f"{path}: {weights[0]} inside it is not HDF5.", next_step=_AGAIN)
    config = keras_config.parse(raw, where=f"{path}")
    version = str(metadata.get("keras_version", ""))
    return _load_config(path, config, version, suffix=".keras", allow_lambda=allow_lambda)


def load_h5(path: Path, *, allow_lambda: bool) -> Loaded:
    """Reads a whole-model `.h5` file of Keras 3 or Keras 2.

    Raises:
        ModelError: damaged, weights only, or a model that cannot be deployed; see `optimizer.keras_config`.
    """
    import h5py

    with _damaged(path, "HDF5 file"), h5py.File(path, "r") as file:
        raw = file.attrs.get("model_config")
        if raw is None:
            _refuse_without_config(path, file)
        version = file.attrs.get("keras_version", b"2")
    config = keras_config.parse(raw, where=f"{path}")
    version = version.decode() if isinstance(version, bytes) else str(version)
    return _load_config(path, config, version, suffix=".h5", allow_lambda=allow_lambda)


def load_saved_model(path: Path, *, allow_lambda: bool) -> Loaded:
    """Reads a SavedModel folder that Keras 2 saved.

    Raises:
        ModelError: damaged, without layers (exported), or a model that cannot be deployed.
    """
    tf_keras = import_tf_keras()
    configs = list(_saved_model_configs(path))
    root = next((config for node, config in configs if node == "root"), None)
    if root is None:
        raise ModelError(
            f"{path}: this SavedModel holds functions and no Keras layers, as Keras 3's model.export() and "
            "tf.saved_model.save() write it. It can be run, but not pruned or rebuilt.",
            next_step="Pass the .keras file instead: model.save('model.keras') in the program that exported it.",
        )
    if not isinstance(root.get("config"), dict | list):
        root = root | {"config": {}}
    inspection = _inspect(path, root, 2, allow_lambda)
    for _, config in configs:  # layers that hang on the model without being in its graph
        wrapped = {"class_name": "Sequential", "config": {"layers": [config]}}
        keras_config.inspect(wrapped, where=f"{path}", keras_major=2, allow_lambda=allow_lambda)
    with _not_loadable(path, "tf_keras"):
        old = tf_keras.models.load_model(path, compile=False)
    model = keras2.rebuild(old, keras=import_keras(), tf_keras=tf_keras, where=f"{path}")
    return _finished(path, model, "Keras 2 SavedModel", inspection.lambdas)


def normalised(model: Any) -> Any:
    """The same layers as an uncompiled functional model whose inputs and outputs are flat.

    A compiled model would take its optimizer's state and its loss, which may be code, into the file.

    Raises:
        ModelError: the model has no graph.
    """
    keras = import_keras()
    inputs, outputs = _ends(model)
    if type(model).__name__ == "Functional" and _is_flat(model.input) and _is_flat(model.output) and not model.compiled:
        return model
    return keras.Model(
        inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs, name=model.name
    )


def _load_config(path: Path, config: dict[str, Any], version: str, *, suffix: str, allow_lambda: bool) -> Loaded:
    major = 3 if version.startswith("3") else 2
    if not version.startswith(("1", "2", "3")):
        raise ModelError(
            f"{path}: was saved by Keras {version or 'of an unknown version'}; Keras 2 and 3 can be read.",
            next_step="Save the model with Keras 3.",
        )
    lambdas = _inspect(path, config, major, allow_lambda).lambdas
    keras = import_keras()
    if major == 3:
        if suffix == ".h5":
            known = _classes(keras.layers) | _CONTAINERS
            keras_config.refuse_unknown_3(config, known=known, where=f"{path}")
        with _not_loadable(path, f"Keras {keras.__version__}"), _called(path, suffix) as file:
            model = keras.saving.load_model(file, compile=False, safe_mode=not lambdas)
    else:
        tf_keras = import_tf_keras()
        with _not_loadable(path, "tf_keras"), _called(path, suffix) as file:
            old = tf_keras.saving.load_model(file, compile=False, safe_mode=not lambdas)
        model = keras2.rebuild(old, keras=keras, tf_keras=tf_keras, where=f"{path}")
    return _finished(path, model, f"Keras {major} {suffix}", lambdas)


def _inspect(path: Path, config: dict[str, Any], major: int, allow_lambda: bool) -> keras_config.Inspection:
    inspection = keras_config.inspect(config, where=f"{path}", keras_major=major, allow_lambda=allow_lambda)
    if major == 2:
        # The name in the file would be looked up in all of TensorFlow, so it is judged before tf_keras sees it.
        for symbol, layer in keras_config.tf_functions(config):
            if symbol not in keras2_ops.supported():
                error = keras2.unsupported_operation(symbol, layer)
                raise ModelError(f"{path}: {error.what}", next_step=error.next_step)
        known = _classes(import_tf_keras().layers) | _CONTAINERS | _OF_TF_KERAS
        keras_config.refuse_unknown_2(config, known=known, where=f"{path}")
    return inspection


def _classes(module: Any) -> frozenset[str]:
    return frozenset(name for name in dir(module) if name[0].isupper())


@contextlib.contextmanager
def _called(path: Path, suffix: str) -> Iterator[Path]:
    """The file under a name that ends in `suffix`: both Keras go by the name, and users by the content."""
    if path.suffix == suffix:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{suffix}"
        link.symlink_to(path.resolve())
        yield link


def _finished(path: Path, model: Any, label: str, lambdas: bool) -> Loaded:
    import numpy as np

    _ends(model)
    _refuse_quantized(path, model)
    model, widened = half_precision.keras_in_float32(normalised(model), where=f"{path}", lambdas=lambdas)
    for tensor in model.inputs:
        dtype = str(tensor.dtype)
        if dtype == "string" or getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
            what = dtype if dtype == "string" else "sparse or ragged"
            raise ModelError(
                f"{path}: input {tensor.name} is {what}, which no edge runtime takes.",
                next_step="Give the network dense numbers: do that preparation before the model.",
            )
    for layer in model.layers:
        for weight in layer.weights:
            values = weight.value.numpy()
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ModelError(
                    f"{path}: weight {weight.name} of layer {layer.name} holds NaN or infinity: "
                    "training diverged or the file is damaged.",
                    next_step="Take an earlier checkpoint, or train with a smaller learning rate.",
                )
    return Loaded(model=model, label=f"{label}, {half_precision.NOTE}:" if widened else label, lambdas=lambdas)


def _refuse_quantized(path: Path, model: Any) -> None:
    """Integers that `model.quantize()` made are Keras' own: no converter knows them."""
    for layer in model._flatten_layers():  # noqa: SLF001 - Keras' own walk; the public `layers` stops at wrappers
        if mode := getattr(layer, "quantization_mode", None):
            raise ModelError(
                f"{path}: the model is quantized already: layer {layer.name} holds {mode} weights, made by Keras' "
                "quantize(). No runtime of a board takes them.",
                next_step="Give the float model from before quantize(), and put `quantize` into the recipe.",
            )


def _ends(model: Any) -> tuple[list[Any], list[Any]]:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ModelError(
            f"The model {model.name} ({type(model).__name__}) has no input shape, so it has no graph.",
            next_step="Start it with keras.Input(shape=...) and save it again.",
        )
    return list(inputs), list(outputs)


def _is_flat(structure: Any) -> bool:
    if isinstance(structure, list):
        return len(structure) > 1 and not any(isinstance(part, list | tuple | dict) for part in structure)
    return not isinstance(structure, tuple | dict)


def _refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    """A declared size is binding for the reader of zipfile, so it is enough to judge what is declared."""
    declared = sum(member.file_size for member in archive.infolist())
    if declared > max(_FREE_EXPANSION_BYTES, _MAX_EXPANSION * path.stat().st_size):
        raise ModelError(
            f"{path}: unpacks to {declared >> 20} MB, over {_MAX_EXPANSION} times its size. It was not unpacked.",
            next_step="Save the model again with model.save(); Keras does not compress.",
        )


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        with archive.open(name) as stream:
            return stream.read(keras_config.MAX_CONFIG_BYTES + 1)
    except KeyError:
        raise ModelError(
            f"{path}: a zip file, but no Keras model: it has no {name}.",
            next_step="Pass a file that model.save('model.keras') wrote.",
        ) from None


def _json_member(path: Path, archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    raw = _member(path, archive, name)
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {name} inside it is not a JSON object.", next_step=_AGAIN)
    return value


def _refuse_without_config(path: Path, file: Any) -> None:
    groups = set(file.keys())
    if "layer_names" in file.attrs or groups & {"layers", "vars", "_layer_checkpoint_dependencies", "model_weights"}:
        raise ModelError(
            f"{path}: holds only weights, not the network they belong to.",
            next_step="Build the model, load_weights() into it, then model.save('model.keras') and pass that.",
        )
    raise ModelError(
        f"{path}: an HDF5 file, but no Keras model: it has no model_config.",
        next_step="Pass a file that model.save() wrote.",
    )


def _saved_model_configs(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(node path, config) of everything Keras that the folder describes, read as protobuf and JSON alone."""
    import_tensorflow()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships without types
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        metadata = path / "keras_metadata.pb"
        described = saved_metadata_pb2.SavedMetadata()
        if metadata.is_file():
            described = saved_metadata_pb2.SavedMetadata.FromString(metadata.read_bytes())
        if not saved.meta_graphs:
            raise DecodeError("no graph in saved_model.pb")
        _refuse_effects(path, saved.meta_graphs[0].graph_def)
    except DecodeError as error:
        raise ModelError(f"{path}: the SavedModel is truncated or damaged ({error}).", next_step=_AGAIN) from None
    found = [(node.node_path, node.metadata) for node in described.nodes if node.identifier != _METRIC]
    if not found:  # before TensorFlow 2.5 the same text was kept in the graph itself
        nodes = saved.meta_graphs[0].object_graph_def.nodes
        objects = [(n, node.user_object) for n, node in enumerate(nodes) if node.user_object.metadata]
        found = [("root" if n == 0 else f"node {n}", o.metadata) for n, o in objects if o.identifier != _METRIC]
    for node_path, text in found:
        try:
            value = json.loads(text)
        except ValueError:
            raise ModelError(f"{path}: the description of {node_path} is damaged.", next_step=_AGAIN) from None
        if isinstance(value, dict) and isinstance(value.get("class_name"), str):
            yield node_path, value


def _refuse_effects(path: Path, graph: Any) -> None:
    """Functions of a SavedModel run when it is loaded; a network needs neither files nor Python in them."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            if node.op in _OPS_WITH_EFFECTS:
                raise ModelError(
                    f"{path}: node {node.name} is {node.op}: it reaches files or Python when the model is loaded. "
                    "It was not loaded.",
                    next_step="Save the network without it, as .keras.",
                )


@contextlib.contextmanager
def _damaged(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ModelError(f"{path}: the {what} is truncated or damaged ({error}).", next_step=_AGAIN) from error


@contextlib.contextmanager
def _not_loadable(path: Path, reader: str) -> Iterator[None]:
    """Turns what the frameworks raise into one sentence, and keeps their chatter off the screen."""
    try:
        with third_party_warnings(), _quiet_logger("tensorflow"):
            yield
    except LOAD_ERRORS as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"{path}: {reader} cannot load it: {lines[0][:300]}",
            next_step="Check that it loads in the program that saved it. If it does, save it there again as .keras.",
        ) from error


@contextlib.contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    """tf_keras tells through TensorFlow's logger that a model without compile settings was not compiled."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
