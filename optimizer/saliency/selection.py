"""From scores of weights to masks: how many stay, together with which others, and against which they compete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from optimizer import masks
from optimizer.kernels import Kernel
from optimizer.masks import Mask
from optimizer.saliency.layouts import Layout
from optimizer.saliency.patterns import Blocks, NOfM, Pattern

Scores = Mapping[str, NDArray[Any]]
"""By kernel name, how much each weight matters, of the kernel's shape; not negative."""

Scope = Literal["layer", "global"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """Which weights stay.

    Scope "layer": the same share of weights, or of blocks, in every kernel. Scope "global": one threshold over all
    kernels together, each of which keeps at least one.

    Attributes:
        layouts: by kernel name.
        pattern: what goes together.
        scope: see above.
        adaptive: with scope "global", scores are magnitudes, which say nothing across layers (a batch norm undoes any
            factor): each is squared and divided by the sum of squares of those of its kernel that are not smaller.
            That is LAMP (Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611,
            equation 4): the share of a kernel's remaining energy that goes with the weight. Saliencies are changes of
            a loss and compared as they are.
    """

    layouts: Mapping[str, Layout]
    pattern: Pattern = None
    scope: Scope = "layer"
    adaptive: bool = True

    def masks(self, scores: Scores, sparsity: float, *, ties: bool = False) -> dict[str, Mask]:
        """True where a weight stays.

        Args:
            scores: of every kernel.
            sparsity: share of weights (or of blocks) to zero; an n:m pattern has its own.
            ties: as TF-MOT, keep all that tie with the last one kept; with scope "layer" only.
        """
        if isinstance(self.pattern, NOfM):
            pattern = self.pattern
            return {
                name: self.layouts[name].kernel(pattern.keep(self.layouts[name].matrices(values)))
                for name, values in scores.items()
            }
        return self._chosen(self._units(scores), sparsity, ties=ties)

    def settled(self, weights: Scores, sparsity: float) -> dict[str, Mask]:
        """The masks that pruned weights have by themselves: what is zero goes first, whatever the criterion was."""
        if isinstance(self.pattern, NOfM):
            return self.masks(weights, sparsity)
        return self._chosen(self._units(weights, whole=True), sparsity)

    def check(self, kernels: Sequence[Kernel], sparsity: float) -> None:
        """Holds kernels to the zeros that the selection promises.

        Raises:
            InternalError: there are fewer, or not where they belong; names the kernel where it is one.
        """
        if isinstance(self.pattern, NOfM):
            for kernel in kernels:
                matrices = self.layouts[kernel.name].matrices(kernel.value())
                if broken := self.pattern.broken(matrices):
                    raise InternalError(
                        f"After pruning, {broken} groups of {self.pattern.m} input channels in {kernel.name} have more "
                        f"than {self.pattern.n} weights that are not zero."
                    )
            return
        if self.pattern is None and self.scope == "layer":
            masks.assert_sparsity(kernels, sparsity)
            return
        units = self._units({kernel.name: kernel.value() for kernel in kernels}, whole=True)
        counts = {name: (int(np.count_nonzero(values == 0)), int(values.size)) for name, values in units.items()}
        if self.scope == "global":
            zeros, size = np.sum(list(counts.values()), axis=0).tolist()
            counts = {f"the whole of {len(kernels)} kernels": (zeros, size)}
        unit = "weights" if self.pattern is None else "blocks"
        for name, (zeros, size) in counts.items():
            least = size - max(masks.kept(size, sparsity), len(kernels) if self.scope == "global" else 1)
            if zeros < least:
                raise InternalError(
                    f"After pruning, {name} has {zeros} zero {unit} of {size}; sparsity {sparsity} means {least}."
                )

    def _chosen(self, units: Mapping[str, NDArray[Any]], sparsity: float, *, ties: bool = False) -> dict[str, Mask]:
        if self.scope == "global":
            chosen = self._global(units, sparsity)
        else:
            rule = masks.magnitude_mask if ties else masks.exact_mask
            chosen = {name: rule(values, sparsity) for name, values in units.items()}
        if isinstance(self.pattern, Blocks):
            blocks = self.pattern
            return {name: blocks.expanded(mask, self.layouts[name]) for name, mask in chosen.items()}
        return chosen

    def _units(self, scores: Scores, *, whole: bool = False) -> dict[str, NDArray[Any]]:
        """Scores of what goes together: of weights, or of blocks; `whole`: the largest in each block."""
        if not isinstance(self.pattern, Blocks):
            return {name: np.abs(values) for name, values in scores.items()}
        pooled = self.pattern.largest if whole else self.pattern.pooled
        return {name: pooled(np.abs(self.layouts[name].matrices(values))) for name, values in scores.items()}

    def _global(self, units: Mapping[str, NDArray[Any]], sparsity: float) -> dict[str, Mask]:
        ranked = {name: _lamp(values) if self.adaptive else values.astype(np.float64) for name, values in units.items()}
        flat = np.concatenate([values.ravel() for values in ranked.values()])
        # The best one of each kernel is in, come what may: an empty kernel cuts the network in two.
        ends = np.cumsum([0, *(values.size for values in ranked.values())])
        best = np.array([ends[i] + int(np.argmax(values)) for i, values in enumerate(ranked.values())])
        flat[best] = np.inf
        mask = np.zeros(flat.size, np.bool_)
        mask[np.argsort(-flat, kind="stable")[: max(masks.kept(flat.size, sparsity), len(best))]] = True
        parts = np.split(mask, ends[1:-1])
        return {name: part.reshape(ranked[name].shape) for (name, part) in zip(ranked, parts, strict=True)}


def _lamp(values: NDArray[Any]) -> NDArray[np.float64]:
    squares = np.square(values.astype(np.float64)).ravel()
    order = np.argsort(-squares, kind="stable")
    remaining = np.cumsum(squares[order])
    scores = np.zeros_like(squares)
    scores[order] = np.divide(squares[order], remaining, out=np.zeros_like(remaining), where=remaining > 0)
    return scores.reshape(values.shape)
