"""Whether a measurement may be judged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from device_tests import measure
from edgesmith.types import BoardInfo, Environment, Validity

CALM = Environment(
    taken_at="2026-01-01T00:00:00+00:00",
    load_1m=0.5,
    governor=None,
    clock_khz=None,
    temperature_c=None,
    throttled=None,
    memory_available_bytes=None,
)
BOARD = BoardInfo(
    machine="aarch64",
    system="Debian",
    kernel="6",
    python="3.11",
    numpy="2",
    model=None,
    cpu=None,
    cores=4,
    memory_bytes=None,
    runtimes={},
    emulated=False,
    agent_sha256="0" * 64,
)


def judged(
    medians: list[int],
    *,
    flat: bool = True,
    before: Environment = CALM,
    after: Environment = CALM,
    board: BoardInfo = BOARD,
) -> tuple[Validity, tuple[str, ...]]:
    windows = np.repeat(np.arange(len(medians)), 5)
    samples = np.repeat(np.array(medians, np.int64), 5)
    return measure.judge_validity(samples, windows, warmup_flat=flat, before=before, after=after, board=board)


def state(**changes: object) -> Environment:
    return dataclasses.replace(CALM, **changes)  # type: ignore[arg-type]


def test_a_calm_board_is_valid():
    assert judged([100, 101, 102, 103]) == (Validity.VALID, ())


def test_windows_that_disagree_are_noisy():
    # quartiles of 100 100 200 200: 100 and 200, median 150
    assert judged([100, 100, 200, 200]) == (
        Validity.NOISY,
        ("the windows disagree: the middle half of 4 window medians spans 67% of their median (limit 30%)",),
    )


def test_one_odd_window_of_eight_is_not_noise():
    assert judged([100] * 7 + [500])[0] is Validity.VALID


def test_a_restless_warm_up_is_noisy():
    assert judged([100, 100], flat=False) == (
        Validity.NOISY,
        ("latency had not settled when the warm-up's time was up",),
    )


def test_load_counts_per_core():
    assert judged([100, 100], before=state(load_1m=16.0))[0] is Validity.VALID
    found, reasons = judged([100, 100], before=state(load_1m=16.1))
    assert found is Validity.BUSY
    assert reasons == ("the board was busy before the start: load 16.1 on 4 cores (limit 4 per core)",)
    assert judged([100, 100], before=state(load_1m=None))[0] is Validity.VALID


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("0x0", "0x0", Validity.VALID),
        ("0x50000", "0x50000", Validity.VALID),  # since boot, before our time
        ("0x0", "0x50000", Validity.THROTTLED),  # between our windows
        ("0x0", "0x4", Validity.THROTTLED),
        ("0x1", "0x10000", Validity.THROTTLED),
        (None, None, Validity.VALID),
    ],
)
def test_throttle_bits_of_now_and_new_ones_since_boot_count(before: str | None, after: str | None, expected: Validity):
    assert judged([1, 1], before=state(throttled=before), after=state(throttled=after))[0] is expected


def test_an_emulated_board_is_never_judged_and_all_reasons_are_told():
    found, reasons = judged([100, 900], flat=False, board=dataclasses.replace(BOARD, emulated=True))
    assert found is Validity.UNKNOWN
    assert len(reasons) == 3
    assert reasons[0] == "the board is emulated: this is emulation time, not latency"


def test_the_hash_of_outputs_sees_dtype_shape_and_order():
    a, b = np.zeros((2, 3), np.int8), np.ones((2, 3), np.int8)
    hashes = {
        measure.outputs_sha256(outputs)
        for outputs in ([a], [b], [a, b], [b, a], [a.reshape(3, 2)], [a.astype(np.uint8)])
    }
    assert len(hashes) == 6
    assert measure.outputs_sha256([a]) == measure.outputs_sha256([a.copy()])


def test_a_32_bit_system_on_a_64_bit_kernel_is_armv7():
    told = dataclasses.asdict(BOARD) | {"pointer_bits": 32, "runners": ["tflite"]}
    info = measure.board_info(told, "0" * 64)
    assert info.machine == "armv7l"
    assert info.runners == ("tflite",)
