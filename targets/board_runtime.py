"""What a board's own runtime is, for targets whose files differ by it, and whether a board is a Jetson."""

from __future__ import annotations

from collections.abc import Mapping

from edgesmith.types import BoardInfo, Device
from edgesmith.types.boards import FAKE
from targets import board_profiles
from targets.base import RuntimeFacts
from targets.board_profiles import BoardProfile

_COMPUTE = "compute"
"""The agent's word for the GPU's compute capability, beside the versions of its packages."""


def runtime_facts(device: Device, info: BoardInfo, runner: str) -> RuntimeFacts | None:
    """What decides how a file for a runner is written; None where the board does not have the runner.

    Args:
        device: as the inventory has it.
        info: what the board said.
        runner: key of the agent's runner; its package has the same name.
    """
    if runner not in info.runners or runner not in info.runtimes:
        return None
    profile = profile_of(device, info)
    known = profile.jetson.compute if profile is not None and profile.jetson is not None else ""
    return RuntimeFacts(version=info.runtimes[runner], compute=info.runtimes.get(_COMPUTE) or known)


def shown(runtimes: Mapping[str, str]) -> str:
    """A board's runtimes for people: the GPU's capability is no package, and what is FAKE comes first."""
    packages = [f"{name} {version}" for name, version in runtimes.items() if name not in (_COMPUTE, FAKE)]
    fake = [f"FAKE {runtimes[FAKE]}"] if FAKE in runtimes else []
    gpu = [f"GPU of compute capability {runtimes[_COMPUTE]}"] if _COMPUTE in runtimes else []
    return ", ".join((*fake, *packages, *gpu))


def is_jetson(device: Device, info: BoardInfo | None) -> bool:
    """Whether a board is meant to be one: by what the inventory calls it, else by what it says of itself."""
    profile = profile_of(device, info)
    return profile is not None and profile.jetson is not None


def profile_of(device: Device, info: BoardInfo | None) -> BoardProfile | None:
    """What is known of a board: by what the inventory calls it, else by what it says of itself; None where nothing."""
    name = device.board if device.board != "auto" else info and board_profiles.name_for(info)
    return board_profiles.get(name) if name else None
