"""Kernels whose weights share few values: made from trained ones, held while they train, and proven afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from optimizer.base import KerasModel
from optimizer.clustering import codebook, kmeans1d, starts
from optimizer.clustering.codebook import Codebook
from optimizer.clustering.kmeans1d import Points
from optimizer.clustering.starts import Init
from optimizer.kernels import Kernel, prunable_kernels

Labels = NDArray[np.int64]

_MOST = 256
_USES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clusters:
    """Which weights of an array share a value.

    Attributes:
        labels: [N] cluster of each weight, in memory order.
        books: [G + 1] where each codebook's clusters begin: one codebook, or one for each channel.
        zero: [K] the cluster is zero and stays zero.
        centroids: [K] the shared values.
    """

    labels: Labels
    books: Labels
    zero: NDArray[np.bool_]
    centroids: NDArray[np.float32]

    @property
    def most_values(self) -> int:
        """Clusters of the largest codebook."""
        return int(np.diff(self.books).max())

    def projected(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        """Each weight becomes the mean of its cluster, and zero where the cluster is zero.

        Args:
            weights: as many as were clustered, any shape.
        """
        return self._spread(self._means(np.asarray(weights, np.float64).ravel()).astype(np.float32), weights.shape)

    def moved(self, weights: NDArray[Any]) -> Clusters:
        """One round of Lloyd's iteration: the means of the clusters, and each weight to the nearest in its codebook.

        Zeros stay zeros, and no other weight becomes one.

        Args:
            weights: as many as were clustered, any shape.
        """
        flat = np.asarray(weights, np.float64).ravel()
        alive = np.flatnonzero(~self.zero[self.labels])
        owners = np.searchsorted(self.books, self.labels[alive], side="right") - 1 if len(self.books) > 2 else 0
        # Codebooks side by side on one line, too far apart for a weight to be near one that is not its own.
        width = 4 * max(float(np.abs(flat).max(initial=0)), float(np.abs(self.centroids).max(initial=0))) + 1
        book_of = np.repeat(np.arange(len(self.books) - 1), np.diff(self.books))
        live = np.flatnonzero(~self.zero)
        on_line = np.sort(self._means(flat)[live] + width * book_of[live])
        labels = self.labels.copy()
        if len(live):
            labels[alive] = live[kmeans1d.nearest(flat[alive] + width * owners, on_line)]
        centroids = self.centroids.copy()
        centroids[live] = on_line - width * book_of[live]
        return Clusters(labels=labels, books=self.books, zero=self.zero, centroids=centroids)

    def rounded(self, weights: NDArray[Any], kind: Codebook) -> NDArray[np.float32]:
        """`projected`, with every codebook in numbers of that kind."""
        held = np.zeros(len(self.centroids), np.float32)
        held[self.labels] = self.projected(weights).ravel()
        parts = [codebook.rounded(held[a:b], kind) for a, b in zip(self.books[:-1], self.books[1:], strict=True)]
        return self._spread(np.concatenate(parts), weights.shape)

    def _means(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each cluster; one that has lost all its weights stays where it was."""
        counts = np.bincount(self.labels, minlength=len(self.centroids))
        sums = np.bincount(self.labels, flat, len(self.centroids))
        means = np.where(counts > 0, sums / np.maximum(counts, 1), self.centroids)
        means[self.zero] = 0.0
        return means

    def _spread(self, values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        return values[self.labels].reshape(shape)


def cluster(weights: NDArray[Any], clusters: int, init: Init, seed: int, *, axis: int | None = None) -> Clusters:
    """Finds the clusters of an array. Exact zeros stay zero and take one of the clusters.

    Args:
        weights: float, any shape.
        clusters: most distinct values, zero included; for each channel where there is an axis.
        init: see `starts.centroids`.
        seed: for the starts that draw.
        axis: of the channels that get a codebook each; None, or a vector = one codebook.
    """
    draw = np.random.default_rng([seed, 5])
    axis = None if weights.ndim < 2 else axis
    labels = np.empty(weights.shape, np.int64)
    rows = labels.reshape(1, -1) if axis is None else np.moveaxis(labels, axis, 0)
    parts = weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0)
    books, found, zero = [0], [], []
    for row, part in zip(rows, parts, strict=True):
        own, values, is_zero = _one_book(part, clusters, init, draw)
        row[...] = own + books[-1]
        books.append(books[-1] + len(values))
        found.append(values.astype(np.float32))
        zero.append(is_zero)
    return Clusters(
        labels=labels.ravel(),
        books=np.array(books, np.int64),
        zero=np.concatenate(zero),
        centroids=np.concatenate(found),
    )


def _one_book(
    weights: NDArray[Any], clusters: int, init: Init, draw: np.random.Generator
) -> tuple[Labels, NDArray[np.float64], NDArray[np.bool_]]:
    """Labels in the shape of `weights`, centroids, and which of them is zero."""
    alive = weights != 0
    labels = np.zeros(weights.shape, np.int64)
    if not alive.any():
        return labels, np.zeros(1), np.ones(1, np.bool_)
    zeros = not alive.all()
    centroids = starts.centroids(Points.of(weights[alive]), clusters - zeros, init, draw, zeros=zeros)
    labels[alive] = kmeans1d.nearest(weights[alive], centroids) + zeros
    is_zero = np.zeros(len(centroids) + zeros, np.bool_)
    is_zero[:1] = zeros
    return labels, np.concatenate([np.zeros(int(zeros)), centroids]), is_zero


def channel_axis(model: KerasModel) -> dict[int, int]:
    """Axis of the output channels by id of the variable, where it is not the last one."""
    transposed = (layer for layer in model._flatten_layers() if type(layer).__name__.endswith("Transpose"))  # noqa: SLF001 - sees nested layers too
    return {id(layer.kernel): -2 for layer in transposed}


def biases(model: KerasModel, kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The bias vectors of these kernels' layers, each once."""
    owners: dict[int, Any] = {}
    for layer in model._flatten_layers():  # noqa: SLF001 - outer layers come first, so the innermost owner is kept
        owners |= {id(variable): layer for variable in layer.weights}
    found: dict[int, Kernel] = {}
    for kernel in kernels:
        bias = getattr(owners[id(kernel.variable)], "bias", None)
        if bias is not None:
            found.setdefault(id(bias), Kernel(kernel.layer, f"{kernel.layer}/bias", bias))
    return tuple(found.values())


Distinct = Mapping[str, tuple[int, int]]
"""By kernel name: distinct values of the kernel, and of the channel that has most."""


def distinct_values(model: KerasModel) -> Distinct:
    """Kernels that hold shared values: at most 256 in the kernel or in each channel, each used four times on average.

    A kernel of a single value is left out: no technique makes one, it is a fresh initialisation.
    """
    axes = channel_axis(model)
    found: dict[str, tuple[int, int]] = {}
    for kernel in prunable_kernels(model):
        counts = _distinct(kernel, axes)
        weights = kernel.value()
        per_channel = weights.size // weights.shape[axes.get(id(kernel.variable), -1)]
        if 1 < counts[0] <= min(_MOST, weights.size // _USES) or 1 < counts[1] <= min(_MOST, per_channel // _USES):
            found[kernel.name] = counts
    return found


def check_preserved(before: Distinct, after: KerasModel, *, step: str) -> None:
    """Asserts that kernels with shared values hold no more values than before.

    Kernels that the step removed are not compared.

    Args:
        before: `distinct_values` of the model the step was given.
        after: what it returned.
        step: its name, for the message.

    Raises:
        InternalError: names the kernel and its counts.
    """
    axes = channel_axis(after)
    for kernel in prunable_kernels(after):
        had = before.get(kernel.name)
        if had is None:
            continue
        has = _distinct(kernel, axes)
        if has[1] > had[1] or (had[0] <= _MOST and has[0] > had[0]):
            raise InternalError(
                f"Step '{step}' left {has[0]} distinct values in {kernel.name}, up to {has[1]} in a channel; "
                f"an earlier step had made it share {had[0]}, up to {had[1]} in a channel."
            )


def _distinct(kernel: Kernel, axes: Mapping[int, int]) -> tuple[int, int]:
    weights = kernel.value()
    rows = np.moveaxis(weights, axes.get(id(kernel.variable), -1), 0)
    ordered = np.sort(rows.reshape(len(rows), -1), axis=1)
    return len(np.unique(weights)), int(1 + (np.diff(ordered, axis=1) != 0).sum(axis=1).max())
