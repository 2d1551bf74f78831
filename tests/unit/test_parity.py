"""The same artifact on several boards: what counts as a difference, and with whom each board is compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from device_tests.measure import outputs_sha256
from edgesmith.errors import BoardError
from edgesmith.pipeline.boards import BoardOutcome
from edgesmith.pipeline.build import Built, Checked, Wanted
from edgesmith.pipeline.parity import Parity, compare
from edgesmith.result import ParityDevice, ParityRecord
from edgesmith.types import (
    Artifact,
    BoardInfo,
    Comparison,
    Device,
    Environment,
    Measurement,
    MeasureProtocol,
    Model,
    Scheme,
    Signature,
    Validity,
)

INT8 = ((1 / 256, -128),)
X86 = np.array([[1, 2, 3], [4, 5, 6]], np.int8)
NOW = Environment(
    taken_at="2026-11-22T10:00:00+00:00",
    load_1m=None,
    governor=None,
    clock_khz=None,
    temperature_c=None,
    throttled=None,
    memory_available_bytes=None,
)
EMPTY = Signature(inputs=(), outputs=())


def info(*, emulated: bool = False, fake: bool = False) -> BoardInfo:
    return BoardInfo(
        machine="aarch64",
        system="Debian",
        kernel="6.12",
        python="3.11.2",
        numpy="2.3.0",
        model=None,
        cpu=None,
        cores=4,
        memory_bytes=None,
        runtimes={},
        emulated=emulated,
        fake=fake,
        agent_sha256="a",
    )


def built(sha256: str = "a" * 64) -> Built:
    model = Model(kind="keras", path=Path("m"), sha256="m", signature=EMPTY, origin="m", parameters=1)
    return Built(
        wanted=Wanted(target="tflite", variant="compressed", model=model, scheme=Scheme.INT8, per_channel=True, isa=""),
        artifact=Artifact(
            target="tflite",
            path=Path("m.tflite"),
            format="tflite",
            precision="int8",
            sha256=sha256,
            signature=EMPTY,
            toolchain={},
            made_from="m",
            size_bytes=1,
            gzip_bytes=1,
            sparsity=0.0,
        ),
        comparison=Comparison(sqnr_db=40.0, cosine=1.0, max_abs=0.0, top1_agreement=1.0, n=2),
        cached=False,
        seconds=0.0,
    )


def outcome(name: str, output: np.ndarray, *, emulated: bool = False, fake: bool = False) -> BoardOutcome:
    found = info(emulated=emulated, fake=fake)
    none = np.zeros(0, np.int64)
    measured = Measurement(
        device=name,
        artifact_sha256="a" * 64,
        samples_ns=none,
        warmup_ns=none,
        windows=none,
        outputs=(output,),
        outputs_sha256=outputs_sha256([output]),
        output_quantization=INT8,
        peak_rss_bytes=None,
        peak_rss_reason="not asked",
        warmup_flat=True,
        timer_overhead_ns=0,
        validity=Validity.VALID,
        validity_reasons=(),
        environment_before=NOW,
        environment_after=NOW,
        board=found,
        runner="test",
        protocol=MeasureProtocol(),
        taken_at="2026-11-22T10:00:00+00:00",
    )
    transport = "local" if name == "local" else "ssh"
    device = Device(name=name, transport=transport)  # type: ignore[arg-type]
    return BoardOutcome(device=device, info=found, built=(built(),), outcomes=(measured,))


def records(*outcomes: BoardOutcome, checked: Checked | None = None) -> tuple[ParityRecord, ...]:
    parity = Parity()
    for one in reversed(outcomes):
        parity.add(one)
    return parity.records([one.device.name for one in outcomes], lambda _: checked)


def test_a_board_that_hands_out_no_outputs_is_not_compared():
    """As where trtexec timed alone."""
    here = outcome("here", X86)
    (found,) = outcome("silent", X86).outcomes
    assert isinstance(found, Measurement)
    none = dataclasses.replace(found, outputs=None, outputs_sha256=None, outputs_reason="trtexec timed it alone")
    silent = dataclasses.replace(outcome("silent", X86), outcomes=(none,))
    (record,) = records(here, silent, outcome("there", X86))
    assert [one.device for one in record.devices] == ["there"]


def other(at: int = 0, by: int = 2) -> np.ndarray:
    changed = X86.copy()
    changed.flat[at] += by
    return changed


def test_the_same_answers_are_identical_in_every_element():
    (record,) = records(outcome("local", X86), outcome("pi", X86, emulated=True))
    assert (record.reference, record.samples, record.elements) == ("local", 2, 6)
    assert record.devices == (ParityDevice(device="pi", identical=True, different=0, max_abs_diff=0.0, unit="LSB"),)


def test_each_board_is_compared_with_the_first_real_one_whatever_was_done_first():
    (record,) = records(
        outcome("qemu", other(), emulated=True), outcome("pi4", X86), outcome("pi5", other(1, 3)), outcome("local", X86)
    )
    assert record.reference == "pi4"
    assert [(d.device, d.different, d.max_abs_diff) for d in record.devices] == [
        ("qemu", 1, 2.0),
        ("pi5", 1, 3.0),
        ("local", 0, 0.0),
    ]


def test_a_lone_board_is_compared_with_this_machines_check():
    """The check took every second sample only."""
    checked = Checked(outputs=(X86[[1]],), index=np.array([1]))
    (record,) = records(outcome("pi", other(at=0), emulated=True), checked=checked)
    assert (record.reference, record.samples, record.elements) == (None, 1, 3)
    assert record.devices[0].identical
    (record,) = records(outcome("pi", other(at=4)), checked=checked)
    assert record.devices[0].different == 1


@pytest.mark.parametrize("lone", [outcome("local", X86), outcome("fake", X86, fake=True)])
def test_where_there_is_nothing_to_compare_nothing_is_said(lone: BoardOutcome):
    assert records(lone, checked=Checked(outputs=(X86,), index=np.arange(2))) == ()
    assert records(outcome("pi", X86), checked=None) == ()


def test_a_scripted_board_proves_nothing():
    (record,) = records(outcome("fake", other(), fake=True), outcome("local", X86), outcome("pi", X86))
    assert record.reference == "local"
    assert [device.device for device in record.devices] == ["pi"]


def test_a_board_that_failed_is_left_out():
    dead = dataclasses.replace(outcome("dead", X86), outcomes=(BoardError("dead: no answer."),))
    (record,) = records(dead, outcome("local", X86), outcome("pi", X86))
    assert (record.reference, len(record.devices)) == ("local", 1)


def test_the_order_is_the_same_whichever_board_was_done_first():
    def one(name: str, sha256: str, target: str, variant: str) -> BoardOutcome:
        base = outcome(name, X86)
        wanted = dataclasses.replace(base.built[0].wanted, target=target, variant=variant)
        artifact = dataclasses.replace(base.built[0].artifact, sha256=sha256)
        return dataclasses.replace(base, built=(dataclasses.replace(base.built[0], wanted=wanted, artifact=artifact),))

    outcomes = [
        one(name, sha256, target, variant)
        for sha256, target, variant in (("a", "tflite", "compressed"), ("b", "tflite", "float"), ("c", "onnx", "float"))
        for name in ("pi4", "pi5")
    ]
    found = []
    for order in (outcomes, outcomes[::-1]):
        parity = Parity()
        for each in order:
            parity.add(each)
        found.append(parity.records(["pi4", "pi5"], lambda _: None))
    assert found[0] == found[1]
    assert [(record.target, record.variant) for record in found[0]] == [
        ("onnx", "float"),
        ("tflite", "float"),
        ("tflite", "compressed"),
    ]


def test_answers_that_are_the_same_are_held_once():
    parity = Parity()
    for number in range(5):
        parity.add(outcome(f"pi{number}", X86.copy()))
    assert len(parity._held) == 1


def test_float_differences_are_told_as_they_are():
    ours = np.array([0.1, 0.2, np.nan], np.float32)
    found = compare([ours + np.float32(2**-24)], [ours], [None])
    assert (found.different, found.unit, found.reason) == (2, "absolute", None)
    assert found.largest == pytest.approx(2**-24, rel=0.5)


def test_outputs_of_both_kinds_are_compared_by_what_they_stand_for():
    quantized, plain = np.array([0, 10], np.int8), np.array([1.0, 2.0], np.float64)
    found = compare([quantized + np.int8(2), plain], [quantized, plain + 1e-12], [(0.5, 0), None])
    assert (found.different, found.largest, found.unit) == (4, 1.0, "absolute")


def test_the_whole_range_of_int8_is_a_difference_of_255():
    found = compare([np.array([-128], np.int8)], [np.array([127], np.int8)], INT8)
    assert (found.different, found.largest) == (1, 255.0)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_a_number_against_none_is_a_difference_without_a_size(spoilt: float):
    found = compare([np.array([spoilt, 1.0])], [np.array([0.0, 2.0])], [None])
    assert (found.different, found.largest, found.reason) == (2, None, "a side is no finite number")


def test_answers_of_another_shape_differ_in_everything():
    found = compare([X86[:1]], [X86], INT8)
    assert (found.different, found.largest) == (6, None)
    assert found.reason == "int8[1, 3] against int8[2, 3]"


@given(arrays.arrays(np.int8, (4, 5)), arrays.arrays(np.int8, (4, 5)))
def test_it_counts_what_a_loop_would_count_and_both_ways_alike(left: np.ndarray, right: np.ndarray):
    found = compare([left], [right], INT8)
    gaps = [abs(int(a) - int(b)) for a, b in zip(left.flat, right.flat, strict=True)]
    assert (found.different, found.largest) == (sum(gap > 0 for gap in gaps), float(max(gaps)))
    assert found == compare([right], [left], INT8)


@given(arrays.arrays(np.float32, 6, elements=st.floats(width=32)))
def test_nothing_differs_from_itself(output: Any):
    assert compare([output], [output.copy()], [None]).different == 0
