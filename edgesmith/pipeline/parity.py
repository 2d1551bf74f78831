"""Whether one artifact answers the same wherever it ran: raw outputs of every board, element by element.

An integer model's outputs are exact: they differ where the kernels do, never by chance, and an emulator changes nothing
about them. Between x86-64 and arm64, int8 is bit-identical where both sides run XNNPACK. TFLite's own int8 softmax,
which XNNPACK does not take over, is not: one LSB in a few elements of a thousand. Float never quite is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from device_tests.accuracy import dequantize
from edgesmith.pipeline.boards import BoardOutcome
from edgesmith.pipeline.build import Built, Checked
from edgesmith.result import ParityDevice, ParityRecord, Variant
from edgesmith.types import Measurement

CheckedHere = Callable[[Built], Checked | None]
"""This machine's own answers of an artifact, from when it was checked after compiling."""


class Parity:
    """What every board answered. Of answers that are the same, one copy is held, however many boards gave them."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, _Answer]] = {}
        self._built: dict[str, Built] = {}
        self._held: dict[tuple[str, str], tuple[NDArray[Any], ...]] = {}

    def add(self, outcome: BoardOutcome) -> None:
        """Takes what one board answered; a scripted board proves nothing and is left out."""
        for built, measured in zip(outcome.built, outcome.outcomes, strict=True):
            if not isinstance(measured, Measurement) or measured.board.fake:
                continue
            artifact, digest = built.artifact.sha256, measured.outputs_sha256
            if measured.outputs is None or digest is None:
                continue
            answer = _Answer(
                is_here=outcome.device.transport == "local",
                is_real=not measured.board.emulated,
                outputs=self._held.setdefault((artifact, digest), measured.outputs),
                quantization=measured.output_quantization,
            )
            self._built.setdefault(artifact, built)
            self._answers.setdefault(artifact, {})[outcome.device.name] = answer

    def records(self, devices: Sequence[str], checked_here: CheckedHere) -> tuple[ParityRecord, ...]:
        """One record for every artifact that there is something to compare with.

        Args:
            devices: names in the order of the run: the first real one is what the others are compared with.
            checked_here: stands in where no other board ran the artifact.
        """
        records = []
        for artifact, built in self._built.items():
            answers = {name: self._answers[artifact][name] for name in devices if name in self._answers[artifact]}
            record = _record(built, answers, checked_here)
            if record is not None:
                records.append(record)

        def place(record: ParityRecord) -> tuple[str, int, int]:
            """The same in every run, whichever board was done first."""
            first = record.reference or record.devices[0].device
            return record.target, get_args(Variant).index(record.variant), devices.index(first)

        return tuple(sorted(records, key=place))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Answer:
    is_here: bool
    is_real: bool
    outputs: tuple[NDArray[Any], ...]
    quantization: tuple[tuple[float, int] | None, ...]


def _record(built: Built, answers: dict[str, _Answer], checked_here: CheckedHere) -> ParityRecord | None:
    reference = next((name for name, answer in answers.items() if answer.is_real), None)
    others = {name: answer for name, answer in answers.items() if name != reference}
    index: NDArray[np.int64] | slice = slice(None)
    if reference is not None and others:
        outputs = answers[reference].outputs
    else:
        reference, others = None, {name: answer for name, answer in answers.items() if not answer.is_here}
        checked = checked_here(built) if others else None
        if checked is None:
            return None
        outputs, index = checked.outputs, checked.index
    compared = {
        name: compare(tuple(output[index] for output in answer.outputs), outputs, answer.quantization)
        for name, answer in others.items()
    }
    return ParityRecord(
        artifact_sha256=built.artifact.sha256,
        target=built.wanted.target,
        variant=built.wanted.variant,
        reference=reference,
        samples=len(outputs[0]),
        elements=sum(output.size for output in outputs),
        devices=tuple(found.named(name) for name, found in compared.items()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two answers differ.

    Attributes:
        different: elements that are not equal; two NaNs are.
        largest: greatest absolute difference, in `unit`; None where it is no finite number.
        unit: "LSB", steps of the quantized output, where all outputs are quantized.
        reason: why there is no `largest`.
    """

    different: int
    largest: float | None
    unit: Literal["LSB", "absolute"]
    reason: str | None = None

    def named(self, device: str) -> ParityDevice:
        """As it stands in the document."""
        return ParityDevice(
            device=device,
            identical=self.different == 0,
            different=self.different,
            max_abs_diff=self.largest,
            max_abs_diff_reason=self.reason,
            unit=self.unit,
        )


def compare(
    theirs: Sequence[NDArray[Any]],
    ours: Sequence[NDArray[Any]],
    quantization: Sequence[tuple[float, int] | None],
) -> Difference:
    """Compares raw outputs of one artifact, element by element.

    Args:
        theirs: one array per output.
        ours: the same outputs elsewhere.
        quantization: (scale, zero_point) per output; None where it is not quantized.
    """
    unit: Literal["LSB", "absolute"] = "LSB" if all(quantization) else "absolute"
    for left, right in zip(theirs, ours, strict=True):
        if left.shape != right.shape or left.dtype != right.dtype:
            reason = f"{_kind(left)} against {_kind(right)}"
            return Difference(different=sum(output.size for output in ours), largest=None, unit=unit, reason=reason)
    different = sum(_unequal(left, right) for left, right in zip(theirs, ours, strict=True))
    if not different:
        return Difference(different=0, largest=0.0, unit=unit)
    if unit == "absolute":
        theirs, ours = _values(theirs, quantization), _values(ours, quantization)
    largest = max(_largest(left, right) for left, right in zip(theirs, ours, strict=True))
    if not np.isfinite(largest):
        return Difference(different=different, largest=None, unit=unit, reason="a side is no finite number")
    return Difference(different=different, largest=largest, unit=unit)


def _values(
    outputs: Sequence[NDArray[Any]], quantization: Sequence[tuple[float, int] | None]
) -> tuple[NDArray[Any], ...]:
    """What the outputs stand for; those that are not quantized as they are, in full precision."""
    return tuple(
        output if pair is None else dequantize([output], [pair])[0]
        for output, pair in zip(outputs, quantization, strict=True)
    )


def _unequal(left: NDArray[Any], right: NDArray[Any]) -> int:
    same = left == right
    if np.issubdtype(left.dtype, np.inexact):
        same |= np.isnan(left) & np.isnan(right)
    return int(np.count_nonzero(~same))


def _largest(left: NDArray[Any], right: NDArray[Any]) -> float:
    """NaN or infinity where one side is; what both sides have alike does not count."""
    apart = left != right
    if np.issubdtype(left.dtype, np.inexact):
        apart &= ~(np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        gaps = np.abs(left[apart].astype(np.float64) - right[apart].astype(np.float64))
    return float(gaps.max(initial=0.0))


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype}{list(array.shape)}"
