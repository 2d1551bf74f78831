"""What may be done to a filter to get another: the symmetries of its window, and negation.

Quarter turns and reflections of a square window are the dihedral group of order 8 (Cohen & Welling, "Group Equivariant
Convolutional Networks", arXiv:1602.07576, the group p4m without shifts). Filters are arrays [*window, inputs].
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["negate", "rotate", "flip"]


class Transform(NamedTuple):
    """First a reflection along the last axis of the window, then quarter turns, then negation."""

    turns: int = 0
    mirrored: bool = False
    negative: bool = False

    @property
    def code(self) -> int:
        """Four bits: turns, mirrored, negative."""
        return self.turns | self.mirrored << 2 | self.negative << 3

    @classmethod
    def of(cls, code: int) -> Transform:
        """The way back of `code`."""
        return cls(code & 3, bool(code & 4), bool(code & 8))

    @property
    def inverse(self) -> Transform:
        """What undoes it. A turn after a reflection undoes itself."""
        return self if self.mirrored else self._replace(turns=-self.turns % 4)

    def __call__(self, filters: NDArray[Any]) -> NDArray[Any]:
        """Applies it.

        Args:
            filters: [n, *window, inputs].
        """
        window = filters.ndim - 2
        made = np.flip(filters, axis=window) if self.mirrored else filters
        if self.turns:
            made = np.rot90(made, self.turns, axes=(1, 2))
        return -made if self.negative else made


IDENTITY = Transform()
NEGATION = Transform(negative=True)


def allowed(window: tuple[int, ...], kinds: Collection[Kind]) -> tuple[Transform, ...]:
    """All that the kinds asked for generate on a window of this extent, the identity first.

    A 1 x 1 window has no turns, a window of one axis none but its reflection, and one that is not square half turns
    alone. Windows of three axes are only negated.
    """
    return tuple(sorted(set(_generated(window, kinds)), key=lambda one: (one.negative, one.mirrored, one.turns)))


def _generated(window: tuple[int, ...], kinds: Collection[Kind]) -> Iterator[Transform]:
    for turns, mirrored in _symmetries(window, "rotate" in kinds, "flip" in kinds):
        yield Transform(turns, mirrored)
        if "negate" in kinds:
            yield Transform(turns, mirrored, negative=True)


def _symmetries(window: tuple[int, ...], rotate: bool, flip: bool) -> Iterator[tuple[int, bool]]:
    yield 0, False
    if len(window) == 1 and window[0] > 1 and flip:
        yield 0, True
    if len(window) != 2 or max(window) == 1:
        return
    square = window[0] == window[1]
    if rotate:
        yield from ((turns, False) for turns in ((1, 2, 3) if square else (2,)))
    if flip:
        # Both reflections, and the half turn that they make together.
        yield from ((2, False), (0, True), (2, True))
    if rotate and flip and square:
        yield from ((1, True), (3, True))
