"""The agent's facts -> a `Measurement`, and whether it may be judged.

What is timed: inputs in (the model's own dtype, prepared before), invoke, outputs out; one sample at a time, real
samples in turn. Warm-up ends when the medians of three blocks lie within 10 % (`agent.timing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgesmith.types import BoardInfo, Environment, Validity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOISY_SPREAD = 0.30
"""Interquartile range of the window medians over their median. Shared CI machines reach 0.1 in peace."""
BUSY_LOAD_PER_CORE = 4.0
"""One-minute load per core before the start. Our own training counts into it on this machine, hence so high."""
_THROTTLED_NOW = 0x0000F
_THROTTLED_SINCE_BOOT = 0xF0000


def environment(told: Mapping[str, Any]) -> Environment:
    """The agent's snapshot as a record."""
    return Environment(**dict(told, throttling=tuple(told.get("throttling", ()))))


def board_info(told: Mapping[str, Any], agent_sha256: str) -> BoardInfo:
    """The agent's hello as a record."""
    same = ("system", "kernel", "python", "numpy", "model", "cpu", "cores", "memory_bytes", "runtimes", "emulated")
    # 32-bit systems on a 64-bit kernel call their machine aarch64; wheels go by the platform.
    narrow = told["machine"] == "aarch64" and told["pointer_bits"] == 32
    machine = "armv7l" if narrow else told["machine"]
    runners = tuple(told["runners"])
    return BoardInfo(
        machine=machine,
        agent_sha256=agent_sha256,
        runners=runners,
        cpu_features=tuple(told["cpu_features"]),
        fake=bool(told.get("fake", False)),
        power_mode=told.get("power_mode"),
        **{key: told[key] for key in same},
    )


def outputs_sha256(outputs: Sequence[NDArray[Any]]) -> str:
    """Hex SHA-256 over dtype, shape and bytes of every output, in order."""
    digest = hashlib.sha256()
    for array in outputs:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def judge_validity(
    samples_ns: NDArray[np.int64],
    windows: NDArray[np.int64],
    *,
    warmup_flat: bool,
    before: Environment,
    after: Environment,
    board: BoardInfo,
) -> tuple[Validity, tuple[str, ...]]:
    """Whether a measurement may be judged.

    Args:
        samples_ns: int64 [n].
        windows: int64 [n], the window of each sample.
        warmup_flat: the moving median became flat before the first window.
        before: the board's state before the first window.
        after: the board's state after the last one.
        board: what it ran on.

    Returns:
        The gravest state, and one sentence for everything that speaks against judging it.
    """
    found = [
        (Validity.UNKNOWN, _emulated(board)),
        (Validity.THROTTLED, _throttled(before, after)),
        (Validity.BUSY, _busy(before, board)),
        (Validity.NOISY, _restless(warmup_flat=warmup_flat)),
        (Validity.NOISY, _noisy(samples_ns, windows)),
    ]
    against = [(state, reason) for state, reason in found if reason]
    return (against[0][0] if against else Validity.VALID), tuple(reason for _, reason in against)


def _emulated(board: BoardInfo) -> str:
    return "the board is emulated: this is emulation time, not latency" if board.emulated else ""


def _throttled(before: Environment, after: Environment) -> str:
    bits = [int(state.throttled, 16) for state in (before, after) if state.throttled]
    if any(value & _THROTTLED_NOW for value in bits):
        return f"the board throttled while measuring (get_throttled {before.throttled} -> {after.throttled})"
    if len(bits) == 2 and bits[1] & ~bits[0] & _THROTTLED_SINCE_BOOT:
        return f"the board throttled between the windows (get_throttled {before.throttled} -> {after.throttled})"
    if held := sorted({*before.throttling, *after.throttling}):
        return f"the board held its clocks down because of heat while measuring ({', '.join(held)})"
    return _over_current(before, after)


def _over_current(before: Environment, after: Environment) -> str:
    """Not oc3, momentary current: a Jetson in its fastest mode counts it all the while, a few a second."""
    if before.over_current is None or after.over_current is None:
        return ""
    new = {name: after.over_current.get(name, 0) - before.over_current.get(name, 0) for name in ("oc1", "oc2")}
    grown = [f"{name} +{count}" for name, count in new.items() if count > 0]
    return f"the board's power supply was not enough while measuring ({', '.join(grown)})" if grown else ""


def _busy(before: Environment, board: BoardInfo) -> str:
    if before.load_1m is None or before.load_1m <= BUSY_LOAD_PER_CORE * board.cores:
        return ""
    return (
        f"the board was busy before the start: load {before.load_1m:g} on {board.cores} cores "
        f"(limit {BUSY_LOAD_PER_CORE:g} per core)"
    )


def _restless(*, warmup_flat: bool) -> str:
    return "" if warmup_flat else "latency had not settled when the warm-up's time was up"


def _noisy(samples_ns: NDArray[np.int64], windows: NDArray[np.int64]) -> str:
    import numpy as np

    medians = np.array([np.median(samples_ns[windows == number]) for number in np.unique(windows)])
    low, middle, high = np.percentile(medians, [25, 50, 75])
    spread = float((high - low) / middle)
    if spread <= NOISY_SPREAD:
        return ""
    return (
        f"the windows disagree: the middle half of {len(medians)} window medians spans {spread:.0%} of their median "
        f"(limit {NOISY_SPREAD:.0%})"
    )
