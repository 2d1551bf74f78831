"""Any model file -> one checked, normalised `Model`. Knows the format from the content, and opens no pickle.

The result of a load is kept beside the normalised file as JSON. A second load of the same content reads that alone: it
imports neither TensorFlow nor ONNX.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from edgesmith.errors import InternalError, ModelError
from edgesmith.files import replacing, sha256_file, sha256_json, write_bytes, write_json
from edgesmith.types import Model, Signature, TensorSpec

LOADER_VERSION = 2
"""Raise it when the same file would be normalised differently: kept results of older versions are not used."""

Format = Literal["keras zip", "keras h5", "saved model", "onnx"]

_MODEL = TypeAdapter(Model)
READABLE = ".keras, .h5 (whole models of Keras 2 or 3), a Keras 2 SavedModel folder, or .onnx"
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill")
_PICKLE_MEMBERS = ("data.pkl", "constants.pkl", ".pkl", ".pickle")
_HEAD_BYTES = 16


def load_model(path: Path, *, workdir: Path, allow_lambda: bool = False) -> Model:
    """Reads, checks and normalises a model.

    Args:
        path: a `.keras`, a whole-model `.h5`, a Keras 2 SavedModel folder, or an `.onnx`.
        workdir: where the normalised file and the record of this load are kept, named by content.
        allow_lambda: open Keras Lambda layers. They are code of the file and run with your rights.

    Returns:
        kind "keras" with a Keras 3 `.keras`, or kind "onnx" with a self-contained `.onnx`.

    Raises:
        ModelError: not there, damaged, another format, or a model that cannot be deployed; names the layer or operator.
    """
    found = detect(path)
    source = sha256_file(path)
    record = workdir / f"{source}.json"
    if (kept := _kept(record, path)) is not None and (allow_lambda or not kept.lambdas):
        return kept
    if found == "onnx":
        return _load_onnx(path, source, workdir, record)
    return _load_keras(path, found, source, workdir, record, allow_lambda=allow_lambda)


def open_keras(model: Model) -> Any:
    """The live keras.Model (Keras 3, not compiled) of a loaded or saved `Model`.

    Raises:
        ModelError: an ONNX model, or the file was changed or removed since it was written.
    """
    from edgesmith.frameworks import import_keras, third_party_warnings

    if model.kind != "keras":
        raise ModelError(
            f"{model.origin} is an ONNX model: it has no Keras layers to train or change.",
            next_step="Leave out steps that train, or pass the Keras model.",
        )
    keras = import_keras()
    try:
        with third_party_warnings():
            return keras.saving.load_model(model.path, compile=False, safe_mode=not model.lambdas)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{model.path}: the normalised model cannot be read back: {_first_line(error)}",
            next_step="Remove that file: the next run writes it again.",
        ) from error


def save_keras(keras_model: Any, path: Path, *, sha256: str, origin: str) -> Model:
    """Writes a Keras 3 model whole or not at all, and describes it.

    Args:
        keras_model: keras.Model with a graph. Loss, metrics and optimizer are not written.
        path: ends in `.keras`.
        sha256: names the content: of the source file, or the key of the step that made it.
        origin: where it came from, for people.

    Raises:
        ModelError: the model has no graph, or Keras cannot write a layer of it.
    """
    from edgesmith.frameworks import third_party_warnings
    from optimizer import cost
    from optimizer.load_keras import normalised

    model = normalised(keras_model)
    try:
        with replacing(path) as part, third_party_warnings():
            model.save(part)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"{origin}: Keras cannot write the model {model.name}: {_first_line(error)}",
            next_step="Replace the layer it names with one that Keras can save.",
        ) from error
    try:
        macs: int | None = cost.count_macs(model)
    except ModelError:  # the count is a figure of the report, and None there has its reason in count_macs
        macs = None
    return Model(
        kind="keras",
        path=path,
        sha256=sha256,
        signature=_signature(model),
        origin=origin,
        parameters=cost.parameters(model),
        macs=macs,
        lambdas=any(type(layer).__name__ == "Lambda" for layer in _all_layers(model)),
    )


def detect(path: Path) -> Format:
    """The format of a model, from its first bytes; names only decide what may be refused unread.

    Raises:
        ModelError: not there, empty, a pickle, or a format that is not taken.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such model.", next_step="Check `model:` in the config.")
    if path.is_dir():
        return _detect_folder(path)
    if path.suffix.lower() in _PICKLES:
        return _refuse_pickle(path)
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise ModelError(f"{path}: the file is empty.", next_step="Copy or save the model again.")
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _refuse_pickle(path)
    if head.startswith(b"PK"):
        return _detect_zip(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras h5"
    if head[4:8] == b"TFL3":
        raise ModelError(
            f"{path}: a .tflite is a result, not an input: it cannot be trained, pruned or compiled for other targets.",
            next_step="Pass the Keras or ONNX model it was made from.",
        )
    return _detect_by_name(path, head)


def _detect_folder(path: Path) -> Format:
    if (path / "saved_model.pb").is_file():
        return "saved model"
    if (path / "metadata.json").is_file() and (path / "config.json").is_file():
        raise ModelError(
            f"{path}: the unpacked inside of a .keras file.", next_step="Pass the .keras file itself, not unpacked."
        )
    raise ModelError(
        f"{path}: a folder without saved_model.pb is no model.", next_step=f"What can be read: {READABLE}."
    )


def _detect_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: the Keras file is truncated or damaged ({error}).",
            next_step="Copy the file again from where it was made (compare sizes), or save the model again.",
        ) from None
    if any(name.endswith(_PICKLE_MEMBERS) for name in names):
        return _refuse_pickle(path)
    return "keras zip"


def _detect_by_name(path: Path, head: bytes) -> Format:
    suffix = path.suffix.lower()
    if suffix in (".keras", ".h5", ".hdf5"):
        raise ModelError(
            f"{path}: is named {suffix}, and its content is not: truncated, damaged or something else.",
            next_step="Copy or save the model again. A git-lfs pointer is fetched with `git lfs pull`.",
        )
    if suffix == ".pb":
        raise ModelError(
            f"{path}: a frozen graph, or one file of a SavedModel.",
            next_step="Pass the SavedModel folder, or better the .keras file.",
        )
    # ONNX has no magic; its first field is ir_version, a small number, tag 0x08.
    if suffix == ".onnx" or (head[0] == 0x08 and 1 <= head[1] <= 32):
        return "onnx"
    raise ModelError(f"{path}: not a model format known here.", next_step=f"What can be read: {READABLE}.")


def _refuse_pickle(path: Path) -> Format:
    raise ModelError(
        f"{path}: a pickle, or a format that may hold one. A pickle is never opened: opening it runs code of the file.",
        next_step="Export the model: torch.onnx.export(...) for PyTorch, model.save('model.keras') for Keras.",
    )


def _load_keras(path: Path, found: Format, source: str, workdir: Path, record: Path, *, allow_lambda: bool) -> Model:
    from optimizer import load_keras

    readers = {
        "keras zip": load_keras.load_zip,
        "keras h5": load_keras.load_h5,
        "saved model": load_keras.load_saved_model,
    }
    loaded = readers[found](path, allow_lambda=allow_lambda)
    model = save_keras(loaded.model, workdir / f"{source}.keras", sha256=source, origin=f"{loaded.label} {path}")
    if model.lambdas and not allow_lambda:
        raise InternalError(f"{path}: a Lambda layer came through the check of the config.")
    _keep(record, model, label=loaded.label, companions={})
    return model


def _load_onnx(path: Path, source: str, workdir: Path, record: Path) -> Model:
    from optimizer.cost import onnx_macs
    from optimizer.load_onnx import load_onnx

    loaded = load_onnx(path)
    companions = _digests(path, loaded.companions)
    sha256 = _combined(source, companions)
    target = workdir / f"{sha256}.onnx"
    if loaded.changed:
        write_bytes(target, loaded.proto.SerializeToString())
    else:
        with replacing(target) as part:
            shutil.copyfile(path, part)
    model = Model(
        kind="onnx",
        path=target,
        sha256=sha256,
        signature=loaded.signature,
        origin=f"{loaded.label} {path}",
        parameters=loaded.parameters,
        macs=onnx_macs(target),
        quantized=loaded.quantized,
    )
    _keep(record, model, label=loaded.label, companions=companions)
    return model


def _digests(path: Path, companions: Sequence[str]) -> dict[str, str]:
    return {name: sha256_file(path.parent / name) for name in companions}


def _combined(source: str, companions: dict[str, str]) -> str:
    return sha256_json([source, companions]) if companions else source


def _keep(record: Path, model: Model, *, label: str, companions: dict[str, str]) -> None:
    kept = {
        "loader_version": LOADER_VERSION,
        "label": label,
        "companions": companions,
        "file": model.path.name,
        "file_sha256": sha256_file(model.path),
        "model": _MODEL.dump_python(model, mode="json"),
    }
    write_json(record, kept)


def _kept(record: Path, path: Path) -> Model | None:
    """The result of an earlier load; None where there is none, or anything about it is not as it was left."""
    try:
        kept = json.loads(record.read_bytes())
        if kept["loader_version"] != LOADER_VERSION:
            return None
        file = record.parent / kept["file"]
        if any(not (path.parent / name).is_file() for name in kept["companions"]):
            return None
        if _digests(path, list(kept["companions"])) != kept["companions"]:
            return None
        if not file.is_file() or sha256_file(file) != kept["file_sha256"]:
            return None
        # A folder of runs may be moved, and the same content may come under another name.
        return _MODEL.validate_python(kept["model"] | {"origin": f"{kept['label']} {path}", "path": file})
    except (OSError, ValueError, KeyError, TypeError):  # a torn or older record: load afresh
        return None


def _signature(model: Any) -> Signature:
    inputs = zip(_unique([_layer_name(tensor) for tensor in model.inputs]), model.inputs, strict=True)
    outputs = zip(_unique([_layer_name(tensor) for tensor in model.outputs]), model.outputs, strict=True)
    return Signature(inputs=_tensor_specs(inputs), outputs=_tensor_specs(outputs))


def _tensor_specs(named: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=str(n), shape=tuple(t.shape), dtype=str(t.dtype)) for n, t in named)


def _all_layers(model: Any) -> list[Any]:
    """Layers of nested models and inside wrappers too."""
    return list(model._flatten_layers())  # noqa: SLF001 - Keras' own walk; the public `layers` stops at wrappers


def _layer_name(tensor: Any) -> str:
    """The layer's name and not the tensor's own, which changes when the model is saved and read back."""
    return str(tensor._keras_history.operation.name)  # noqa: SLF001 - no public way from a tensor to its layer


def _unique(names: Sequence[str]) -> list[str]:
    """Outputs are called after their layer; a layer with several gets numbers."""
    return [name if names.index(name) == at else f"{name}_{names[:at].count(name)}" for at, name in enumerate(names)]


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
