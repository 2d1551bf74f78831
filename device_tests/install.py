"""What a board lacks, and the exact command that brings it: for its system, its Python and its kind of processor."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from device_tests.capability import CapabilityRecord
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from edgesmith.errors import BoardError, InfrastructureError
from targets import wheels
from targets.board_profiles import BoardProfile

VENV = "~/edge"
_FREE_WANTED = 500_000_000
_CLOCK_OFF_S = 300.0
_LAST_PIP_FOR_36 = "'pip<22'"
_ASK_S = 20.0

# By the ID of os-release: how to get packages, and Python's own.
_APT = "sudo apt-get update && sudo apt-get install -y"
_SYSTEMS = {
    "debian": f"{_APT} python3 python3-venv",
    "raspbian": f"{_APT} python3 python3-venv",
    "ubuntu": f"{_APT} python3 python3-venv",
    "alpine": "sudo apk add python3 py3-pip",
    "fedora": "sudo dnf install -y python3",
    "rhel": "sudo dnf install -y python3",
    "centos": "sudo dnf install -y python3",
    "arch": "sudo pacman -S --noconfirm python",
    "opensuse": "sudo zypper install -y python3",
    "suse": "sudo zypper install -y python3",
    "openwrt": "opkg update && opkg install python3",
}

# Names for people.
_LABELS = {"ai-edge-litert": "LiteRT", "tflite-runtime": "tflite-runtime", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One thing a board lacks.

    Attributes:
        name: stable: a target's key, "numpy", "tensorrt", "disk", "clock", "throttle state".
        text: what, and what follows from it.
        commands: for the board's shell, in order; empty where no command mends it, `text` then says what does.
        optional: models run there all the same.
    """

    name: str
    text: str
    commands: tuple[str, ...] = ()
    optional: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"name": self.name, "text": self.text, "commands": list(self.commands), "optional": self.optional}


def missing(record: CapabilityRecord, profile: BoardProfile | None) -> tuple[Missing, ...]:
    """What the board lacks, what stops it first.

    Args:
        record: what it is.
        profile: what it is known to be; None where it is not known.
    """
    found = [*_runtimes(record, profile), *_tensorrt(record), *_state(record)]
    return tuple(sorted(found, key=lambda one: one.optional))


def runtime_hint(record: CapabilityRecord, target: str) -> Missing:
    """How the board gets the runtime of a target, whether or not it has it."""
    return _runtime(record, target, None)


def no_runtime(record: CapabilityRecord, target: str) -> BoardError:
    """The error for a board that lacks the runtime of a target it is needed for."""
    if target not in wheels.RUNTIMES:  # none that comes as a wheel
        return BoardError(f"{record.device}: No runtime for {target} ({record.missing[target]}).")
    hint = runtime_hint(record, target)
    steps = "".join(f"\n    {command}" for command in hint.commands)
    own = f"\nThen name it in devices.yaml: `python: {VENV}/bin/python`." if VENV in steps else ""
    return BoardError(f"{record.device}: {hint.text}", next_step=f"On the board:{steps}{own}" if steps else "")


def install_python_hint(connection: Connection) -> str:
    """The command that installs Python on a board that has none, for an error's next step. Never raises."""
    deadline = Deadline.after(_ASK_S)
    try:
        release = connection.run(["cat", "/etc/os-release"], deadline).stdout.decode("utf-8", "replace")
    except InfrastructureError:
        release = ""
    found = dict(line.partition("=")[::2] for line in release.splitlines() if "=" in line and line[0] != "#")
    named = {key: value.strip("\"'") for key, value in found.items()}
    system = named.get("PRETTY_NAME") or named.get("NAME", "")
    words = [named.get("ID", ""), *named.get("ID_LIKE", "").split()]
    command = next((_SYSTEMS[word] for word in words if word in _SYSTEMS), None)
    if command is None:
        what = f"{system} is not a system we know how to add packages to" if system else "its system is not known"
        return f"Install Python 3.6 or newer on the board ({what})."
    return f"The board runs {system}. Install Python there: `{command}`."


def _runtimes(record: CapabilityRecord, profile: BoardProfile | None) -> Iterator[Missing]:
    wanted = profile.targets if profile is not None else frozenset(wheels.RUNTIMES)
    for target in sorted(wanted - set(record.runners)):
        yield _runtime(record, target, profile)


def _runtime(record: CapabilityRecord, target: str, profile: BoardProfile | None) -> Missing:
    place = record.wheel_place
    wheel = wheels.runtime(target, place)
    why = f" ({record.missing[target]})" if target in record.missing else ""
    if wheel is not None:
        text = f"No runtime for {target}{why}; {_label(wheel.package)} {wheel.release} fits Python {_python(place)}."
        if _needs_foreign_numpy(record, wheel):
            oldest = ".".join(map(str, wheel.numpy))
            text += (
                f" It needs numpy {oldest} or newer, of which there is no {place.machine} wheel but on piwheels: "
                "the pip of Raspberry Pi OS asks there by itself, Debian's does not."
            )
        return Missing(name=target, text=text, commands=_install(record, wheel))
    label = " and ".join(_label(package) for package in wheels.RUNTIMES[target])
    has = "have no" if " and " in label else "has no"
    what = f"{label} {has} {place.machine} wheel for Python {_python(place)}"
    return Missing(name=target, **_other_way(record, target, what, profile))


def _other_way(record: CapabilityRecord, target: str, what: str, profile: BoardProfile | None) -> dict[str, Any]:
    """Text and commands where the board's own Python gets no wheel."""
    place = record.wheel_place
    if place.libc is None:
        libc = record.libc or "not known"
        return {"text": f"{what}: its C library is {libc}. Use a system with glibc, such as Debian."}
    release = wheels.RELEASES.get(record.os_codename or "")
    for minor in reversed(release.pythons if release else ()):
        wheel = wheels.runtime(target, replace(place, python=(3, minor)))
        if wheel is not None:
            python = f"python3.{minor}"
            commands = (f"{_APT} {python} {python}-venv", *_in_venv(python, wheel, (3, minor)))
            return {"text": f"{what}; use Python 3.{minor} with {wheel}.", "commands": commands}
    ways = []
    on_64_bits = wheels.runtime(target, replace(place, machine="aarch64"))
    could = record.machine == "aarch64" or (profile is not None and profile.isa == "aarch64")
    if place.machine == "armv7l" and could and on_64_bits is not None:
        ways.append(f"the 64-bit system, which this board can run ({on_64_bits} fits there)")
    if minors := wheels.pythons_for(target, place.machine, place.libc):
        wheel = wheels.runtime(target, replace(place, python=(3, minors[-1])))
        ways.append(f"Python 3.{minors[-1]} on this one ({wheel})")
    return {"text": f"{what}; use {', or '.join(ways)}." if ways else f"{what}, and for no other Python either."}


def _install(record: CapabilityRecord, wheel: wheels.Wheel) -> tuple[str, ...]:
    """Into the virtual environment that is used already, else into one of our own: no system's Python is touched."""
    python, place = shlex.quote(record.executable), record.wheel_place
    if record.venv:
        pip = f"{python} -m pip"
        first = () if record.pip else (f"{python} -m ensurepip --upgrade",)
        upgrade = (_upgrade(pip, place.python),) if _is_old(record.pip) else ()
        return (*first, *upgrade, f"{pip} install {wheel.requirement}")
    # Where there is no numpy wheel, the system's own is used, from outside the environment; so is a Jetson's TensorRT.
    own_numpy = wheels.newest("numpy", place) is None and not _needs_foreign_numpy(record, wheel)
    outside = own_numpy or record.l4t is not None
    needed = [] if record.ensurepip else ["python3-venv"]
    needed += ["python3-numpy"] if own_numpy and record.numpy is None else []
    apt = record.os_id in ("debian", "raspbian", "ubuntu")
    first = (f"{_APT} {' '.join(needed)}",) if needed and apt else ()
    return (*first, *_in_venv(python, wheel, place.python, outside=outside))


def _needs_foreign_numpy(record: CapabilityRecord, wheel: wheels.Wheel) -> bool:
    """No numpy wheel in the registry, and the system's own numpy is too old."""
    release = wheels.RELEASES.get(record.os_codename or "")
    return wheels.newest("numpy", record.wheel_place) is None and release is not None and release.numpy < wheel.numpy


def _in_venv(python: str, wheel: wheels.Wheel, version: wheels.Version, *, outside: bool = False) -> tuple[str, ...]:
    """Makes an environment and installs into it; `outside`: it sees the system's own packages."""
    pip = f"{VENV}/bin/pip"
    # The pip that comes with Python 3.9 and before is too old, or nearly so.
    upgrade = (_upgrade(pip, version),) if version < (3, 10) else ()
    options = " --system-site-packages" if outside else ""
    return (f"{python} -m venv{options} {VENV}", *upgrade, f"{pip} install {wheel.requirement}")


def _upgrade(pip: str, python: wheels.Version) -> str:
    return f"{pip} install -U {_LAST_PIP_FOR_36 if python < (3, 7) else 'pip'}"


def _is_old(pip: str | None) -> bool:
    """Before 20.3 pip does not know the names of today's wheels, and says that there are none."""
    numbers = [int(part) for part in (pip or "").split(".")[:2] if part.isdigit()]
    return bool(numbers) and numbers < [20, 3]


def _tensorrt(record: CapabilityRecord) -> Iterator[Missing]:
    if record.l4t is None:
        return
    if record.tensorrt is None:
        text = "TensorRT is not installed. It comes with JetPack, by apt; pip cannot bring it to a Jetson."
        yield Missing(
            name="tensorrt",
            text=text,
            commands=("sudo apt-get update && sudo apt-get install -y nvidia-jetpack",),
            optional=True,
        )
    elif not record.tensorrt_python:
        text = f"TensorRT {record.tensorrt} is there, and this Python cannot import it."
        if record.venv:
            text += (
                f" A virtual environment sees it only when made so: `python3 -m venv --system-site-packages {VENV}`."
            )
        command = "sudo apt-get update && sudo apt-get install -y python3-libnvinfer"
        yield Missing(name="tensorrt", text=text, commands=(command,), optional=True)


def _state(record: CapabilityRecord) -> Iterator[Missing]:
    if record.disk_free_bytes is not None and record.disk_free_bytes < _FREE_WANTED:
        free = record.disk_free_bytes / 1e6
        text = f"Only {free:.0f} MB are free at {record.workdir}; a runtime takes up to 200 MB, models come on top."
        commands = ("sudo apt-get clean",) if record.os_id in ("debian", "raspbian", "ubuntu") else ()
        yield Missing(name="disk", text=text, commands=commands, optional=True)
    if abs(record.clock_off_s) > _CLOCK_OFF_S:
        text = "Its wall clock is wrong. Nothing here depends on it, but certificates and package lists do."
        yield Missing(name="clock", text=text, commands=("sudo timedatectl set-ntp true",), optional=True)
    if record.throttled is None and (record.model or "").startswith("Raspberry Pi"):
        text = "vcgencmd tells nothing of throttling: it is not installed, or this user may not open /dev/vcio."
        yield Missing(name="throttle state", text=text, commands=('sudo usermod -aG video "$USER"',), optional=True)


def _label(package: str) -> str:
    return _LABELS.get(package, package)


def _python(place: wheels.Place) -> str:
    return f"{place.python[0]}.{place.python[1]}"
