"""JetPack, by the release of its Linux for Tegra (L4T), as data.

From the tables of jetson-stats and meta-tegra, as of 2026-11. Where NVIDIA's own package is installed, it knows better.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JetPack:
    """One release, or a run of releases that differ in nothing that matters here.

    Attributes:
        l4t: first and last release of it, as numbers.
        tensorrt: that it brings; empty where not known.
    """

    name: str
    l4t: tuple[tuple[int, ...], tuple[int, ...]]
    tensorrt: str
    cuda: str
    python: str
    codename: str


JETPACKS: tuple[JetPack, ...] = (
    JetPack("4.6", ((32, 6, 1), (32, 6, 1)), "8.0.1", "10.2", "3.6", "bionic"),
    JetPack("4.6.1-4.6.6", ((32, 7, 1), (32, 7, 6)), "8.2.1", "10.2", "3.6", "bionic"),
    JetPack("5.0.2", ((35, 1, 0), (35, 1, 0)), "8.4.1", "11.4", "3.8", "focal"),
    JetPack("5.1-5.1.7", ((35, 2, 1), (35, 6, 5)), "8.5.2", "11.4", "3.8", "focal"),
    JetPack("6.0", ((36, 2, 0), (36, 3, 0)), "8.6.2", "12.2", "3.10", "jammy"),
    JetPack("6.1-6.2", ((36, 4, 0), (36, 5, 2)), "10.3.0", "12.6", "3.10", "jammy"),
    JetPack("7.0-7.1", ((38, 2, 0), (38, 4, 0)), "10.13.3", "13.0", "3.12", "noble"),
    JetPack("7.2-7.2.1", ((39, 2, 0), (39, 2, 1)), "10.16.2", "13.2", "3.12", "noble"),
    JetPack("7.2.2", ((39, 2, 2), (39, 2, 2)), "", "13.2", "3.12", "noble"),
)


def of_l4t(l4t: str) -> JetPack | None:
    """The JetPack of an L4T release such as "36.4.4"; None for one that the table does not have."""
    numbers = _numbers(l4t)
    return next((one for one in JETPACKS if one.l4t[0] <= numbers <= one.l4t[1]), None)


def name_of(l4t: str) -> str:
    """Its name for people. A release newer than the table is told as one."""
    found = of_l4t(l4t)
    if found is not None:
        return found.name
    older = [one for one in JETPACKS if one.l4t[1] < _numbers(l4t)]
    return f"newer than {older[-1].name}" if older else f"older than {JETPACKS[0].name}"


def _numbers(l4t: str) -> tuple[int, ...]:
    return (*(int(part) for part in re.findall(r"\d+", l4t)), 0, 0)[:3]
