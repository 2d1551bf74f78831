"""Where an int8 file loses its accuracy: each tensor of a compiled file against the float network's, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.errors import ModelError
from edgesmith.progress import Progress
from optimizer.tensor_sums import TensorSums
from targets import onnx_file
from targets.artifact_tensors import ArtifactTensors, Grid
from targets.plan_cut import Cut, cut
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp
from targets.tensor_pairs import REARRANGES, Pair, pair_tensors
from targets.tflite_match import planned_values

CHUNK = 8
"""Samples whose tensors are held at a time; the first so many decide which tensor is which."""

_CLEARLY_DB = 6.0
"""Twice the amplitude: more than noise that adds up differently."""

_LAST_AXIS = ("Gemm", "MatMul", "LayerNormalization", "LayerNorm", "Gelu", "Softmax")
_SECOND_AXIS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_ANY_AXIS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "ReduceMean", "Gather", "Slice", "Split")

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """One tensor of the float network that the artifact has, too.

    Attributes:
        layer: the user's layer that computes it; an input's own name.
        kind: ONNX op type; "Input".
        tensor: in the plan graph.
        artifact_tensor: in the artifact.
        matched: how it was found, see `targets.tensor_pairs.Pair.how`.
        sqnr_db: of the artifact's values against the float model's, 10 log10(sum f^2 / sum (f - a)^2); inf where they
            are the same, -inf where they are NaN or the float tensor is all zeros.
        own_sqnr_db: the same against what the float layer makes of the artifact's own inputs: what this layer alone
            adds. None where those inputs are not in the artifact.
        float_range: smallest and largest value of the float model.
        artifact_range: of the artifact.
        grid: integers that hold it; None where it is float.
        saturated: values at the end of the grid where the float value lies at least half a step beyond it.
        values: in the tensor, over all samples.
        dead_channels: channels that are constant in the artifact and not in the float model; None where the tensor has
            no channel axis that is known.
        channels: in all.
        rescaled_sqnr_db: as `sqnr_db`, after each channel of the float tensor was multiplied by the factor that fits
            best; -inf where the channel axis is not known.
        rescaled: its channels are the float model's times a factor each, and what follows takes the factors out again:
            a repair (equalization), no damage.
        bad: below the bound, and not rescaled.
    """

    layer: str
    kind: str
    tensor: str
    artifact_tensor: str
    matched: str
    sqnr_db: float
    own_sqnr_db: float | None
    float_range: tuple[float, float]
    artifact_range: tuple[float, float]
    grid: Grid | None
    saturated: int
    values: int
    dead_channels: int | None
    channels: int | None
    rescaled_sqnr_db: float
    rescaled: bool
    bad: bool

    @property
    def saturated_share(self) -> float:
        """Of all values."""
        return self.saturated / self.values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerLayer:
    """The whole comparison.

    Attributes:
        rows: in the order of computing.
        missing: tensors of the float network that the artifact has none for: fused, or not recognised.
        min_sqnr_db: below it a tensor is bad.
        samples: compared.
        worst_sample: index of the sample in which the first bad tensor is furthest off; 0 where none is bad.
        graph: the float network.
        pairs: by tensor of the plan graph.
    """

    rows: tuple[TensorRow, ...]
    missing: tuple[str, ...]
    min_sqnr_db: float
    samples: int
    worst_sample: int
    graph: PlanGraph
    pairs: Mapping[str, Pair]

    @property
    def first_bad(self) -> TensorRow | None:
        """The first tensor below the bound."""
        return next((row for row in self.rows if row.bad), None)

    @property
    def noisiest(self) -> TensorRow | None:
        """The tensor whose layer adds most noise of its own."""
        known = [row for row in self.rows if row.own_sqnr_db is not None]
        return min(known, key=lambda row: row.own_sqnr_db or 0.0, default=None)


def compare_layers(
    graph: PlanGraph, artifact: ArtifactTensors, x: Array, min_sqnr_db: float, progress: Progress
) -> PerLayer:
    """Compares every tensor that both have.

    Args:
        graph: the float network: the reference.
        artifact: an open file made from it.
        x: samples in the float model's dtype, [N, ...]; several inputs as in `calibration.inputs`.
        min_sqnr_db: the bound.
        progress: told about samples.

    Raises:
        ModelError: the artifact has none of the network's tensors.
    """
    sums: dict[str, TensorSums] = {}
    pairs: dict[str, Pair] = {}
    parts: dict[str, _Part] = {}
    missing: list[str] = []
    with progress.task("comparing layers", total=len(x)) as task:
        for start in range(0, len(x), CHUNK):
            chunk = x[start : start + CHUNK]
            ours, theirs = float_tensors(graph, chunk), artifact.run(chunk)
            if not start:
                pairs = {
                    pair.tensor: pair for pair in pair_tensors(graph, ours, theirs, artifact.inputs, artifact.outputs)
                }
                if not pairs:
                    raise ModelError(
                        "The artifact has none of the model's tensors.",
                        next_step="Give the float model that it was made from.",
                    )
                missing = [name for name in ours if name not in pairs]
                axes = channel_axes(graph, ours)
                grids = {name: artifact.grids.get(pair.name) for name, pair in pairs.items()}
                sums = {name: TensorSums(axes.get(name), grids[name]) for name in pairs}
                parts = _parts(graph, pairs, ours)
            aligned = {name: pair.planned(theirs[pair.name], ours[name].shape) for name, pair in pairs.items()}
            inputs_of = dict(zip(graph.inputs, (column[:, None] for column in inputs.split(chunk)), strict=True))
            for name, values in aligned.items():
                expected = parts[name].run({**inputs_of, **aligned}) if name in parts else None
                sums[name].add(ours[name], values, expected)
            task.advance(len(chunk))
    rescaled = _rescaled(graph, parts, sums, min_sqnr_db)
    rows = tuple(_row(graph, pairs[name], sums[name], parts.get(name), rescaled, min_sqnr_db) for name in pairs)
    first = next((row for row in rows if row.bad), None)
    worst = 0 if first is None else sums[first.tensor].worst_sample()
    return PerLayer(
        rows=rows,
        missing=tuple(missing),
        min_sqnr_db=min_sqnr_db,
        samples=len(x),
        worst_sample=worst,
        graph=graph,
        pairs=pairs,
    )


def float_tensors(graph: PlanGraph, x: Array) -> dict[str, Array]:
    """Every tensor a plan speaks of, [n, ...]: what a run of batch 1 computes, n times; in the order of computing."""
    return {name: np.stack(rows) for name, rows in planned_values(graph, inputs.split(x)).items()}


class _Part:
    """What computes one tensor from those that the artifact has."""

    def __init__(self, part: Cut) -> None:
        self.inputs = part.inputs
        self._output = part.output
        self._session = onnx_file.session(part.proto.SerializeToString())

    def run(self, values: Mapping[str, Array]) -> NDArray[np.float32]:
        n = len(values[self.inputs[0]])
        feeds = ({name: np.ascontiguousarray(values[name][index]) for name in self.inputs} for index in range(n))
        return np.stack([self._session.run([self._output], feed)[0] for feed in feeds])


def _parts(graph: PlanGraph, pairs: Mapping[str, Pair], ours: Mapping[str, Array]) -> dict[str, _Part]:
    """By the tensor that each computes. A network of a fixed batch has none: one sample cannot go through a part."""
    for value in graph.proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value > 1:
            return {}
    shapes = {name: values.shape[1:] for name, values in ours.items()}
    found = {name: cut(graph, name, set(pairs), shapes) for name in pairs}
    return {name: _Part(part) for name, part in found.items() if part is not None and part.inputs}


def channel_axes(graph: PlanGraph, values: Mapping[str, Array]) -> dict[str, int]:
    """Which axis of [n, batch, ...] holds channels, where the ops tell it.

    Args:
        graph: the network.
        values: of its tensors.
    """
    found: dict[str, int] = {}
    for op in graph.ops:
        rank = values[op.output].ndim
        if op.kind in _SECOND_AXIS:
            found[op.output] = 2
        elif op.kind in _LAST_AXIS:
            found[op.output] = rank - 1
        elif op.kind not in _ANY_AXIS:
            same = [name for name in op.inputs if name in found and values[name].shape == values[op.output].shape]
            if same:
                found[op.output] = found[same[0]]
    return found


def _rescaled(
    graph: PlanGraph, parts: Mapping[str, _Part], sums: Mapping[str, TensorSums], min_sqnr_db: float
) -> set[str]:
    """Tensors that are the float ones times a factor per channel, which what reads them takes out.

    Equalization and SmoothQuant scale channels in one layer and undo it in the next. The next layer is then nearer to
    the float model than the float layer would be with these inputs: its weights hold the factors. Behind a damaged
    layer it is the other way round: the next one is as wrong as its inputs make it.
    """
    readers: dict[str, list[str]] = {}
    for name, part in parts.items():
        for source in part.inputs:
            readers.setdefault(source, []).append(name)
    passed_on = {name for name in sums if (op := graph.producer(name)) is not None and op.kind in REARRANGES}

    def computing(name: str) -> list[str]:
        """What reads a tensor, also where it is rearranged before."""
        after = readers.get(name, [])
        return [each for reader in after for each in (computing(reader) if reader in passed_on else [reader])]

    found: set[str] = set()
    for name in reversed(list(sums)):
        each, after = sums[name], computing(name)
        fits = each.rescaled_sqnr_db >= max(min_sqnr_db, each.sqnr_db + _CLEARLY_DB)
        if fits and after and all(reader in found or _undoes(sums[reader], min_sqnr_db) for reader in after):
            found.add(name)
    for name in sums:
        if name in passed_on and name in parts and found.intersection(parts[name].inputs):
            found.add(name)
    return found


def _undoes(reader: TensorSums, min_sqnr_db: float) -> bool:
    own = reader.own_sqnr_db
    return reader.sqnr_db >= min_sqnr_db and own is not None and own + _CLEARLY_DB < reader.sqnr_db


def _row(
    graph: PlanGraph, pair: Pair, found: TensorSums, part: _Part | None, rescaled: set[str], min_sqnr_db: float
) -> TensorRow:
    op = graph.producer(pair.tensor)
    repaired = bool(rescaled.intersection((pair.tensor, *(part.inputs if part else ()))))
    return TensorRow(
        layer=layer_of(graph, pair.tensor),
        kind="Input" if op is None else _kind(op),
        tensor=pair.tensor,
        artifact_tensor=pair.name,
        matched=pair.how,
        sqnr_db=found.sqnr_db,
        own_sqnr_db=None if repaired else found.own_sqnr_db,
        float_range=found.float_range,
        artifact_range=found.artifact_range,
        grid=found.grid,
        saturated=0 if pair.tensor in rescaled else found.saturated,
        values=found.values,
        dead_channels=found.dead_channels,
        channels=found.channels,
        rescaled_sqnr_db=found.rescaled_sqnr_db,
        rescaled=pair.tensor in rescaled,
        bad=found.sqnr_db < min_sqnr_db and pair.tensor not in rescaled,
    )


def layer_of(graph: PlanGraph, tensor: str) -> str:
    """The user's layer that computes a tensor; an input's own name, also where it is only rearranged."""
    op = graph.producer(tensor)
    if op is None:
        return tensor
    source = op.inputs[0] if op.inputs else ""
    return source if op.kind in REARRANGES and source in graph.inputs else op.layer


def _kind(op: PlanOp) -> str:
    return f"{op.kind}+{op.activation}" if op.activation else op.kind
