"""A ready model: compiled already, so that a board alone can measure, judge and report it. No framework is needed.

A `.tflite` is always ready. An `.onnx` is ready where the config has no recipe, and either names a float `reference:`,
or this machine lacks what compiles ONNX models, as a board with the light installation does, or `targets: [tensorrt]`
meets a file that was made for it, by its Q/DQ. Elsewhere it is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import targets
from edgesmith.config import LoadedConfig
from edgesmith.errors import ConfigError, ModelError
from edgesmith.types import Artifact, Model, Signature
from targets import tensorrt_ready
from targets.found import float_inputs, read_artifact

_COMPARE = ("accuracy_drop_pp", "agreement_min", "size_ratio", "latency_p50_ratio", "latency_p95_ratio")
"""Budgets that say something about two artifacts, or about an artifact and the model it came from."""

_NAME_REFERENCE = "Name the float version as `reference: model_float.tflite`, or use an absolute budget."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A ready model.

    Attributes:
        model: what the later stages know of it.
        artifact: the file itself.
        reference: its float version; None where none was named.
    """

    model: Model
    artifact: Artifact
    reference: Artifact | None


def find_ready(loaded: LoadedConfig) -> Ready | None:
    """The config's model if it is ready; None where it has to be compiled first.

    Raises:
        ConfigError: something is asked for that a ready model cannot give; names file and line.
        ModelError: a file is not there, broken, or does not go with the other.
    """
    config = loaded.config
    path = loaded.resolve(config.model)
    if not _is_ready(loaded, path):
        if config.reference is not None:
            raise ConfigError(
                f"{loaded.where('reference')}: 'reference' goes with a ready model, a .tflite or an .onnx without "
                f"recipe; {config.model.name} is compiled by this run, and compared with itself in float.",
                next_step="Remove `reference:`.",
            )
        return None
    _refuse_recipe(loaded, path)
    artifact = _for_target(loaded, read_artifact(path))
    _refuse_other_targets(loaded, artifact)
    _refuse_comparisons(loaded)
    reference = None if config.reference is None else _reference(loaded, artifact)
    model = Model(
        kind="ready",
        path=path,
        sha256=artifact.sha256,
        signature=Signature(inputs=float_inputs(reference or artifact), outputs=artifact.signature.outputs),
        origin=f"ready {artifact.format} {path}",
        parameters=None,
    )
    return Ready(model=model, artifact=artifact, reference=reference)


def _is_ready(loaded: LoadedConfig, path: Path) -> bool:
    if path.suffix == ".tflite":
        return True
    if path.suffix != ".onnx" or loaded.config.recipe:
        return False
    if loaded.config.reference is not None or not targets.get("onnxruntime").state().available:
        return True
    return loaded.config.targets == (tensorrt_ready.TARGET,) and tensorrt_ready.is_meant(path)


def _for_target(loaded: LoadedConfig, artifact: Artifact) -> Artifact:
    """An `.onnx` is ONNX Runtime's, unless TensorRT is asked for by name."""
    asked = artifact.format == "onnx" and loaded.config.targets == (tensorrt_ready.TARGET,)
    return tensorrt_ready.adopt(artifact) if asked else artifact


def _refuse_recipe(loaded: LoadedConfig, path: Path) -> None:
    if not loaded.config.recipe:
        return
    steps = ", ".join(name for step in loaded.config.recipe for name in step)
    state = targets.get("tflite").state()
    here = "" if state.available else f" ({state.fix} brings what that needs; or compress on a workstation and copy it)"
    raise ConfigError(
        f"{loaded.where('recipe')}: {path.name} is compiled already: it can be measured, not changed ({steps}).",
        next_step=f"Remove `recipe:` to measure it as it is, or give the Keras or ONNX model it was made from{here}.",
    )


def _refuse_other_targets(loaded: LoadedConfig, artifact: Artifact) -> None:
    if loaded.config.targets and loaded.config.targets != (artifact.target,):
        other = " Or `targets: [tensorrt]`, for a Jetson." if artifact.target == "onnxruntime" else ""
        raise ConfigError(
            f"{loaded.where('targets')}: {artifact.path.name} is ready for {artifact.target}, and for nothing else.",
            next_step=f"Remove `targets:`, or write `targets: [{artifact.target}]`.{other}",
        )


def _refuse_comparisons(loaded: LoadedConfig) -> None:
    config = loaded.config
    if config.reference is not None:
        return
    for key in _COMPARE:
        if getattr(config.budget, key) is not None:
            raise ConfigError(
                f"{loaded.where('budget', key)}: {key} compares with a float model, and {config.model.name} comes "
                "without one: it is ready, and no `reference:` is named.",
                next_step=_NAME_REFERENCE,
            )
    if config.task.metric == "agreement":
        raise ConfigError(
            f"{loaded.where('task', 'metric')}: agreement compares with a float model, and {config.model.name} comes "
            "without one: it is ready, and no `reference:` is named.",
            next_step="Name the float version as `reference:`, or use a metric of its own, such as top1.",
        )


def _reference(loaded: LoadedConfig, artifact: Artifact) -> Artifact:
    where, path = loaded.where("reference"), loaded.resolve(loaded.config.reference or "")
    reference = _for_target(loaded, read_artifact(path))
    if reference.target != artifact.target:
        raise ConfigError(
            f"{where}: the reference {path.name} is for {reference.target}, the model for {artifact.target}: "
            "figures of two runtimes are not compared.",
            next_step=f"Give the float model as .{artifact.format}.",
        )
    for what, ours, theirs in (
        ("input", artifact.signature.inputs, reference.signature.inputs),
        ("output", artifact.signature.outputs, reference.signature.outputs),
    ):
        if [spec.shape[1:] for spec in ours] != [spec.shape[1:] for spec in theirs]:
            raise ModelError(
                f"{where}: {path.name} is no version of {artifact.path.name}: their {what}s are "
                f"{', '.join(map(str, theirs))} and {', '.join(map(str, ours))}.",
                next_step="Name the float model that was quantized.",
            )
    return reference
