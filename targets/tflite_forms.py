"""The forms in which tensors of a `.tflite` file exist: as computed, and as converted for other readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from edgesmith.types import QuantParams
from targets import tflite_kernels as kernels
from targets.tflite_match import Match
from targets.tflite_model import TfliteModel

Grid: TypeAlias = QuantParams | None
"""Of integers; None: float32."""

_Key: TypeAlias = tuple[tuple[float, ...], tuple[int, ...], str]


class Forms:
    """Grows the list of ops, with a QUANTIZE or DEQUANTIZE wherever an op wants a tensor in another form.

    Attributes:
        home: computed float tensor of the original file -> the grid it is computed in.
        ops: what was emitted so far, in order.
        written: plan tensor -> grids in which its values exist in the file.
    """

    def __init__(self, model: TfliteModel, match: Match, names: Mapping[int, str]) -> None:
        """Starts with nothing emitted.

        Args:
            model: the float file.
            match: of its tensors.
            names: tensor -> plan tensor whose grid it gets.
        """
        self._model = model
        self._same = match.same
        self._names = names
        self._made: dict[tuple[int, _Key | None], int] = {}
        self._named: set[str] = set()
        self._borders = {*model.inputs, *model.outputs}
        self.home: dict[int, Grid] = {}
        self.ops: list[Any] = []
        self.written: dict[str, list[QuantParams]] = {}

    def emit(self, op: Any) -> None:
        """Puts an op behind those before."""
        self.ops.append(op)

    def settle(self, tensor: int, grid: Grid) -> None:
        """Notes the form in which a tensor is computed, and makes the file say so."""
        self.home[tensor] = grid
        self._made[tensor, _key(grid)] = tensor
        if grid is not None:
            self._model.set_grid(tensor, grid)
            self._note(tensor, tensor, grid)

    def form(self, tensor: int, grid: Grid) -> int:
        """A tensor in the wanted form; converted once for all who want it."""
        if (found := self._made.get((tensor, _key(grid)))) is not None:
            return found
        kind, integers = ("QUANTIZE", grid) if grid is not None else ("DEQUANTIZE", self.home[tensor])
        dtype = "" if integers is None else integers.dtype
        made = self._model.add_tensor(f"{self._model.name(tensor)}/{kind.lower()}", tensor, grid)
        self.emit(self._model.new_op(kind, kernels.version(kind, dtype), [tensor], [made]))
        self._made[tensor, _key(grid)] = made
        if grid is not None:
            self._note(tensor, made, grid)
        return made

    def read(self, op: Any, position: int, grid: Grid) -> None:
        """Makes an op read one of its inputs in a form."""
        put(op, position, self.form(int(op.inputs[position]), grid))

    def write(self, op: Any, position: int, made: QuantParams, wanted: QuantParams) -> bool:
        """Settles an output of an op that was just emitted.

        Args:
            op: the op.
            position: of the output.
            made: the grid that its kernel gives.
            wanted: the one the tensor shall have; where it is another, the tensor is rounded again.

        Returns:
            Whether it is rounded again.
        """
        tensor = int(op.outputs[position])
        if _key(made) != _key(wanted):
            first = self._model.add_tensor(f"{self._model.name(tensor)}/first", tensor, made)
            outputs = np.array(op.outputs, np.int32)
            outputs[position] = first
            op.outputs = outputs
            self.emit(self._model.new_op("QUANTIZE", kernels.version("QUANTIZE", wanted.dtype), [first], [tensor]))
        self.settle(tensor, wanted)
        return _key(made) != _key(wanted)

    def float_outputs(self) -> Mapping[int, int]:
        """Replaces the network's outputs by their float32 forms, which take over their names."""
        model, moved = self._model, {}
        for index, tensor in enumerate(model.outputs):
            if self.home.get(tensor) is None:
                continue
            name = model.name(tensor)
            moved[tensor] = model.outputs[index] = self.form(tensor, None)
            model.rename(moved[tensor], name)
            model.rename(tensor, self._unused_name(tensor) or f"{name}/integers")
        return moved

    def _note(self, tensor: int, form: int, grid: QuantParams) -> None:
        """A plan tensor's integers get its name; the network's own inputs and outputs keep theirs."""
        for name in self._same.get(tensor, ()):
            self.written.setdefault(name, []).append(grid)
        if form not in self._borders and (found := self._unused_name(tensor)):
            self._model.rename(form, found)

    def _unused_name(self, tensor: int) -> str:
        """That of the plan tensor with a tensor's values; "" where there is none, or another one has it."""
        name = self._names.get(tensor, "")
        if name in self._named or name not in self._same.get(tensor, ()):
            return ""
        self._named.add(name)
        return name


def put(op: Any, position: int, tensor: int) -> None:
    """Gives an op another input."""
    inputs = np.array(op.inputs, np.int32)
    inputs[position] = tensor
    op.inputs = inputs


def same_grid(one: QuantParams, other: QuantParams) -> bool:
    """Whether two grids are of the same integers."""
    return _key(one) == _key(other)


def _key(grid: Grid) -> _Key | None:
    """Whether a grid is called symmetric makes no difference to its integers."""
    return None if grid is None else (grid.scale, grid.zero_point, grid.dtype)
