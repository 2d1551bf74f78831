"""One way through the network that decides every weight: the float network and the quantized one, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.affine import bias_scale, dequantize, fake_quantize, int32_bias
from edgesmith.types import QuantParams
from optimizer.ptq import bias as bias_correction
from optimizer.ptq import weights
from optimizer.ptq.rules import Rules
from optimizer.ptq.stepwise import Array, Step, Stepwise, activate, spread
from targets.plan_ops import PlanOp

_TO_SCALE, _TO_ROUND = 512, 8192
"""Positions in an op's input that its weights are fitted to."""
_SAMPLES_TO_SCALE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What is done to weights and biases.

    Attributes:
        per_channel: a scale for each output channel.
        fitted: scales by expected output error; else they cover the largest weight.
        correct: correct biases.
        learn: learn the rounding.
        seed: of the choice of positions.
    """

    per_channel: bool = True
    fitted: bool = True
    correct: bool = True
    learn: bool = False
    seed: int = 0

    @property
    def needs_data(self) -> bool:
        """Whether the samples have to go through the network at all."""
        return self.fitted or self.correct or self.learn


@dataclass(slots=True, kw_only=True, eq=False)
class Numbers:
    """What was decided.

    Attributes:
        grids: of the weight of each quantized op that has one, by op name.
        integers: the same ops' weights.
        biases: corrected biases by initializer.
        learned: ops whose learned rounding was accepted.
    """

    grids: dict[str, QuantParams] = field(default_factory=dict)
    integers: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    biases: dict[str, Array] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> tuple[str, ...]:
        """For the plan's list of repairs."""
        said = []
        if self.biases:
            said.append(
                f"bias correction: the biases of {len(self.biases)} of {len(self.integers)} ops took back a shift"
            )
        if self.learned:
            said.append(f"learned rounding: kept for {len(self.learned)} of {len(self.integers)} ops")
        return tuple(said)


def fit(
    stepwise: Stepwise,
    rules: Rules,
    grids: Mapping[str, QuantParams],
    how: How,
    *,
    given: Numbers | None = None,
) -> Numbers:
    """Decides the weights of all quantized ops, in the order they are computed.

    Args:
        stepwise: the network after the repairs, with the samples to learn from.
        rules: which ops are quantized.
        grids: of every quantized activation.
        how: what to do.
        given: weights that are decided already; only biases are left to do.
    """
    numbers = Numbers()
    if not how.needs_data:
        for step in stepwise.steps:
            if step.op.weight is not None and rules.quantized(step.op):
                _decide(stepwise, step, rules, grids, how, None, numbers)
        return numbers
    readers = Counter(op.bias for op in stepwise.graph.ops if op.bias is not None)
    streams = _Streams(stepwise, rules, grids)
    for step in stepwise.steps:
        op = step.op
        real = stepwise.run(step, streams.real)
        if op.weight is None or not rules.quantized(op):
            made = stepwise.run(step, streams.seen_by(op))
        else:
            needed = how.learn or (how.fitted and given is None)
            found = _moments(stepwise, step, streams, how) if needed else None
            if given is None:
                _decide(stepwise, step, rules, grids, how, found, numbers)
            else:
                numbers.grids[op.name], numbers.integers[op.name] = given.grids[op.name], given.integers[op.name]
            made = _compute(stepwise, step, streams, grids, numbers)
            if how.learn and found is not None:
                made = _learn(stepwise, step, streams, grids, numbers, found, real[op.output], made, how)
            if how.correct and op.bias is not None and readers[op.bias] == 1:
                shift = bias_correction.correction(op, real[op.output], made[op.output])
                if shift.any():
                    made = _shifted(stepwise, step, grids, numbers, shift, made)
        streams.keep(step, real, made)
    return numbers


def _moments(stepwise: Stepwise, step: Step, streams: _Streams, how: How) -> weights.Moments | None:
    """What the op's inputs are like; None where its rows are no products with the input."""
    op = step.op
    inputs = {"quantized": streams.seen_by(op)[op.inputs[0]]}
    if how.learn:
        inputs["real"] = streams.real[op.inputs[0]]
    elif op.kind == "Conv":  # each sample has many positions
        few = spread(len(inputs["quantized"]), _SAMPLES_TO_SCALE)
        inputs = {name: array[few] for name, array in inputs.items()}
    most = _TO_ROUND if how.learn else _TO_SCALE
    rows = weights.input_rows(stepwise.graph, op, inputs, most=most, seed=how.seed)
    if rows is None:
        return None
    return weights.moments(rows[0], rows[1] if how.learn else None, centred=how.correct)


class _Streams:
    """The tensors alive in both networks.

    Attributes:
        real: of the float network.
    """

    def __init__(self, stepwise: Stepwise, rules: Rules, grids: Mapping[str, QuantParams]) -> None:
        self._stepwise, self._rules, self._grids = stepwise, rules, grids
        self.real: dict[str, NDArray[Any]] = dict(stepwise.inputs)
        # A tensor that a float op (or the outside) makes is seen as it is by float ops, and on its grid by others.
        self._by_float: dict[str, NDArray[Any]] = dict(stepwise.inputs)
        self._by_quantized = {name: self._on_grid(name, array) for name, array in stepwise.inputs.items()}

    def seen_by(self, op: PlanOp) -> Mapping[str, NDArray[Any]]:
        """The quantized network's tensors, as an op reads them."""
        return self._by_quantized if self._rules.quantized(op) else self._by_float

    def keep(self, step: Step, real: Mapping[str, NDArray[Any]], made: Mapping[str, NDArray[Any]]) -> None:
        """Takes in what an op made, before its activation, and drops what nobody reads any more."""
        op = step.op
        for name in step.makes:
            first = name == op.output
            self.real[name] = activate(op, real[name]) if first else real[name]
            value = activate(op, made[name]) if first else made[name]
            self._by_quantized[name] = self._on_grid(name, value)
            self._by_float[name] = self._by_quantized[name] if self._rules.quantized(op) else value
        for name in self._stepwise.dead_after(step):
            for stream in (self.real, self._by_float, self._by_quantized):
                stream.pop(name, None)

    def _on_grid(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        return fake_quantize(array, self._grids[name]) if name in self._grids else array


def _decide(
    stepwise: Stepwise,
    step: Step,
    rules: Rules,
    grids: Mapping[str, QuantParams],
    how: How,
    found: weights.Moments | None,
    numbers: Numbers,
) -> None:
    """Scale and integers, to nearest."""
    op, constants = step.op, stepwise.graph.constants
    assert op.weight is not None  # noqa: S101 - the caller looked
    x = grids[op.inputs[0]]
    # 16-bit activations have 64-bit biases (LiteRT 16x8 specification).
    bias = constants[op.bias] if op.bias is not None and x.dtype == "int8" else None
    grid = weights.choose_scale(
        op,
        constants[op.weight],
        bias,
        dtype="int4" if rules.ops[op.name].precision == "int4" else "int8",
        per_channel=how.per_channel,
        x_scale=None if bias is None else x.scale[0],
        found=found,
        fitted=how.fitted,
    )
    numbers.grids[op.name] = grid
    numbers.integers[op.name] = weights.integers(op, constants[op.weight], grid)


def _compute(
    stepwise: Stepwise, step: Step, streams: _Streams, grids: Mapping[str, QuantParams], numbers: Numbers
) -> dict[str, NDArray[Any]]:
    """The op with its integers, before the activation."""
    op = step.op
    weight = dequantize(numbers.integers[op.name], numbers.grids[op.name])
    bias = None if op.bias is None else _on_grid(op, stepwise.graph.constants[op.bias], grids, numbers)
    return stepwise.run(step, streams.seen_by(op), weight=weight, bias=bias)


def _on_grid(op: PlanOp, bias: Array, grids: Mapping[str, QuantParams], numbers: Numbers) -> Array:
    """What is left of a bias as int32; as it is beside 16-bit activations."""
    x, w = grids[op.inputs[0]], numbers.grids[op.name]
    if x.dtype != "int8":
        return bias
    steps = int32_bias(bias, x.scale[0], w.scale)
    return (steps * bias_scale(x.scale[0], w.scale).astype(np.float64)).astype(np.float32)


def _shifted(
    stepwise: Stepwise,
    step: Step,
    grids: Mapping[str, QuantParams],
    numbers: Numbers,
    shift: Array,
    made: dict[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Corrects an op's bias; what it makes then. Scales leave room in int32, where they do not the bias stays."""
    op = step.op
    assert op.bias is not None  # noqa: S101 - the caller looked
    before = stepwise.graph.constants[op.bias]
    try:
        change = _on_grid(op, before + shift, grids, numbers) - _on_grid(op, before, grids, numbers)
    except ValueError:
        return made
    numbers.biases[op.bias] = before + shift
    return {**made, op.output: made[op.output] + bias_correction.along_channels(op, change, made[op.output].ndim)}


def _learn(
    stepwise: Stepwise,
    step: Step,
    streams: _Streams,
    grids: Mapping[str, QuantParams],
    numbers: Numbers,
    found: weights.Moments,
    real: Array,
    nearest: dict[str, NDArray[Any]],
    how: How,
) -> dict[str, NDArray[Any]]:
    """Learned rounding, kept where it lowers the error of samples it was not learned from."""
    op = step.op
    assert op.weight is not None  # noqa: S101 - the caller looked
    weight = stepwise.graph.constants[op.weight]
    if weights.shared_factors(op, weight) is not None:
        return nearest  # equal weights would get unequal integers
    before = numbers.integers[op.name]
    numbers.integers[op.name] = weights.integers(op, weight, numbers.grids[op.name], found=found)
    tried = _compute(stepwise, step, streams, grids, numbers)
    held = bias_correction.halves(len(real))[1]

    def error(made: Array) -> float:
        shift = bias_correction.correction(op, real, made) if how.correct else np.zeros(1, np.float32)
        shaped = bias_correction.along_channels(op, shift, made.ndim)
        return float(np.square(activate(op, made[held] + shaped) - activate(op, real[held]), dtype=np.float64).sum())

    if error(tried[op.output]) < error(nearest[op.output]):
        numbers.learned.append(op.name)
        return tried
    numbers.integers[op.name] = before
    return nearest
