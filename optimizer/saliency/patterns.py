"""What goes together when weights are zeroed: each alone, whole blocks, or so many of every few input channels.

Blocks and n:m follow TF-MOT 0.8.1 (`pruning_impl.Pruning._maybe_update_block_mask`, `pruning_utils`); a test holds the
masks to its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from optimizer.masks import Mask
from optimizer.saliency.layouts import Layout

Pooling = Literal["average", "max"]

_N_OF_M = re.compile(r"([1-9]\d*):([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of [input channels, output channels], one grid in every tap of a convolution.

    Attributes:
        rows: input channels of a block.
        columns: output channels.
        pooling: what stands for a block: the average or the largest score in it.
    """

    rows: int
    columns: int
    pooling: Pooling = "average"

    def pooled(self, scores: NDArray[Any]) -> NDArray[Any]:
        """One score for each block.

        TF-MOT pools with padding "same" and expands from the first weight on. Where a size is no multiple of the
        block's, half of the padding comes first: the window that decides on a block is then shifted against it by that
        much. Masks are to equal TF-MOT's, so it is the same here.

        Args:
            scores: [taps, inputs, outputs].

        Returns:
            [taps, blocks along the inputs, blocks along the outputs].
        """
        return self._along(self._along(scores, 1, self.rows), 2, self.columns)

    def largest(self, scores: NDArray[Any]) -> NDArray[Any]:
        """The largest score of each block itself; shapes as in `pooled`."""
        for axis, window in ((1, self.rows), (2, self.columns)):
            scores = np.maximum.reduceat(scores, np.arange(0, scores.shape[axis], window), axis)
        return scores

    def expanded(self, blocks: Mask, layout: Layout) -> Mask:
        """A mask of a kernel from one of its blocks."""
        whole = blocks.repeat(self.rows, axis=1).repeat(self.columns, axis=2)
        taps, inputs, outputs = layout.matrices(np.empty(layout.shape, np.bool_)).shape
        return layout.kernel(whole[:taps, :inputs, :outputs])

    def _along(self, values: NDArray[Any], axis: int, window: int) -> NDArray[Any]:
        size = values.shape[axis]
        padding = -size % window
        starts = np.maximum(np.arange(0, size + padding, window) - padding // 2, 0)
        if self.pooling == "max":
            return np.asarray(np.maximum.reduceat(values, starts, axis))
        # Of the weights that are there: padding does not count.
        counts = np.diff(starts, append=size).reshape([-1 if each == axis else 1 for each in range(values.ndim)])
        return np.asarray(np.add.reduceat(values, starts, axis) / counts.astype(values.dtype))


@dataclass(frozen=True, slots=True)
class NOfM:
    """At most `n` weights of every `m` neighbouring input channels, for each tap and output.

    A rest of fewer than `m` channels counts as filled up with zeros, which go first: of a rest of r, max(0, r - n)
    become zero. A kernel filled up with zero channels then has the pattern throughout.
    """

    n: int
    m: int

    @property
    def sparsity(self) -> float:
        """Share of zeros where the input channels are a multiple of `m`."""
        return 1.0 - self.n / self.m

    def keep(self, scores: NDArray[Any]) -> Mask:
        """The `n` largest of each group; of those that tie the first, as `tf.math.top_k` has it.

        Args:
            scores: [taps, inputs, outputs].
        """
        groups = self._groups(scores)
        order = np.argsort(-groups, axis=-1, kind="stable")
        mask = np.zeros(groups.shape, np.bool_)
        np.put_along_axis(mask, order[..., : self.n], True, axis=-1)
        taps, inputs, outputs = scores.shape
        return np.ascontiguousarray(mask.reshape(taps, outputs, -1)[..., :inputs].transpose(0, 2, 1))

    def broken(self, weights: NDArray[Any]) -> int:
        """Groups with more than `n` weights that are not zero, of [taps, inputs, outputs]."""
        return int(np.count_nonzero((self._groups(weights) != 0).sum(axis=-1) > self.n))

    def _groups(self, values: NDArray[Any]) -> NDArray[Any]:
        """[taps, outputs, groups, m] of magnitudes, the last group filled up with zeros."""
        taps, inputs, outputs = values.shape
        rows = np.abs(values).transpose(0, 2, 1)
        padded = np.pad(rows, ((0, 0), (0, 0), (0, -inputs % self.m)))
        return padded.reshape(taps, outputs, -1, self.m)


Pattern = Blocks | NOfM | None
"""None: each weight for itself."""


def n_of_m(text: str) -> NOfM | None:
    """The pattern that "2:4" names; None where the text is none."""
    found = _N_OF_M.fullmatch(text)
    return NOfM(int(found[1]), int(found[2])) if found and int(found[1]) < int(found[2]) else None
