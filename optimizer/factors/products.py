"""The three products that a kernel is written as, each with the error of every rank in closed form.

The error is that of the layer's output over the calibration set, E|x(W - W')|^2 / E|xW|^2. All it needs of the data is
the second moment S = E[x x'] of the inputs of one output position, a patch in a convolution's case. Without data S is
the identity, and the error is the share of the kernel's squared singular values that is given up.

- `svd`: the layer with r outputs, then 1x1. The r outputs are the principal components of the old ones, since
  W V V' with V the leading eigenvectors of W'SW is the best of rank r (Zhang et al., "Accelerating Very Deep
  Convolutional Networks for Classification and Detection", arXiv:1505.06798, section 3.1). With S = 1 it is the
  truncated singular value decomposition (Eckart & Young 1936).
- `spatial`: k x 1 into r channels, then 1 x k (Jaderberg et al., "Speeding up Convolutional Neural Networks with Low
  Rank Expansions", arXiv:1405.3866, scheme 2; in closed form Tai et al., arXiv:1511.06067).
- `tucker`: 1x1 into r1 channels, k x k from r1 to r2, 1x1 (Kim et al., "Compression of Deep Convolutional Neural
  Networks for Fast and Low Power Mobile Applications", arXiv:1511.06530, section 3).

In the last two the first factor is found first, and what follows is fitted to it by least squares under S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.factors.maps import Kernel, Stage

Form = Literal["svd", "spatial", "tucker"]
Ranks = tuple[int, ...]
Matrix = NDArray[np.float64]

# Of the mean second moment, added to each input's own: directions the data never showed keep their weights' fidelity.
_RIDGE = 1e-6


class Product(Protocol):
    """A way to write one kernel as a product.

    Attributes:
        form: its key.
        most: ranks at which it is exact.
    """

    form: Form
    most: Ranks

    def stages(self, ranks: Ranks) -> tuple[Stage, ...]:
        """The layers of the product."""

    def error(self, ranks: Ranks) -> float:
        """Relative squared error of the output, in [0, 1]."""

    def kernels(self, ranks: Ranks) -> tuple[Kernel, ...]:
        """A kernel for each stage, with the weights spread evenly over them."""


def products(kernel: Kernel, moment: Matrix | None, forms: Sequence[Form]) -> list[Product]:
    """What a kernel can be written as.

    Args:
        kernel: [*window, inputs, outputs].
        moment: second moment of the inputs of a position, [window * inputs, the same]; None = identity.
        forms: those asked for. A kernel of one position has `svd` alone; `spatial` takes two axes.
    """
    reach = kernel.shape[:-2]
    known = None if moment is None else _ridged(moment)
    made: list[Product] = []
    if "svd" in forms or math.prod(reach) == 1:
        made.append(_Svd(kernel, known))
    if "spatial" in forms and len(reach) == 2 and min(reach) > 1:
        made.append(_Spatial(kernel, known))
    if "tucker" in forms and math.prod(reach) > 1:
        made.append(_Tucker(kernel, known))
    return made


def multiplied(form: Form, kernels: Sequence[Kernel]) -> Kernel:
    """The kernel that factors stand for."""
    if form == "svd":
        first, last = kernels
        return np.asarray(first @ last.reshape(last.shape[-2:]))
    if form == "spatial":
        first, last = kernels
        return np.asarray(np.einsum("hcr,wrn->hwcn", first[:, 0], last[0]))
    into, core, out = kernels
    return np.asarray(np.einsum("ca,...ab,bn->...cn", into.reshape(into.shape[-2:]), core, out.reshape(out.shape[-2:])))


class _Svd:
    """The layer with fewer outputs, then 1x1."""

    form: Form = "svd"

    def __init__(self, kernel: Kernel, moment: Matrix | None) -> None:
        self._kernel = kernel
        flat = kernel.reshape(-1, kernel.shape[-1])
        self._spectrum, self._directions = _leading(flat.T @ _times(moment, flat))
        self.most: Ranks = (min(flat.shape),)

    def stages(self, ranks: Ranks) -> tuple[Stage, ...]:
        *reach, inputs, outputs = self._kernel.shape
        return Stage(frozenset(range(len(reach))), inputs, ranks[0]), Stage(frozenset(), ranks[0], outputs)

    def error(self, ranks: Ranks) -> float:
        return _share(self._spectrum[ranks[0] :].sum(), self._spectrum.sum())

    def kernels(self, ranks: Ranks) -> tuple[Kernel, ...]:
        directions = self._directions[:, : ranks[0]]
        return _balanced(self._kernel @ directions, _pointwise(directions.T, self._kernel))


class _Spatial:
    """Along the first axis into r channels, then along the second."""

    form: Form = "spatial"

    def __init__(self, kernel: Kernel, moment: Matrix | None) -> None:
        self._kernel = kernel
        high, wide, inputs, outputs = kernel.shape
        self._total = float(np.sum(kernel.reshape(-1, outputs) * _times(moment, kernel.reshape(-1, outputs))))
        matrix = kernel.transpose(0, 2, 1, 3).reshape(high * inputs, wide * outputs)
        self.most: Ranks = (min(matrix.shape),)
        # Columns of the first factor, best first: of the plain decomposition, and of the one that knows how the
        # inputs of a column of the image vary. Neither is optimal under S, so each rank takes the better one.
        starts = [np.linalg.svd(matrix, full_matrices=False)[0]]
        if moment is not None:
            square = moment.reshape(high, wide, inputs, high, wide, inputs)
            column = np.einsum("hwcgwd->hcgd", square).reshape(high * inputs, high * inputs) / wide
            starts.append(_orthonormal(_unwhitened(column, matrix, self.most[0])))
        self._starts = [_SpatialStart(kernel, moment, start) for start in starts]

    def stages(self, ranks: Ranks) -> tuple[Stage, ...]:
        *_, inputs, outputs = self._kernel.shape
        return Stage(frozenset({0}), inputs, ranks[0]), Stage(frozenset({1}), ranks[0], outputs)

    def error(self, ranks: Ranks) -> float:
        return _share(self._total - max(start.explained(ranks[0]) for start in self._starts), self._total)

    def kernels(self, ranks: Ranks) -> tuple[Kernel, ...]:
        best = max(self._starts, key=lambda start: start.explained(ranks[0]))
        return best.kernels(ranks[0])


class _SpatialStart:
    """The second factor by least squares, for one choice of the first."""

    def __init__(self, kernel: Kernel, moment: Matrix | None, columns: Matrix) -> None:
        self._high, self._wide, self._inputs, self._outputs = kernel.shape
        self._columns = columns.reshape(self._high, self._inputs, -1)
        most = self._columns.shape[-1]
        if moment is None:
            self._within = None
            self._across = np.einsum("hcr,hwcn->wrn", self._columns, kernel)
        else:
            square = moment.reshape((self._high, self._wide, self._inputs) * 2)
            half = np.einsum("hwcgvd,hcr->wrgvd", square, self._columns, optimize=True)
            self._within = np.einsum("wrgvd,gds->wrvs", half, self._columns, optimize=True)
            flat = half.reshape(self._wide * most, -1)
            self._across = (flat @ kernel.reshape(-1, self._outputs)).reshape(self._wide, most, -1)
        self._solved: dict[int, Matrix] = {}

    def explained(self, rank: int) -> float:
        return float(np.sum(self._across[:, :rank] * self._second(rank)))

    def kernels(self, rank: int) -> tuple[Kernel, ...]:
        return _balanced(self._columns[:, None, :, :rank], self._second(rank)[None])

    def _second(self, rank: int) -> Matrix:
        if rank not in self._solved:
            across = self._across[:, :rank].reshape(self._wide * rank, -1)
            if self._within is not None:
                within = self._within[:, :rank, :, :rank].reshape(self._wide * rank, -1)
                across = np.linalg.solve(within, across)
            self._solved[rank] = across.reshape(self._wide, rank, -1)
        return self._solved[rank]


class _Tucker:
    """1x1, a narrower core, 1x1."""

    form: Form = "tucker"

    def __init__(self, kernel: Kernel, moment: Matrix | None) -> None:
        self._kernel = kernel
        inputs, outputs = kernel.shape[-2:]
        flat = kernel.reshape(-1, outputs)
        taps = len(flat) // inputs
        self._total = float(np.sum(flat * _times(moment, flat)))
        self.most: Ranks = (inputs, min(taps * inputs, outputs))
        # As in `_Spatial`: what the kernel reads, and what of it the inputs of one tap show.
        matrix = kernel.reshape(taps, inputs, outputs).transpose(1, 0, 2).reshape(inputs, -1)
        starts = [_unwhitened(None, matrix, inputs)]
        if moment is not None:
            tap = np.einsum("kckd->cd", moment.reshape(taps, inputs, taps, inputs)) / taps
            starts.append(_unwhitened(tap, matrix, inputs))
        self._starts = [_TuckerStart(kernel, moment, _orthonormal(start)) for start in starts]

    def stages(self, ranks: Ranks) -> tuple[Stage, ...]:
        *reach, inputs, outputs = self._kernel.shape
        return (
            Stage(frozenset(), inputs, ranks[0]),
            Stage(frozenset(range(len(reach))), *ranks),
            Stage(frozenset(), ranks[1], outputs),
        )

    def error(self, ranks: Ranks) -> float:
        return _share(self._total - max(start.explained(ranks) for start in self._starts), self._total)

    def kernels(self, ranks: Ranks) -> tuple[Kernel, ...]:
        return max(self._starts, key=lambda start: start.explained(ranks)).kernels(ranks)


class _TuckerStart:
    """Core and last factor by least squares, for one choice of the first."""

    def __init__(self, kernel: Kernel, moment: Matrix | None, into: Matrix) -> None:
        self._kernel = kernel
        self._into = into
        inputs, outputs = kernel.shape[-2:]
        cube = kernel.reshape(-1, inputs, outputs)
        taps = len(cube)
        if moment is None:
            self._within = None
            self._across = np.einsum("ca,kcn->kan", into, cube)
        else:
            square = moment.reshape(taps, inputs, taps, inputs)
            half = np.einsum("kcld,ca->kald", square, into, optimize=True)
            self._within = np.einsum("kald,db->kalb", half, into, optimize=True)
            flat = half.reshape(taps * inputs, -1)
            self._across = (flat @ kernel.reshape(-1, outputs)).reshape(taps, inputs, outputs)
        self._solved: dict[int, tuple[Matrix, Matrix, Matrix]] = {}

    def explained(self, ranks: Ranks) -> float:
        return float(self._core(ranks[0])[1][: ranks[1]].sum())

    def kernels(self, ranks: Ranks) -> tuple[Kernel, ...]:
        core, _, directions = self._core(ranks[0])
        directions = directions[:, : ranks[1]]
        inner = (core @ directions).reshape(*self._kernel.shape[:-2], *ranks)
        into, inner = _balanced(_pointwise(self._into[:, : ranks[0]], self._kernel), inner)
        return (into, *_balanced(inner, _pointwise(directions.T, self._kernel)))

    def _core(self, rank: int) -> tuple[Matrix, Matrix, Matrix]:
        """The best core behind so many channels, [taps * rank, outputs], and what of its output varies where.

        Cutting the outputs of that to their principal components is the best of both ranks (reduced-rank regression).
        """
        if rank not in self._solved:
            taps = len(self._across)
            across = self._across[:, :rank].reshape(taps * rank, -1)
            core = across
            if self._within is not None:
                core = np.linalg.solve(self._within[:, :rank, :, :rank].reshape(taps * rank, -1), across)
            self._solved[rank] = (core, *_leading(across.T @ core))
        return self._solved[rank]


def _ridged(moment: Matrix) -> Matrix | None:
    """None where the inputs were all zero: then they say nothing."""
    size = float(np.trace(moment)) / len(moment)
    return moment + _RIDGE * size * np.eye(len(moment)) if size > 0 else None


def _times(moment: Matrix | None, flat: Matrix) -> Matrix:
    return flat if moment is None else moment @ flat


def _leading(symmetric: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues, largest first and none below zero, and their vectors as columns."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def _unwhitened(moment: Matrix | None, matrix: Matrix, count: int) -> Matrix:
    """Columns U, best first, such that U C comes nearest to `matrix` when its rows are inputs of that second moment."""
    if moment is None:
        return np.asarray(np.linalg.svd(matrix, full_matrices=len(matrix) > matrix.shape[1])[0][:, :count])
    values, vectors = np.linalg.eigh(moment)
    roots = np.sqrt(np.maximum(values, _RIDGE * values[-1]))
    white = (vectors * roots) @ vectors.T @ matrix
    left = np.linalg.svd(white, full_matrices=len(white) > white.shape[1])[0][:, :count]
    return np.asarray((vectors / roots) @ vectors.T @ left)


def _orthonormal(columns: Matrix) -> Matrix:
    """The same spans for every number of leading columns."""
    return np.asarray(np.linalg.qr(columns)[0])


def _pointwise(matrix: Matrix, like: Kernel) -> Kernel:
    """A matrix as a kernel of one position, with as many axes as the layer's own."""
    return matrix.reshape((1,) * (like.ndim - 2) + matrix.shape)


def _balanced(first: Kernel, last: Kernel) -> tuple[Kernel, Kernel]:
    """The same product, with each channel between the two as large in the one as in the other.

    Integer ranges and gradients are then of one order in both.
    """
    before = np.sqrt(np.sum(first**2, axis=tuple(range(first.ndim - 1))))
    after = np.sqrt(np.sum(last**2, axis=(*range(last.ndim - 2), last.ndim - 1)))
    scale = np.ones_like(before)
    alive = (before > 0) & (after > 0)
    scale[alive] = np.sqrt(after[alive] / before[alive])
    return first * scale, last / scale[:, None]


def _share(lost: float, total: float) -> float:
    return float(min(max(lost / total, 0.0), 1.0)) if total > 0 else 0.0
