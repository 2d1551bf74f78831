"""What is known of a board before it is reached. One file per board in `boards/`; the file name is its key."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgesmith import yaml_lines
from edgesmith.config import Section
from edgesmith.errors import ConfigError
from edgesmith.types import BoardInfo
from targets.wheels import machine_of

FOLDER = Path(__file__).parent / "boards"


class Sensors(Section):
    """What the board measures of itself.

    Attributes:
        temperature: types of its thermal zones.
        power: names of its power rails; empty where it measures none.
        power_source: what reads them.
        power_covers: what the rails add up to, for a report; empty without rails.
        throttling: what tells that it was throttled; empty where nothing does.
    """

    temperature: tuple[str, ...] = ()
    power: tuple[str, ...] = ()
    power_source: Literal["", "ina3221", "ina238", "pmic", "rapl"] = ""
    power_covers: str = ""
    throttling: str = ""


class Jetson(Section):
    """What holds for NVIDIA's boards only.

    Attributes:
        compute: the GPU's compute capability.
        jetpack: first and last JetPack that runs there; "" as last: still supported.
        int8: the GPU computes in int8 at all.
        dla: deep learning accelerators.
        power_modes: names of nvpmodel, as far as known; the board's own list counts.
    """

    compute: str
    jetpack: tuple[str, str]
    int8: bool
    dla: int = 0
    power_modes: tuple[str, ...] = ()


class BoardProfile(Section):
    """A board as data.

    Attributes:
        title: what people call it.
        isa: as `uname -m` says it.
        userlands: machines of the systems that it runs, as pip's tags say them, `isa` among them.
        cpu: its cores; empty where any.
        cores: 0 where any number.
        features: instruction sets that decide how fast int8 is.
        memory_gb: the sizes it is sold with; none where any.
        device_tree_prefixes: how the model in its device tree begins; none for generic boards.
        modules: part numbers that its device tree's `compatible` holds; they decide where a maker of a carrier board
            wrote a model of its own.
        releases: OS release -> target -> runtime that its Python gets there, as `wheels` says it. "bookworm/armv7l" is
            the 32-bit system, "bionic/3.8" another Python than the system's own.
        limits: what a user should know, one sentence each.
    """

    title: str
    isa: str
    userlands: tuple[str, ...]
    cpu: str = ""
    cores: int = 0
    features: tuple[str, ...] = ()
    memory_gb: tuple[float, ...] = ()
    device_tree_prefixes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    releases: dict[str, dict[str, str]]
    sensors: Sensors = Sensors()
    jetson: Jetson | None = None
    limits: tuple[str, ...] = ()

    @property
    def targets(self) -> frozenset[str]:
        """Keys of the targets that have a runtime on at least one release."""
        return frozenset(target for runtimes in self.releases.values() for target in runtimes)

    @property
    def generic(self) -> bool:
        """Fits any board of its machine."""
        return not self.device_tree_prefixes


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
    """The profile that fits what the agent's `hello` found; see `name_of`."""
    return name_of(machine=info.machine, model=info.model)


def name_of(*, machine: str, model: str | None, compatible: Sequence[str] = (), pointer_bits: int = 64) -> str | None:
    """The profile that fits a board; None where none does.

    Args:
        machine: as `uname -m` says it.
        model: of its device tree.
        compatible: of its device tree.
        pointer_bits: of its userland.

    Returns:
        The one whose module is in `compatible`; else whose prefix of `model` is the longest; else the generic one.
    """
    userland = machine_of(machine, pointer_bits)
    fitting = [(name, get(name)) for name in names() if userland in get(name).userlands]
    for name, profile in fitting:
        if any(module in text for module in profile.modules for text in compatible):
            return name
    prefixes = [
        (len(prefix), name) for name, one in fitting for prefix in one.device_tree_prefixes if _starts(model, prefix)
    ]
    if prefixes:
        return max(prefixes)[1]
    return next((name for name, profile in fitting if profile.generic), None)


def _starts(model: str | None, prefix: str) -> bool:
    return model is not None and model.startswith(prefix)
