"""Compiled files that edgesmith may not have made itself: what they are, read with as little as a board has."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import targets
from edgesmith.errors import ModelError
from edgesmith.files import gzip_size, sha256_file
from edgesmith.types import Artifact, TensorSpec
from targets import tensorrt_build
from targets.base import Target

PRECISION = "as found"
"""Nobody told how its numbers are stored."""


def read_artifact(path: Path) -> Artifact:
    """The record of a compiled file.

    Its sparsity is None where the package that reads the weights is not installed: measuring needs only the runtime.

    Raises:
        ModelError: not there, broken, or no target has files of this kind.
    """
    target = _target_of(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file.")
    build = _build(path) if path.suffix == ".onnx" else None
    if build is not None:
        target = targets.get("tensorrt")
    try:
        signature = target.signature(path)
    except ImportError as error:
        raise ModelError(
            f"{path}: cannot be read without the package {error.name}.",
            next_step='pip install "edgesmith[board]" brings what measuring a ready model needs.',
        ) from None
    return Artifact(
        target=target.NAME,
        path=path,
        format=target.FORMAT,
        precision=PRECISION,
        sha256=sha256_file(path),
        signature=signature,
        toolchain={},
        made_from="",
        size_bytes=path.stat().st_size,
        gzip_bytes=gzip_size(path),
        sparsity=_sparsity(target, path),
        build=build or {},
    )


def _build(path: Path) -> dict[str, Any] | None:
    """How a Jetson is to build the file; None where it was not written for one, or nothing here can tell."""
    if importlib.util.find_spec("onnx") is None:
        return None
    return tensorrt_build.read(path)


def float_inputs(artifact: Artifact) -> tuple[TensorSpec, ...]:
    """The inputs as samples are given: an integer model's are floats, quantized on the board with its own scale.

    Their names are those that the Keras model had, where the converter wrapped them ("serving_default_image:0").
    """
    return tuple(_as_given(spec, artifact.format) for spec in artifact.signature.inputs)


def _as_given(spec: TensorSpec, file_format: str) -> TensorSpec:
    if file_format != "tflite":
        return replace(spec, shape=(None, *spec.shape[1:]))
    name = re.sub(r":0$", "", re.sub(r"^(serving_default|serve)_", "", spec.name))
    dtype = "float32" if spec.dtype in ("int8", "int16") else spec.dtype
    return TensorSpec(name=name, shape=(None, *spec.shape[1:]), dtype=dtype)


def _target_of(path: Path) -> Target:
    """By the suffix; of two targets with the same, the one that runs its files on every machine."""
    known_targets = [targets.get(name) for name in targets.names()]
    formats = {one.FORMAT: one.NAME for one in known_targets if not one.capabilities().stand_in}
    name = formats.get(path.suffix.removeprefix("."))
    if name is None:
        known = ", ".join(f".{suffix}" for suffix in sorted(formats))
        raise ModelError(f"{path}: no target runs files of this kind.", next_step=f"Give one of: {known}.")
    return targets.get(name)


def _sparsity(target: Target, path: Path) -> float | None:
    try:
        weights = list(target.kernels(path).values())
    except ImportError:
        return None
    total = sum(kernel.size for kernel in weights)
    return sum(int((kernel == 0).sum()) for kernel in weights) / total if total else 0.0
