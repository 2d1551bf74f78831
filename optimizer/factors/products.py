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
        high, self._wide, inputs, _ = kernel.shape
        self._columns = columns.reshape(high, inputs, -1)
        if moment is None:
            within, across = None, np.einsum("hcr,hwcn->rwn", self._columns, kernel)
        else:
            square = moment.reshape((high, self._wide, inputs) * 2)
            half = np.einsum("hwcgvd,hcr->rwgvd", square, self._columns, optimize=True)
            within = np.einsum("rwgvd,gds->rwsv", half, self._columns, optimize=True)
            across = np.einsum("rwgvd,gvdn->rwn", half, kernel, optimize=True)
        self._second = _Nested(within, across)
        self._explained = np.concatenate([[0.0], np.cumsum(np.sum(self._second.whitened**2, axis=(1, 2)))])

    def explained(self, rank: int) -> float:
        return float(self._explained[rank])

    def kernels(self, rank: int) -> tuple[Kernel, ...]:
        second = self._second.solved(rank).transpose(1, 0, 2)
        return _balanced(self._columns[:, None, :, :rank], second[None])


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
        if moment is None:
            within, across = None, np.einsum("ca,kcn->akn", into, cube)
        else:
            square = moment.reshape(len(cube), inputs, len(cube), inputs)
            half = np.einsum("kcld,ca->akld", square, into, optimize=True)
            within = np.einsum("akld,db->akbl", half, into, optimize=True)
            across = np.einsum("akld,ldn->akn", half, cube, optimize=True)
        self._core = _Nested(within, across)
        self._spectra: dict[int, Matrix] = {}

    def explained(self, ranks: Ranks) -> float:
        if ranks[0] not in self._spectra:
            self._spectra[ranks[0]] = np.cumsum(np.linalg.eigvalsh(self._outputs(ranks[0]))[::-1])
        return float(self._spectra[ranks[0]][ranks[1] - 1])

    def kernels(self, ranks: Ranks) -> tuple[Kernel, ...]:
        # The principal components of what the core makes are the best of both ranks (reduced-rank regression).
        directions = _leading(self._outputs(ranks[0]))[1][:, : ranks[1]]
        inner = (self._core.solved(ranks[0]).transpose(1, 0, 2) @ directions).reshape(*self._kernel.shape[:-2], *ranks)
        into, inner = _balanced(_pointwise(self._into[:, : ranks[0]], self._kernel), inner)
        return (into, *_balanced(inner, _pointwise(directions.T, self._kernel)))

    def _outputs(self, rank: int) -> Matrix:
        """Second moment of what the best core behind so many channels makes, [outputs, outputs]."""
        flat = self._core.whitened[:rank].reshape(-1, self._kernel.shape[-1])
        return np.asarray(flat.T @ flat)


class _Nested:
    """Least squares behind the leading columns of a first factor, for every number of them from one factorisation.

    With T = L L' the second moment of what the first factor makes, and Q that with the outputs, the best second factor
    is T^-1 Q, and it explains |L^-1 Q|^2. Leading blocks of L and of L^-1 Q are those of fewer columns.

    Attributes:
        whitened: L^-1 Q, [columns, taps, outputs].
    """

    def __init__(self, within: Matrix | None, across: Matrix) -> None:
        """Takes T as [columns, taps, columns, taps], or None for the identity, and Q as [columns, taps, outputs]."""
        self._root: Matrix | None = None
        self.whitened = across
        if within is not None:
            columns, taps, outputs = across.shape
            square = within.reshape(columns * taps, -1)
            self._root = np.asarray(np.linalg.cholesky((square + square.T) / 2))
            flat: Matrix = across.reshape(-1, outputs)
            self.whitened = np.asarray(np.linalg.solve(self._root, flat)).reshape(across.shape)

    def solved(self, rank: int) -> Matrix:
        """The second factor behind so many columns, [rank, taps, outputs]."""
        white = self.whitened[:rank]
        if self._root is None:
            return white
        size = rank * white.shape[1]
        root: Matrix = self._root[:size, :size].T
        flat: Matrix = white.reshape(size, -1)
        return np.asarray(np.linalg.solve(root, flat)).reshape(white.shape)


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
