"""What is this board? One question to its agent, and the answer for programs and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_tests.capability import CapabilityRecord, Clock, read_record
from device_tests.deadline import Deadline
from edgesmith.toolchain import version
from edgesmith.types import Device
from targets import board_profiles, wheels
from targets.board_profiles import BoardProfile
from targets.board_runtime import shown

if TYPE_CHECKING:
    from device_tests.session import BoardSession

_PROBE_S = 180.0
_CLOCK_OFF_S = 5.0
_GB = 1e9


def probe(session: BoardSession) -> CapabilityRecord:
    """The capability record of a board. Nothing on it is changed.

    Raises:
        BoardError, ConnectionLost, DeadlineExceeded: as `BoardSession`.
    """
    asked = datetime.now(UTC)
    found = session.ask("probe", {}, Deadline.after(_PROBE_S))
    return _record(session.device.name, found, asked, datetime.now(UTC))


def probe_here(workdir: Path | None = None) -> CapabilityRecord:
    """This machine's record, in this process. Runtimes count as there where they are installed: none is imported."""
    from device_tests.agent.probing import look
    from device_tests.agent.reading import Root

    asked = datetime.now(UTC)
    found = look(Root(), str(workdir or Path.cwd()))
    installed = {target: _installed(packages) for target, packages in wheels.RUNTIMES.items()}
    found["runners"] = tuple(target for target, versions in installed.items() if versions)
    found["runtimes"] = {package: text for versions in installed.values() for package, text in versions.items()}
    found["missing"] = {target: "not installed" for target, versions in installed.items() if not versions}
    return _record("local", found, asked, datetime.now(UTC))


def profile_for(device: Device, record: CapabilityRecord) -> tuple[BoardProfile | None, str]:
    """The profile that a board is taken for, and a warning where the inventory names another one than was found.

    Args:
        device: its `board` is a profile's name, or "auto".
        record: what the board says of itself.

    Returns:
        The profile, None where none fits; and the warning, empty where there is none.

    Raises:
        ConfigError: the inventory names a profile that there is not.
    """
    found = board_profiles.name_of(
        machine=record.machine,
        model=record.model,
        compatible=record.compatible,
        pointer_bits=record.pointer_bits,
    )
    if device.board == "auto":
        return (board_profiles.get(found) if found else None), ""
    named = board_profiles.get(device.board)
    if found == device.board or (found is not None and _is_generic_of(named, found)):
        return named, ""
    said = f"says it is '{record.model}'" if record.model else f"is {record.machine} and has no model name"
    better = f"`board: {found}` or `board: auto`" if found else "`board: auto`"
    return named, (
        f"{device.name}: the inventory calls it {device.board}, the board {said}. "
        f"Profile {device.board} is used; {better} in devices.yaml would fit."
    )


def describe(record: CapabilityRecord) -> list[str]:
    """The record for people, one fact a line: "name  text"."""
    return [f"{name:12} {text}" for name, text in facts(record)]


def facts(record: CapabilityRecord) -> Iterator[tuple[str, str]]:
    """(name, text) of everything worth a line. What the board does not have has none."""
    yield "board", _board(record)
    yield "system", ", ".join(filter(None, (record.system, f"kernel {record.kernel}", _userland(record), record.libc)))
    yield "processor", _processor(record)
    yield "memory", _memory(record)
    yield "disk", _disk(record)
    yield "python", _python(record)
    for target, why in sorted(record.missing.items()):
        yield target, f"no runtime: {why}"
    if record.runtimes:
        yield "runtimes", shown(dict(sorted(record.runtimes.items())))
    if record.l4t or record.tensorrt or record.cuda:
        yield "nvidia", _nvidia(record)
    if record.power_mode or record.power_modes:
        others = ", ".join(name for name in record.power_modes if name != record.power_mode)
        yield "power mode", f"{record.power_mode or 'not known'}" + (f" (there are also {others})" if others else "")
    for clock in record.clocks:
        yield "clock", _clock(clock)
    lock = record.clock_lock
    yield "clock lock", f"possible: {lock.how}" if lock.possible else f"not possible: {lock.reason}"
    yield "heat", _heat(record)
    yield "power", _power(record)
    yield "throttling", _throttling(record.throttled)
    if abs(record.clock_off_s) > _CLOCK_OFF_S:
        yield "wall clock", f"off by {_duration(record.clock_off_s)}: it says {record.utc}"


def _record(device: str, found: Mapping[str, Any], asked: datetime, answered: datetime) -> CapabilityRecord:
    """Somewhere between the question and the answer the board read its clock."""
    board = datetime.fromisoformat(found["utc"])
    off = (board - answered).total_seconds() if board > answered else min(0.0, (board - asked).total_seconds())
    return read_record({**found, "device": device, "clock_off_s": round(off, 3)})


def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    return {package: text for package in packages if (text := version(package))}


def _is_generic_of(named: BoardProfile, found: str) -> bool:
    """A board may always be called by its generic name."""
    return named.generic and named.isa == board_profiles.get(found).isa


def _board(record: CapabilityRecord) -> str:
    name = record.model or f"{record.machine} machine without a model name"
    return name + (f" ({record.soc})" if record.soc else "") + (", EMULATED" if record.emulated else "")


def _userland(record: CapabilityRecord) -> str:
    if record.userland_32bit:
        return f"32-bit userland on a 64-bit kernel ({record.machine})"
    return record.machine


def _processor(record: CapabilityRecord) -> str:
    cores = f"{record.cores} cores"
    if record.cores_online != record.cores:
        cores += f", {record.cores_online} of them online"
    features = " ".join(record.cpu_features) or "no features we look for"
    return f"{record.cpu or 'not known'}, {cores}: {features}"


def _memory(record: CapabilityRecord) -> str:
    swap = f", {_gb(record.swap_bytes)} swap" if record.swap_bytes else ", no swap"
    return f"{_gb(record.memory_bytes)}, {_gb(record.memory_available_bytes)} available{swap}"


def _disk(record: CapabilityRecord) -> str:
    return f"{_gb(record.disk_free_bytes)} of {_gb(record.disk_total_bytes)} free at {record.workdir}"


def _python(record: CapabilityRecord) -> str:
    kind = "virtual environment" if record.venv else "the system's" if record.externally_managed else ""
    pip = f"pip {record.pip}" if record.pip else "no pip"
    numpy = f"numpy {record.numpy}" if record.numpy else "no numpy"
    return ", ".join(filter(None, (f"{record.python} at {record.executable}", kind, pip, numpy)))


def _nvidia(record: CapabilityRecord) -> str:
    named = {
        "JetPack": record.jetpack,
        "L4T": record.l4t,
        "CUDA": record.cuda,
        "cuDNN": record.cudnn,
        "TensorRT": record.tensorrt,
    }
    text = ", ".join(f"{name} {value}" for name, value in named.items() if value)
    return text + ("" if record.tensorrt_python or not record.tensorrt else " (not importable from this Python)")


def _clock(clock: Clock) -> str:
    cores = f"cores {_spans(clock.cpus)}: " if clock.cpus else ""
    limits = f" of {_mhz(clock.min_khz)}-{_mhz(clock.max_khz)}" if clock.max_khz is not None else ""
    return f"{cores}{_mhz(clock.current_khz)} MHz{limits}, {clock.governor or 'governor not known'}"


def _heat(record: CapabilityRecord) -> str:
    zones = [f"{zone.type} {zone.celsius:.1f}" for zone in record.temperatures if zone.celsius is not None]
    return f"{', '.join(zones)} °C" if zones else "no sensor"


def _power(record: CapabilityRecord) -> str:
    names = [rail.name if rail.readable else f"{rail.name} (not readable)" for rail in record.rails]
    return f"{record.rails[0].source}: {', '.join(names)}" if names else "no sensor"


_BITS = {
    0: "under-voltage now",
    1: "clock capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage since boot",
    17: "clock was capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}


def _throttling(bits: str | None) -> str:
    if bits is None:
        return "not told by this board"
    value = int(bits, 16)
    return ", ".join(text for bit, text in _BITS.items() if value >> bit & 1) or "none since boot"


def _spans(cpus: tuple[int, ...]) -> str:
    return f"{cpus[0]}-{cpus[-1]}" if len(cpus) > 1 else str(cpus[0])


def _mhz(khz: int | None) -> str:
    return "?" if khz is None else f"{khz / 1000:.0f}"


def _gb(number: int | None) -> str:
    return "?" if number is None else f"{number / _GB:.1f} GB"


def _duration(seconds: float) -> str:
    way = "ahead" if seconds > 0 else "behind"
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if abs(seconds) >= 2 * size:
            return f"{abs(seconds) / size:.0f} {unit} ({way})"
    return f"{abs(seconds):.0f} s ({way})"
