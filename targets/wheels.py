"""Which runtime can be installed where: what the package registry has, as data, and the rule by which pip chooses.

Seen as of 2026-11 in the registry's own file lists, all versions, through pip: newest release with a wheel, by machine,
Python and the oldest C library it asks for. An older release is listed where it asks for an older C library. Neither
runtime has a wheel for musl (Alpine), and neither has one for armv6 (Raspberry Pi 1 and Zero).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

Version = tuple[int, int]

_BOTH = ("aarch64", "x86_64")


@dataclass(frozen=True, slots=True)
class Wheel:
    """The newest release of a package for a kind of board.

    Attributes:
        machines: as pip's platform tags say it.
        pythons: first and last minor version of Python 3.
        libc: the oldest glibc it runs on; (0, 0) where its tag names none.
        also: what pip has to be told beside the package.
        numpy: the oldest numpy it takes; (0,) where any that pip finds will do.
    """

    package: str
    release: str
    machines: tuple[str, ...]
    pythons: tuple[int, int]
    libc: Version
    also: str = ""
    numpy: tuple[int, ...] = (0,)

    @property
    def requirement(self) -> str:
        """As arguments for pip: the package, and what must not come with it."""
        return f"{self.package} '{self.also}'" if self.also else self.package

    def __str__(self) -> str:
        return f"{self.package} {self.release}"


# tflite-runtime was built against numpy 1 and does not say so: with numpy 2 its import works and its Interpreter dies.
_NUMPY1 = "numpy<2"

# Newest first within a package: the first that fits is the one pip takes.
WHEELS: tuple[Wheel, ...] = (
    Wheel("ai-edge-litert", "2.3.0", _BOTH, (10, 14), (2, 27)),
    Wheel("ai-edge-litert", "2.1.0", _BOTH, (9, 9), (2, 27)),
    Wheel("ai-edge-litert", "1.4.0", _BOTH, (9, 12), (2, 17)),
    Wheel("tflite-runtime", "2.14.0", ("aarch64", "armv7l"), (8, 11), (2, 34), _NUMPY1, (1, 23, 2)),
    Wheel("tflite-runtime", "2.14.0", ("x86_64",), (8, 11), (2, 17), _NUMPY1, (1, 23, 2)),
    Wheel("tflite-runtime", "2.13.0", ("aarch64", "armv7l"), (8, 10), (2, 17), _NUMPY1, (1, 21, 2)),
    Wheel("tflite-runtime", "2.11.0", (*_BOTH, "armv7l"), (7, 7), (2, 17), _NUMPY1),
    Wheel("tflite-runtime", "2.5.0", ("armv7l",), (5, 8), (0, 0), _NUMPY1),
    Wheel("onnxruntime", "1.31.1", _BOTH, (11, 14), (2, 28)),
    Wheel("onnxruntime", "1.28.0", _BOTH, (11, 14), (2, 27)),
    Wheel("onnxruntime", "1.23.2", _BOTH, (10, 10), (2, 27)),
    Wheel("onnxruntime", "1.19.2", _BOTH, (8, 9), (2, 27)),
    Wheel("onnxruntime", "1.16.3", _BOTH, (8, 11), (2, 17)),
    Wheel("onnxruntime", "1.14.1", _BOTH, (7, 7), (2, 17)),
    Wheel("onnxruntime", "1.10.0", _BOTH, (6, 6), (2, 17)),
    Wheel("numpy", "2.5.5", _BOTH, (12, 14), (2, 27)),
    Wheel("numpy", "2.4.6", _BOTH, (11, 11), (2, 27)),
    Wheel("numpy", "2.2.6", _BOTH, (10, 13), (2, 17)),
    Wheel("numpy", "2.0.2", _BOTH, (9, 9), (2, 17)),
    Wheel("numpy", "1.24.4", _BOTH, (8, 8), (2, 17)),
    Wheel("numpy", "1.21.6", _BOTH, (7, 7), (2, 17)),
    Wheel("numpy", "1.19.5", _BOTH, (6, 6), (2, 17)),
)

# Target -> the packages that run it, the better one first.
RUNTIMES = {"tflite": ("ai-edge-litert", "tflite-runtime"), "onnxruntime": ("onnxruntime",)}


@dataclass(frozen=True, slots=True)
class Release:
    """An operating system's release, by its code name.

    Attributes:
        title: for people.
        python: minor version of its own Python 3.
        libc: its glibc.
        pythons: further minor versions that its archive has.
        numpy: of its own python3-numpy.
    """

    title: str
    python: int
    libc: Version
    numpy: tuple[int, ...]
    pythons: tuple[int, ...] = ()


RELEASES = {
    "bullseye": Release("Debian and Raspberry Pi OS 11", 9, (2, 31), (1, 19, 5)),
    "bookworm": Release("Debian and Raspberry Pi OS 12", 11, (2, 36), (1, 24, 2)),
    "trixie": Release("Debian and Raspberry Pi OS 13", 13, (2, 41), (2, 2, 4)),
    "bionic": Release("Ubuntu 18.04 (JetPack 4)", 6, (2, 27), (1, 13, 3), (7, 8)),
    "focal": Release("Ubuntu 20.04 (JetPack 5)", 8, (2, 31), (1, 17, 4), (9,)),
    "jammy": Release("Ubuntu 22.04 (JetPack 6)", 10, (2, 35), (1, 21, 5), (11,)),
    "noble": Release("Ubuntu 24.04 (JetPack 7)", 12, (2, 39), (1, 26, 4)),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What decides which wheel fits.

    Attributes:
        machine: as pip's platform tags say it; see `machine_of`.
        python: (3, 11).
        libc: glibc's version; None on musl, and where it is not known.
    """

    machine: str
    python: Version
    libc: Version | None


def machine_of(machine: str, pointer_bits: int) -> str:
    """The machine of pip's tags. A 32-bit Python on a 64-bit kernel takes 32-bit wheels, whatever `uname -m` says."""
    known = {"arm64": "aarch64", "AMD64": "x86_64", "amd64": "x86_64", "armv8l": "armv7l"}.get(machine, machine)
    return {"aarch64": "armv7l", "x86_64": "i686"}.get(known, known) if pointer_bits == 32 else known


def libc_of(text: str | None) -> Version | None:
    """The version in "glibc 2.36"; None for musl and for nothing."""
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", text or "")
    return (int(found[1]), int(found[2])) if found else None


@functools.cache
def newest(package: str, place: Place) -> Wheel | None:
    """The wheel that pip would take there; None where it finds none."""
    return next((wheel for wheel in WHEELS if wheel.package == package and _fits(wheel, place)), None)


def runtime(target: str, place: Place) -> Wheel | None:
    """The best runtime of a target that can be installed there."""
    found = (newest(package, place) for package in RUNTIMES.get(target, ()))
    return next((wheel for wheel in found if wheel is not None), None)


def pythons_for(target: str, machine: str, libc: Version | None) -> tuple[int, ...]:
    """Minor versions of Python 3 for which a target has a runtime on such a machine."""
    minors = range(5, 15)
    return tuple(minor for minor in minors if runtime(target, Place(machine, (3, minor), libc)) is not None)


def _fits(wheel: Wheel, place: Place) -> bool:
    major, minor = place.python
    if place.libc is None or major != 3 or place.machine not in wheel.machines:
        return False
    return wheel.pythons[0] <= minor <= wheel.pythons[1] and wheel.libc <= place.libc
