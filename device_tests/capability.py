"""The capability record: what a board is, what it has, and what it lets us do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from targets import jetpack, wheels


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """One cpufreq policy.

    Attributes:
        cpus: the cores that follow it.
        governors: those it can be given.
        min_khz, max_khz: the limits now. hardware_max_khz: what the processor could.
    """

    path: str
    cpus: tuple[int, ...]
    governor: str | None
    governors: tuple[str, ...]
    min_khz: int | None
    max_khz: int | None
    hardware_max_khz: int | None
    current_khz: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClock:
    """One clock of the GPU: the limits now, and what it runs at."""

    name: str
    path: str
    governor: str | None
    min_khz: int | None
    max_khz: int | None
    current_khz: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLock:
    """Whether the clocks could be held still for a measurement. The probe itself never changes them.

    Attributes:
        how: by what; empty where it is not possible.
        reason: why it is not possible.
    """

    possible: bool
    how: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """A thermal zone; `celsius` is None where it is switched off or shows a constant."""

    type: str
    celsius: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """A power rail that the board measures.

    Attributes:
        source: ina3221, ina238, pmic, rapl, ...
        path: file of its current, power or energy; None where a program tells it.
        readable: by the user we log in as.
    """

    source: str
    name: str
    path: str | None
    readable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityRecord:
    """What the agent's `probe` found; `device_tests/agent/probing.py` tells every key.

    None: the board has no such thing, or does not tell.

    Attributes:
        device: its name in the inventory.
        machine, kernel: as `uname` says them.
        pointer_bits: of its Python: 32 on a 64-bit machine is a 32-bit userland.
        soc: the chip, as the device tree names it.
        missing: target -> why its runtime does not import.
        clock_off_s: how far its wall clock is ahead of ours (behind: negative).
    """

    device: str
    model: str | None
    compatible: tuple[str, ...]
    soc: str | None
    system: str
    os_id: str | None
    os_version: str | None
    os_codename: str | None
    kernel: str
    machine: str
    platform: str
    pointer_bits: int
    libc: str | None
    cpu: str | None
    cpu_features: tuple[str, ...]
    cores: int
    cores_online: int
    memory_bytes: int | None
    memory_available_bytes: int | None
    swap_bytes: int | None
    workdir: str
    disk_free_bytes: int | None
    disk_total_bytes: int | None
    python: str
    executable: str
    venv: bool
    externally_managed: bool
    pip: str | None
    ensurepip: bool
    numpy: str | None
    runtimes: Mapping[str, str]
    runners: tuple[str, ...]
    missing: Mapping[str, str]
    l4t: str | None
    jetpack_package: str | None
    tensorrt: str | None
    tensorrt_python: bool
    trtexec: bool
    cuda: str | None
    cudnn: str | None
    power_mode: str | None
    power_modes: tuple[str, ...]
    clocks: tuple[Clock, ...]
    clock_lock: ClockLock
    temperatures: tuple[Temperature, ...]
    rails: tuple[Rail, ...]
    throttled: str | None
    utc: str
    uptime_s: float | None
    clock_off_s: float
    emulated: bool
    gpu_clocks: tuple[GpuClock, ...] = ()

    @property
    def wheel_place(self) -> wheels.Place:
        """What decides which wheels pip takes there."""
        major, minor = (int(part) for part in self.python.split(".")[:2])
        machine = wheels.machine_of(self.machine, self.pointer_bits)
        return wheels.Place(machine, (major, minor), wheels.libc_of(self.libc))

    @property
    def userland_32bit(self) -> bool:
        """A 32-bit system on a 64-bit kernel."""
        return self.pointer_bits == 32 and self.machine in ("aarch64", "x86_64")

    @property
    def jetpack(self) -> str | None:
        """Its JetPack, for people; None where the board is no Jetson."""
        if self.jetpack_package is not None:
            return self.jetpack_package
        return None if self.l4t is None else jetpack.name_of(self.l4t)

    def as_dict(self) -> dict[str, Any]:
        """For --json: every field, and what follows from them."""
        found: dict[str, Any] = _RECORD.dump_python(self, mode="json")
        return {**found, "jetpack": self.jetpack, "userland_32bit": self.userland_32bit}


_RECORD: TypeAdapter[CapabilityRecord] = TypeAdapter(CapabilityRecord)


def read_record(found: Mapping[str, Any]) -> CapabilityRecord:
    """The record of an agent's answer. Keys of other use are left out.

    Raises:
        pydantic.ValidationError: a key is missing or of the wrong kind.
    """
    return _RECORD.validate_python(dict(found))
