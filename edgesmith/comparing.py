"""`edgesmith compare`: how far one model is from another, at its outputs or layer by layer."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import targets
from calibration.arrays import fits
from calibration.inputs import split
from calibration.samples import load_samples, some
from edgesmith.config import DataSource, load_config
from edgesmith.errors import DataError, ModelError
from edgesmith.progress import Progress
from edgesmith.types import Artifact, Comparison, SampleSet, Scheme, TensorSpec
from optimizer.compare import compare
from optimizer.load import load_model, open_keras
from optimizer.per_layer import PerLayer, TensorRow, compare_layers
from optimizer.per_layer_repro import number, write_repro
from targets import plan_files
from targets.artifact_tensors import ArtifactTensors, open_tensors
from targets.base import default_bounds
from targets.found import float_inputs, read_artifact
from targets.plan_export import make_plan_graph
from targets.plan_graph import PlanGraph

_COMPILED = (".tflite", ".onnx")
_BATCH = 64
_SAME_NETWORK_DB = 20.0
"""Repairs change nothing but the rounding of float32; biases that take back a shift of the weights, a little."""

Run = Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputsCompared:
    """Two models at their outputs.

    Attributes:
        comparison: the second against the first.
        min_sqnr_db: the bound; None where the user gave none.
    """

    comparison: Comparison
    min_sqnr_db: float | None

    @property
    def below(self) -> bool:
        """Whether the bound is broken."""
        return self.min_sqnr_db is not None and not self.comparison.sqnr_db >= self.min_sqnr_db

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        found = self.comparison
        return {
            **_decibels("sqnr_db", found.sqnr_db),
            "cosine": found.cosine,
            "max_abs": found.max_abs,
            "top1_agreement": found.top1_agreement,
            "samples": found.n,
            "min_sqnr_db": self.min_sqnr_db,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersCompared:
    """A float model and what was compiled from it.

    Attributes:
        found: the comparison.
        repro: folder with the first bad layer; None where none was written.
    """

    found: PerLayer
    repro: Path | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        first, noisiest = self.found.first_bad, self.found.noisiest
        return {
            "first_bad": first and {"layer": first.layer, "tensor": first.tensor},
            "noisiest": noisiest and {"layer": noisiest.layer, "tensor": noisiest.tensor},
            "min_sqnr_db": self.found.min_sqnr_db,
            "samples": self.found.samples,
            "tensors": [_row(row) for row in self.found.rows],
            "not_compared": list(self.found.missing),
            "repro": None if self.repro is None else str(self.repro),
        }


def compare_outputs(
    first: Path,
    second: Path,
    data: str,
    *,
    samples: int,
    min_sqnr_db: float | None,
    progress: Progress,
    allow_lambda: bool = False,
) -> OutputsCompared:
    """Runs both models over the same samples.

    Args:
        first: the reference: a Keras model, `.onnx` or `.tflite`.
        second: the one in question, in any of these forms.
        data: as `source` in a config, or a config, whose evaluation set is taken.
        samples: at most so many.
        min_sqnr_db: a bound, or None.
        progress: told what is done.
        allow_lambda: open Keras Lambda layers: code of the file.

    Raises:
        ModelError: a file that cannot be read, or outputs of different shapes.
        DataError: samples that cannot be read, or do not fit the first model.
    """
    with tempfile.TemporaryDirectory(prefix="edgesmith-compare-") as scratch:
        specs, run_first = _opened(first, Path(scratch), allow_lambda=allow_lambda)
        theirs, run_second = _opened(second, Path(scratch), allow_lambda=allow_lambda)
        _same_inputs(first, specs, second, theirs)
        held = _samples(data, specs, samples, progress)
        with progress.task("comparing outputs", total=2):
            answers = [_answers(run, held.x) for run in (run_first, run_second)]
    return OutputsCompared(comparison=compare(answers[0], answers[1]), min_sqnr_db=min_sqnr_db)


def compare_per_layer(
    model: Path,
    artifact: Path,
    data: str,
    *,
    samples: int,
    min_sqnr_db: float | None,
    repro: Path | None,
    progress: Progress,
    plan: Path | None = None,
    allow_lambda: bool = False,
    command: Sequence[str] | None = None,
) -> LayersCompared:
    """Compares every tensor of a compiled file with the float model's.

    Args:
        model: float: a Keras model or an `.onnx`.
        artifact: the `.tflite` or `.onnx` made from it.
        data: as `source` in a config, or a config, whose evaluation set is taken.
        samples: at most so many.
        min_sqnr_db: below it a layer is bad; None: the bound that a run holds artifacts of this precision to.
        repro: folder for the first bad layer; None: not written.
        progress: told what is done.
        plan: folder of the quantization plan that the artifact follows: its float network, equal to the model but for
            channels that were scaled, is the reference inside.
        allow_lambda: open Keras Lambda layers: code of the file.
        command: what the repro tells as the call; None: this process's own.

    Raises:
        ModelError: a file that cannot be read, an artifact that is not made from the model, or another model's plan.
        DataError: samples that cannot be read, or do not fit the model.
    """
    if model.suffix == ".tflite":
        raise ModelError(
            f"{model}: a .tflite file does not tell its layers.",
            next_step="Give the Keras or ONNX model that it was made from first, the compiled file second.",
        )
    record = read_artifact(artifact)
    with tempfile.TemporaryDirectory(prefix="edgesmith-compare-") as scratch:
        reference = load_model(model, workdir=Path(scratch), allow_lambda=allow_lambda)
        specs = reference.signature.inputs
        _same_inputs(model, specs, artifact, float_inputs(record))
        held = _samples(data, specs, samples, progress)
        graph = make_plan_graph(reference, progress)
        if plan is not None:
            graph = _repaired(plan, model, graph, held.x)
        opened = open_tensors(record)
        bound = default_bound(record, opened) if min_sqnr_db is None else min_sqnr_db
        found = compare_layers(graph, opened, held.x, bound, progress)
    first = found.first_bad
    if repro is None or first is None:
        return LayersCompared(found=found, repro=None)
    write_repro(found, first, opened, held.x, repro, command=command or ["edgesmith", *sys.argv[1:]])
    return LayersCompared(found=found, repro=repro)


def _repaired(folder: Path, model: Path, graph: PlanGraph, x: NDArray[Any]) -> PlanGraph:
    """The float network of a plan."""
    found = plan_files.read(folder).graph
    given = split(x[:1])
    same = len(found.inputs) == len(graph.inputs) and len(found.outputs) == len(graph.outputs)
    if same:
        answers = [list(next(each.run(given)).values()) for each in (graph, found)]
        same = all(a.shape == b.shape for a, b in zip(*answers, strict=True))
        same = same and compare(*answers).sqnr_db >= _SAME_NETWORK_DB
    if not same:
        raise ModelError(
            f"{folder}: this plan was made for another network than {model}.",
            next_step="Give the plan and the model that the artifact was made from, or leave the plan out.",
        )
    return found


def default_bound(artifact: Artifact, opened: ArtifactTensors) -> float:
    """The SQNR in dB that a run asks of an artifact that stores its numbers like this one.

    Args:
        artifact: the file.
        opened: the same.
    """
    inside = {grid.dtype for grid in opened.grids.values()}
    if inside & {"int16", "uint16"}:
        scheme = Scheme.INT16X8
    elif inside:
        scheme = Scheme.INT8
    else:
        weights = {str(kernel.dtype) for kernel in targets.get(artifact.target).kernels(artifact.path).values()}
        whole = any(np.dtype(name).kind in "iu" for name in weights)
        scheme = Scheme.DYNAMIC if whole else Scheme.FLOAT16 if "float16" in weights else Scheme.NONE
    return default_bounds(scheme.precision).min_sqnr_db


def _opened(path: Path, scratch: Path, *, allow_lambda: bool) -> tuple[tuple[TensorSpec, ...], Run]:
    """A model's inputs, and what computes its outputs."""
    if path.suffix in _COMPILED:
        artifact = read_artifact(path)
        target = targets.get(artifact.target)
        return tuple(float_inputs(artifact)), lambda x: tuple(target.outputs(path, x))
    model = load_model(path, workdir=scratch, allow_lambda=allow_lambda)
    network = open_keras(model)

    def run(x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        answer = network.predict_on_batch(x if x.dtype.names is None else [x[name] for name in x.dtype.names])
        return tuple(np.asarray(part) for part in (answer if isinstance(answer, (list, tuple)) else [answer]))

    return model.signature.inputs, run


def _answers(run: Run, x: NDArray[Any]) -> list[NDArray[Any]]:
    parts = [run(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _same_inputs(first: Path, ours: Sequence[TensorSpec], second: Path, theirs: Sequence[TensorSpec]) -> None:
    def form(specs: Sequence[TensorSpec]) -> list[tuple[int | None, ...]]:
        return [tuple(dim if isinstance(dim, int) else None for dim in spec.shape[1:]) for spec in specs]

    pairs = list(zip(form(ours), form(theirs), strict=False))
    fits = len(ours) == len(theirs) and all(
        len(a) == len(b) and all(None in (m, n) or m == n for m, n in zip(a, b, strict=True)) for a, b in pairs
    )
    if not fits:
        raise ModelError(
            f"{first} takes {', '.join(map(str, ours))}; {second} takes {', '.join(map(str, theirs))}: the same "
            "samples do not fit both.",
            next_step="Compare a compiled file with the model that it was made from.",
        )


def _samples(data: str, specs: Sequence[TensorSpec], samples: int, progress: Progress) -> SampleSet:
    source, root = _source(data)

    def load(count: int | None) -> SampleSet:
        wanted = source.model_copy(update={"samples": count})
        return load_samples(wanted, role="evaluation", specs=specs, root=root, seed=0, progress=progress)

    try:
        held = load(samples)
    except DataError:  # fewer than that, or what is wrong is told now
        held = some(load(None), samples, 0)
    if len(held) == 0:
        raise DataError(f"{data}: there are no samples in it.")
    for x, spec in zip(split(held.x), specs, strict=True):
        if not fits(x.shape[1:], spec.shape[1:]):
            raise DataError(f"{data}: the samples are {x.dtype}{['N', *x.shape[1:]]}, the model takes {spec}.")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise DataError(f"{data}: there are NaN or infinite values in the samples.")
    return held


def _source(data: str) -> tuple[DataSource, Path]:
    """`data` itself, or the evaluation set of a config, which also tells how images are prepared."""
    if not data.endswith((".yaml", ".yml")):
        return DataSource(source=data), Path.cwd()
    loaded = load_config(Path(data))
    return loaded.config.data.evaluation, loaded.root


def _row(row: TensorRow) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "kind": row.kind,
        "tensor": row.tensor,
        "artifact_tensor": row.artifact_tensor,
        "matched": row.matched,
        **_decibels("sqnr_db", row.sqnr_db),
        **_decibels("own_sqnr_db", row.own_sqnr_db),
        **({"rescaled_sqnr_db": number(row.rescaled_sqnr_db)} if row.rescaled else {}),
        "float_range": [number(end) for end in row.float_range],
        "artifact_range": [number(end) for end in row.artifact_range],
        "grid": row.grid and {**asdict(row.grid), "low": row.grid.low, "high": row.grid.high},
        "saturated": row.saturated,
        "values": row.values,
        "dead_channels": row.dead_channels,
        "channels": row.channels,
        "rescaled": row.rescaled,
        "bad": row.bad,
    }


def _decibels(name: str, value: float | None) -> dict[str, Any]:
    if value is None:
        return {name: None, f"{name}_reason": "its inputs cannot be compared"}
    if math.isfinite(value):
        return {name: value}
    return {name: None, f"{name}_reason": "the values are the same" if value > 0 else "no signal, or NaN"}
