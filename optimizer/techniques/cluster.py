"""`cluster`: the weights of a kernel share few values, which then train on.

Han, Mao & Dally, "Deep Compression", ICLR 2016, arXiv:1510.00149, section 3. Shared values shrink the file where it is
compressed or packed (`edgesmith pack`); they do not shorten the latency.

Zeros of an earlier `prune` stay zero and take one of the clusters.
"""

from __future__ import annotations

import fnmatch
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from edgesmith.errors import ModelError
from optimizer import batchnorm
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.clustering import shared
from optimizer.clustering.codebook import Codebook
from optimizer.clustering.starts import Init
from optimizer.clustering.training import Assignments, TrainedCentroids
from optimizer.finetune import TrainingParams, finetune, training_needs, training_set
from optimizer.kernels import Kernel, prunable_kernels, select

SUMMARY = "lets the weights of each layer share a few values, and trains those (smaller file, same latency)"
STAGE = Stage.CLUSTER
COMPILE_TIME = False
MAKES = frozenset({Property.SHARED_VALUES})
PRESERVES = frozenset({Property.ZEROS})

_MOST = 256


class Params(TrainingParams):
    """How many values, where, and how they are found."""

    clusters: int | dict[str, int] = Field(
        default=16,
        description="Distinct values, zero included, 2 to 256; or patterns of layer names with a number each, the "
        "first that matches counts, and layers that none matches keep their weights.",
    )
    granularity: Literal["layer", "channel"] = Field(
        default="layer", description="One set of values for a kernel, or one for each of its output channels."
    )
    init: Init = Field(
        default="optimal",
        description="optimal: least squared error, computed; linear, random, density, kmeans++: starts of TF-MOT, "
        "carried on to convergence.",
    )
    assignments: Assignments = Field(
        default="trained",
        description="trained: a weight may come to share another value while training; fixed: only the values train.",
    )
    codebook: Codebook = Field(default="float32", description="Numbers that the shared values are rounded to.")
    biases: int | None = Field(
        default=None, ge=2, le=_MOST, description="Distinct values of each bias vector; default: they keep theirs."
    )
    include: tuple[str, ...] = Field(default=(), description="Layer names or patterns (* ?); default: all prunable.")
    exclude: tuple[str, ...] = Field(default=(), description="Layer names or patterns to leave as they are.")

    @field_validator("clusters")
    @classmethod
    def _in_range(cls, clusters: int | dict[str, int]) -> int | dict[str, int]:
        for count in clusters.values() if isinstance(clusters, dict) else (clusters,):
            if not 2 <= count <= _MOST:
                raise ValueError(f"must be 2 to {_MOST}, not {count}")
        if clusters == {}:
            raise ValueError("names no layer")
        return clusters


def needs(params: Params) -> Needs:
    """Training data, unless the values are left as they are found."""
    return training_needs(params)


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses patterns that match nothing, and training without data.

    Raises:
        ModelError: a pattern matches no layer, or there is nothing to cluster.
        DataError: no training data, or none with labels where they are needed.
    """
    _wanted(model, params)
    if params.epochs:
        training_set(params, context, step="cluster")


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Clusters the kernels of a model in place, then trains the shared values with `epochs`.

    Raises:
        ModelError, DataError: as `check`, or as `finetune`.
    """
    seed = context.seed if params.seed is None else params.seed
    axes = shared.channel_axis(model)
    held, own, alone = [], [], []
    lost = total = 0.0
    wanted = _wanted(model, params)
    with context.progress.task("cluster: values", total=float(len(wanted))) as task:
        for kernel, count in wanted:
            weights = kernel.value()
            if not weights.any():  # a fresh initialisation: one shared value would never become several
                alone.append(kernel.name)
                continue
            axis = axes.get(id(kernel.variable), -1) if params.granularity == "channel" else None
            clusters = shared.cluster(weights, count, params.init, seed, axis=axis)
            if len(clusters.centroids) == len(np.unique(weights)):
                alone.append(kernel.name)
            kernel.assign(clusters.projected(weights))
            held.append((kernel, clusters))
            own.append(weights)
            lost += float(((kernel.value() - weights).astype(np.float64) ** 2).sum())
            total += float((weights.astype(np.float64) ** 2).sum())
            task.advance()
    notes: tuple[str, ...] = ()
    if params.epochs:
        centroids = TrainedCentroids(held, own, params.assignments)
        notes = finetune(model, params, context, label="cluster", companions=(centroids,)).notes
    for kernel, clusters in held:
        axis = axes.get(id(kernel.variable), -1) if params.granularity == "channel" else None
        final = shared.cluster(kernel.value(), clusters.most_values, "optimal", seed, axis=axis)
        kernel.assign(final.rounded(kernel.value(), params.codebook))
    notes += batchnorm.reestimate_from(model, context, seed=seed)
    if alone:
        notes += (f"hold no more values than that already: {', '.join(alone)}",)
    if not held:
        return Applied(model=model, notes=notes)
    shares = sorted({clusters.most_values for _, clusters in held})
    most = f"{shares[0]}" if len(shares) == 1 else f"{shares[0]} to {shares[-1]}"
    where = "in each channel of " if params.granularity == "channel" else "in each of "
    off = f", before training off by {np.sqrt(lost / total):.2%} of the weights" if total else ""
    return Applied(model=model, notes=(*notes, f"{most} values {where}{len(held)} weight arrays{off}"))


def _wanted(model: KerasModel, params: Params) -> tuple[tuple[Kernel, int], ...]:
    """What is clustered into how many values."""
    every = prunable_kernels(model)
    kernels = select(every, params.include, params.exclude)
    if isinstance(params.clusters, int):
        found = [(kernel, params.clusters) for kernel in kernels]
    else:
        select(every, tuple(params.clusters), ())  # refuses a pattern that matches nothing
        found = []
        for kernel in kernels:
            names = (kernel.layer, kernel.layer.rpartition("/")[2])
            counts = (n for p, n in params.clusters.items() if any(fnmatch.fnmatchcase(name, p) for name in names))
            if count := next(counts, None):
                found.append((kernel, count))
    if not found:
        raise ModelError(
            "`clusters`, `include` and `exclude` leave no layer to cluster.",
            next_step=f"Layers of this model that can be: {', '.join(dict.fromkeys(k.layer for k in every))}.",
        )
    if params.biases is not None:
        found += [(bias, params.biases) for bias in shared.biases(model, [kernel for kernel, _ in found])]
    return tuple(found)
