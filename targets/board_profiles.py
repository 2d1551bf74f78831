"""What is known of a board before it is reached. One file per board in `boards/`; the file name is its key."""

from __future__ import annotations

import difflib
import functools
from pathlib import Path

from edgesmith import yaml_lines
from edgesmith.config import Section
from edgesmith.errors import ConfigError
from edgesmith.types import BoardInfo

FOLDER = Path(__file__).parent / "boards"


class BoardProfile(Section):
    """A board as data.

    Attributes:
        title: what people call it.
        isa: as `uname -m` says it.
        cpu: its cores; empty where any.
        features: instruction sets that decide how fast int8 is.
        device_tree_prefixes: how the model in its device tree begins; none for generic boards.
        releases: OS release -> target -> the package of its runtime, as pip takes it.
        limits: what a user should know, one sentence each.
    """

    title: str
    isa: str
    cpu: str = ""
    features: tuple[str, ...] = ()
    device_tree_prefixes: tuple[str, ...]
    releases: dict[str, dict[str, str]]
    limits: tuple[str, ...] = ()

    @property
    def targets(self) -> frozenset[str]:
        """Keys of the targets that have a runtime on at least one release."""
        return frozenset(target for runtimes in self.releases.values() for target in runtimes)


@functools.cache
def names() -> tuple[str, ...]:
    """Keys of all profiles, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))


@functools.cache
def get(name: str) -> BoardProfile:
    """The profile of that name.

    Raises:
        ConfigError: there is none; lists those that are.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        raise ConfigError(
            f"There is no board '{name}'" + (f"; did you mean '{close[0]}'?" if close else "."),
            next_step=f"Boards: {', '.join(names())}; or `auto`.",
        )
    return yaml_lines.read(FOLDER / f"{name}.yaml", what="board").check(BoardProfile)


def name_for(info: BoardInfo) -> str | None:
    """The profile that fits what the agent found: by the device tree, else by the machine; None where none does."""
    fitting = [name for name in names() if get(name).isa == _isa(info.machine)]
    for name in fitting:
        if info.model and info.model.startswith(get(name).device_tree_prefixes):
            return name
    return next((name for name in fitting if not get(name).device_tree_prefixes), None)


def _isa(machine: str) -> str:
    return {"arm64": "aarch64", "AMD64": "x86_64", "amd64": "x86_64"}.get(machine, machine)
