"""What a model answers on this machine: the reference that agreement, hints and the ablation rest on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import targets
from calibration import inputs
from edgesmith.pipeline.store import Store
from edgesmith.pipeline.workspace import Workspace
from edgesmith.toolchain import versions
from edgesmith.types import Model, SampleSet
from optimizer.load import open_keras
from targets.keras_model import one_or_list

_BATCH = 256

Outputs = tuple[NDArray[np.float32], ...]


def host_outputs(model: Model, samples: SampleSet, work: Workspace) -> Outputs:
    """Float outputs of a model for every sample, computed once and kept.

    Returns:
        One float32 array [N, ...] per output of the model.
    """
    key = _key(model, samples, work.store)
    entry = work.store.find("outputs", key)
    if entry is None:
        label = f"{model.kind} model on {len(samples)} samples, on this machine"
        with work.progress.task(label, total=len(samples)) as task:
            parts = []
            run = _runner(model)
            for start in range(0, len(samples), _BATCH):
                batch = samples.x[start : start + _BATCH]
                parts.append(run(batch))
                task.advance(len(batch))
        outputs = tuple(np.concatenate(column).astype(np.float32, copy=False) for column in zip(*parts, strict=True))
        with work.store.making("outputs", key) as draft:
            for index, array in enumerate(outputs):
                np.save(draft.folder / f"{index}.npy", array)
            draft.record["count"] = len(outputs)
        return outputs
    return tuple(np.load(entry.folder / f"{index}.npy") for index in range(entry.record["count"]))


def outputs_are_kept(model: Model, samples: SampleSet, store: Store) -> bool:
    """Whether `host_outputs` would have nothing to compute."""
    return store.find("outputs", _key(model, samples, store)) is not None


def _key(model: Model, samples: SampleSet, store: Store) -> str:
    toolchain = versions(("tensorflow", "keras", "onnxruntime"))
    return store.key("outputs", {"model": model.sha256, "samples": samples.sha256, "toolchain": toolchain})


def _runner(model: Model) -> Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]:
    if model.kind == "onnx":
        target = targets.get("onnxruntime")
        return lambda batch: tuple(target.outputs(model.path, batch))
    network = open_keras(model)

    def run(batch: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        answer = network.predict_on_batch(one_or_list(inputs.split(batch)))
        answers = answer if isinstance(answer, (list, tuple)) else [answer]
        return tuple(np.asarray(part) for part in answers)

    return run
