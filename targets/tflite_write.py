"""Turns the ops of a float `.tflite` file into integer ones, with the numbers of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.affine import (
    bias_scale,
    choose_params,
    dequantize,
    int32_bias,
    quantize,
    range_of,
    smallest_weight_scale,
    weight_params,
)
from edgesmith.errors import ModelError
from edgesmith.types import Deviation, Precision, QuantParams
from targets import tflite_kernels as kernels
from targets.plan_files import Planned
from targets.tflite_forms import Forms, put, same_grid
from targets.tflite_grids import Grids, Width
from targets.tflite_layout import channel_axis
from targets.tflite_match import Match
from targets.tflite_model import TfliteModel
from targets.tflite_repairs import set_bias
from targets.tflite_twins import Role

WEIGHT_SUFFIX = "/weight"
"""A kernel is called by its plan op with this behind it."""


_EXACT = 1e-6
"""Rounding of a constant, relative to the largest, that is no more than float32's own: a single factor has none."""


class Writer:
    """Walks the ops once, in order, and rewrites each for the precision that the plan gives it.

    Attributes:
        deviations: from the plan, in the order they were met, each once.
    """

    def __init__(self, model: TfliteModel, planned: Planned, roles: Sequence[Role], match: Match, grids: Grids) -> None:
        self._model = model
        self._planned = planned
        self._precisions: dict[str, Precision] = {op.name: op.precision for op in planned.plan.ops}
        self._weights = {op.name: op.weights for op in planned.plan.ops}
        self._roles = roles
        self._match = match
        self._grids = grids
        self._forms = Forms(model, match, grids.names)
        self._found: dict[Deviation, None] = {}

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """See the class."""
        return tuple(self._found)

    def write(self, *, float_io: bool) -> None:
        """Rewrites the model.

        Args:
            float_io: float32 inputs and outputs; else integers wherever the plan has a grid for them.
        """
        model = self._model
        for tensor in filter(model.is_float, model.inputs):
            grid = None if float_io else self._grids.planned(tensor)
            if grid is None and not float_io:
                self._deviate(None, tensor, "a float32 input", "no quantized op reads it, so the plan has no grid")
            self._forms.settle(tensor, grid)
        for op, role in zip(model.ops, self._roles, strict=True):
            self._rewrite(op, role)
        if float_io:
            model.set_signature(self._forms.float_outputs())
        makers = {int(i): role for op, role in zip(model.ops, self._roles, strict=True) for i in op.outputs}
        for tensor in model.outputs if not float_io else ():
            if self._forms.home.get(tensor, ...) is None:
                self._deviate(makers.get(tensor), tensor, "a float32 output", "it is computed in float32")
        model.ops = self._forms.ops
        self._report_missing()

    def _rewrite(self, op: Any, role: Role) -> None:
        model, kind = self._model, self._model.kind(op)
        width = self._width(op, role) if model.is_float(int(op.outputs[0])) else None
        if width is None:
            self._keep_float(op)
            return
        if kind in kernels.WEIGHTED:
            self._weighted(op, role, width)
        elif kind in kernels.MOVES:
            self._move(op, role, width)
        else:
            self._compute(op, role, width)

    def _width(self, op: Any, role: Role) -> Width | None:
        """Of the integers an op computes with; None: float32."""
        kind = self._model.kind(op)
        sources = [int(i) for i in op.inputs if int(i) in self._forms.home]
        if kind in kernels.MOVES and sources and not self._planned_move(op, role):
            home = self._forms.home[sources[0]]  # it follows what it moves
            if home is None or not kernels.has_kernel(kind, home.dtype):
                return None
            return "int16" if home.dtype == "int16" else "int8"
        precision = "float32" if role.op is None else self._precisions[role.op.name]
        if precision == "float32":
            return None
        width: Width = "int16" if precision == "int16" else "int8"
        why = ""
        if not kernels.has_kernel(kind, width):
            why = f"LiteRT has no {width} kernel for {kind or 'an op this new'}"
        elif kind == "BATCH_MATMUL" and any(self._model.constant(int(i)) is not None for i in op.inputs):
            why = "LiteRT's BATCH_MATMUL takes no constant with one scale per channel"
        elif kind in kernels.WEIGHTED and self._model.constant(int(op.inputs[kernels.WEIGHT])) is None:
            why = f"LiteRT's {kind} takes no computed kernel in {width}"
        if why:
            self._deviate(role, int(op.outputs[0]), "computed in float32", why)
            return None
        return width

    def _planned_move(self, op: Any, role: Role) -> bool:
        """Whether a move is an op of the plan, and not what the converter puts around one.

        Moves that change no value need not be told apart: rounded before or after, the result is the same.
        """
        kind = self._model.kind(op)
        return kind not in kernels.LAYOUT and int(op.outputs[0]) in self._match.twin and role.op is not None

    def _keep_float(self, op: Any) -> None:
        for position, tensor in enumerate(op.inputs):
            if int(tensor) in self._forms.home and self._model.kind(op) != "SHAPE":
                self._forms.read(op, position, None)
        self._forms.emit(op)
        for tensor in map(int, op.outputs):
            if self._model.is_float(tensor):
                self._forms.settle(tensor, None)

    # Ops with a kernel

    def _weighted(self, op: Any, role: Role, width: Width) -> None:
        model, kind = self._model, self._model.kind(op)
        source = self._read(op, 2 if kind == "TRANSPOSE_CONV" else 0, role, width)
        weights, integers, bias = self._kernel(op, role, source)
        stored = "int4" if weights.dtype == "int4" and kernels.stores_int4(kind, width) else "int8"
        name = role.kernel.op.name if role.kernel is not None else model.name(int(op.outputs[0]))
        put(op, kernels.WEIGHT, model.add_constant(name + WEIGHT_SUFFIX, integers, weights, dtype=stored))
        if bias is not None:
            self._set_bias(op, bias, source, weights, f"{name}/bias", width)
        self._forms.emit(op)
        self._result(op, role, width)
        model.set_version(op, kernels.version(kind, width, weights=stored))

    def _kernel(
        self, op: Any, role: Role, source: QuantParams
    ) -> tuple[QuantParams, NDArray[np.int8], NDArray[np.float32] | None]:
        """Grid and integers of an op's kernel, laid out as the file has it, and its float bias [C] or None."""
        model, kind = self._model, self._model.kind(op)
        if (held := role.kernel) is not None and (grid := self._weights[held.op.name]) is not None:
            integers, weights = held.integers(self._planned.integers[held.op.name], grid)
            bias = None if held.op.bias is None else self._planned.graph.constants[held.op.bias]
            if held.scaled:
                factor = " to ".join(dict.fromkeys(f"{end:.6g}" for end in (held.gain.min(), held.gain.max())))
                self._deviate(
                    role,
                    int(op.outputs[0]),
                    f"the scales of its kernel times {factor}",
                    "the converter folds a multiplication with constants into the kernel",
                )
            return weights, integers, held.bias(bias)
        position = kernels.BIAS[kind]
        values = model.values(int(op.inputs[kernels.WEIGHT]))
        bias = model.constant(int(op.inputs[position])) if position < len(op.inputs) else None
        least = None if bias is None else smallest_weight_scale(bias, source.scale[0])
        weights = weight_params(values, channel_axis(kind), minimum_scale=least)
        self._deviate(
            role,
            int(op.outputs[0]),
            f"a kernel with min-max scales of its own, the largest {max(weights.scale):.3g}",
            f"no kernel of the plan holds what the converter's {kind} does",
        )
        return weights, quantize(values, weights), bias

    def _set_bias(
        self, op: Any, bias: NDArray[Any], source: QuantParams, weights: QuantParams, name: str, width: Width
    ) -> None:
        try:
            values = int32_bias(bias, source.scale[0], weights.scale)
        except ValueError as error:
            raise ModelError(
                f"tflite: {name}: {error}.", next_step="Keep its layer in float32 (keep_float)."
            ) from error
        position = kernels.BIAS[self._model.kind(op)]
        if not values.any() and (position >= len(op.inputs) or op.inputs[position] < 0):
            return  # the converter left a bias of zeros out
        scale = bias_scale(source.scale[0], weights.scale)
        grid = QuantParams(
            scale=tuple(float(value) for value in scale),
            zero_point=(0,) * len(scale),
            axis=None if len(scale) == 1 else 0,
            dtype="int32",
            symmetric=True,
        )
        dtype = "int64" if width == "int16" else "int32"
        set_bias(self._model, op, self._model.add_constant(name, values, grid, dtype=dtype))

    # Ops without

    def _move(self, op: Any, role: Role, width: Width) -> None:
        """One data input, and outputs in its grid; where the plan has another one for them, rounded again."""
        model, kind = self._model, self._model.kind(op)
        moved = [i for i, tensor in enumerate(op.inputs) if int(tensor) in self._forms.home]
        # Without one it looks something up in a table, which is stored in the grid of what comes out.
        grid = self._read(op, moved[0], role, width) if moved else self._wanted(int(op.outputs[0]), role, width)
        for position, tensor in enumerate(op.inputs):
            if model.is_float(int(tensor)) and model.constant(int(tensor)) is not None:
                self._store(op, position, role, grid)
        self._forms.emit(op)
        for index, tensor in enumerate(map(int, op.outputs)):
            wanted = self._wanted(tensor, role, width) if self._planned_move(op, role) else grid
            self._write(op, index, grid, wanted, role)
        model.set_version(op, kernels.version(kind, width))

    def _compute(self, op: Any, role: Role, width: Width) -> None:
        """Inputs in their own grids, or in the output's where all share one."""
        model, kind = self._model, self._model.kind(op)
        shared = self._wanted(int(op.outputs[0]), role, width) if kind in kernels.JOINS else None
        grids = []
        for position, tensor in enumerate(map(int, op.inputs)):
            if tensor in self._forms.home:
                grids.append(self._read(op, position, role, width, shared))
            elif model.is_float(tensor):
                grids.append(self._store(op, position, role, shared or _range_of(model.values(tensor), width)))
        self._forms.emit(op)
        output = self._result(op, role, width)
        if kind in ("ADD", "SUB") and width == "int16":
            op.builtinOptions.potScaleInt16 = False  # the default asks for kernels that know only powers of two
        version = kernels.version(kind, width)
        if kind == "MUL":
            version = max(version, kernels.version_of_product(grids, output))
        model.set_version(op, version)

    # Grids

    def _read(self, op: Any, position: int, role: Role, width: Width, grid: QuantParams | None = None) -> QuantParams:
        """Makes an op read an input as integers: in a given grid, or in the tensor's own."""
        grid = grid or self._wanted(int(op.inputs[position]), role, width)
        self._forms.read(op, position, grid)
        return grid

    def _wanted(self, tensor: int, role: Role, width: Width) -> QuantParams:
        """The grid in which an op of this width reads or writes a tensor."""
        home = self._forms.home.get(tensor)
        if home is not None and home.dtype == width:
            return home
        if home is not None and width == "int16":
            # Without loss: the same steps, counted from 0.
            return QuantParams(scale=home.scale, zero_point=(0,), axis=None, dtype="int16", symmetric=True)
        grid, planned = self._grids.of(tensor, width)
        if not planned:
            low, high = (float(end) for end in range_of(grid))
            self._deviate(
                role,
                tensor,
                f"{self._model.name(tensor)} is rounded, with scale {grid.scale[0]:.6g}, zero point "
                f"{grid.zero_point[0]} ({low:.4g} to {high:.4g}, as on the samples)",
                "the converter computes in more steps than the plan; it has no tensor there",
            )
        return grid

    def _result(self, op: Any, role: Role, width: Width) -> QuantParams:
        """Settles the output of an op in its own grid; returns the one that the kernel gives."""
        fixed = kernels.fixed_output(self._model.kind(op), width)
        if fixed is not None and self._grids.planned(int(op.outputs[0])) is None:
            wanted = fixed
        else:
            wanted = self._wanted(int(op.outputs[0]), role, width)
        self._write(op, 0, fixed or wanted, wanted, role)
        return fixed or wanted

    def _write(self, op: Any, position: int, made: QuantParams, wanted: QuantParams, role: Role) -> None:
        tensor = int(op.outputs[position])
        if self._forms.write(op, position, made, wanted):
            self._deviate(
                role,
                tensor,
                f"rounded twice, first with scale {made.scale[0]:.6g}, zero point {made.zero_point[0]}",
                f"LiteRT's {self._model.kind(op)} gives no other output",
            )

    def _store(self, op: Any, position: int, role: Role, grid: QuantParams) -> QuantParams:
        """Replaces a float constant of an op by its integers."""
        model, tensor = self._model, int(op.inputs[position])
        values = model.values(tensor)
        integers = quantize(values, grid)
        put(op, position, model.add_constant(model.name(tensor), integers, grid))
        error = float(np.abs(dequantize(integers, grid) - values).max(initial=0.0))
        if error > _EXACT * float(np.abs(values).max(initial=0.0)):
            self._deviate(
                role,
                int(op.outputs[0]),
                f"its constant is rounded to {grid.dtype} with scale {grid.scale[0]:.6g}, off by up to {error:.3g}",
                f"LiteRT's {model.kind(op)} takes no float32 constant beside integers",
            )
        return grid

    # What differs from the plan

    def _deviate(self, role: Role | None, tensor: int, what: str, why: str) -> None:
        name = self._grids.names.get(tensor)
        planned = None if name is None else self._planned.plan.tensor(name)
        if role is not None and role.op is not None:
            layer, name = role.op.layer, name or role.op.output
        else:
            layer = "" if planned is None else planned.layer
        deviation = Deviation(layer=layer, tensor=name or self._model.name(tensor), what=what, why=why)
        self._found[deviation] = None

    def _report_missing(self) -> None:
        """Tensors that the plan rounds and the file does not, or otherwise."""
        for tensor in self._planned.plan.tensors:
            grid = tensor.params
            if grid is None:
                continue
            found = self._forms.written.get(tensor.name, [])
            if any(same_grid(grid, other) for other in found):
                continue
            what = f"scale {found[0].scale[0]:.6g} instead of {grid.scale[0]:.6g}" if found else "not rounded"
            why = "" if found else "LiteRT computes it and what follows in one kernel, in float32 or int32"
            self._found[Deviation(layer=tensor.layer, tensor=tensor.name, what=what, why=why)] = None


def _range_of(values: Any, width: Width) -> QuantParams:
    """The grid of a constant beside an activation: from its lowest to its highest value."""
    return choose_params(float(values.min()), float(values.max()), dtype=width, symmetric=width == "int16")
