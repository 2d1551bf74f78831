"""A Jetson that is measured: the real agent on this machine, whose board is a tree with rails and NVIDIA's tools."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from device_tests.agent import power_modes
from device_tests.agent.reading import Root
from device_tests.fake_jetson.tools import calls, write_tools
from edgesmith.types import Device
from tests.board_trees import jetson
from tests.power_boards import TREES

_AGENT = """
import os, sys
sys.argv = [os.path.abspath(sys.argv[1]), *sys.argv[2:]]
sys.path.insert(0, sys.argv[0])
sys.executable = {python!r}
from device_tests.agent import reading
reading.Root.__init__.__defaults__ = ({top!r},)
from device_tests.agent.__main__ import main
main()
"""
"""As the zip starts itself, but for the place of the board's files. Its children come the same way."""


class MeasuredJetson:
    """Its tree, and the interpreter that an inventory names for it.

    Attributes:
        python: starts the agent with the tree as its board, and everything else as it is.
    """

    def __init__(self, folder: Path, jetpack: str = "6.2") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tree = jetson(folder / "tree", TREES[jetpack])
        write_tools(self.tree.top, jetpack)
        self.root = Root(str(self.tree.top))
        self.python = folder / "python"
        agent = _AGENT.format(top=str(self.tree.top), python=str(self.python))
        real, code = shlex.quote(sys.executable), shlex.quote(agent)
        self.python.write_text(
            f'#!/bin/sh\ncase "$2" in *.zip) shift; exec {real} -u -c {code} "$@";; esac\nexec {real} "$@"\n'
        )
        self.python.chmod(0o755)

    def device(self, **more: Any) -> Device:
        """At no distance: as "local" is reached."""
        lease_dir = str(self.folder / "lease")
        return Device(name="orin", transport="local", python=str(self.python), lease_dir=lease_dir, **more)

    @property
    def mode(self) -> str | None:
        name: str | None = power_modes.current(self.root)
        return name

    def be_in(self, number: int) -> None:
        """As if somebody had set it by hand."""
        self.tree.write("/var/lib/nvpmodel/status", f"pmode:{number:04d} fmode:quiet\n")

    def modes_set(self) -> list[str]:
        """Every change of mode that went through, by its number."""
        return [line.split()[-1] for line in calls(self.tree.top) if line.startswith("nvpmodel done")]
