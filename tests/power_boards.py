"""A fake Jetson whose power modes can be set, and an agent of it that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from device_tests.agent import power_journal, power_modes
from device_tests.agent.power_hold import Hold
from device_tests.agent.reading import Root
from device_tests.agent_zip import build_agent
from device_tests.fake_jetson.tools import STATE, calls, write_tools
from tests.board_trees import jetson

TREES = {"4.6": "nano", "5.1": "xavier-nx", "6.2": "orin-nano", "7.0": "thor", "7.2": "orin-nano-jetpack7"}


class Board:
    """A fake Jetson with NVIDIA's tools, and the agent's zip beside it."""

    def __init__(self, top: Path, jetpack: str = "6.2") -> None:
        self.top = top / "board"
        jetson(self.top, TREES[jetpack])
        write_tools(self.top, jetpack)
        self.root = Root(str(self.top))
        self.program = top / "agent.zip"
        self.program.write_bytes(build_agent().content)
        self.folder = top / "workdir" / power_modes.FOLDER

    def hold(self, mode: str | None = None, *, lock: bool = False, euid: int | None = 0) -> Hold:
        asked = {"mode": mode, "lock_clocks": lock}
        return Hold(asked, str(self.folder), self.root, str(self.program), euid)

    @property
    def mode(self) -> str | None:
        name: str | None = power_modes.current(self.root)
        return name

    def files(self) -> dict[str, str]:
        """Everything that a mode or a lock changes."""
        places = ("sys/devices/system/cpu/cpufreq", "sys/class/devfreq", "var/lib/nvpmodel")
        found = [path for place in places for path in sorted((self.top / place).rglob("*")) if path.is_file()]
        return {str(path): path.read_text() for path in found if path.name not in ("scaling_cur_freq", "cur_freq")}

    def state(self, name: str, text: str = "") -> None:
        (self.top / STATE / name).write_text(text)

    def calls(self) -> list[str]:
        """Without the names of files."""
        return [" ".join(word for word in line.split() if "/" not in word) for line in calls(self.top)]

    def reports(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = power_journal.reports(str(self.folder))
        return found

    def wait_report(self) -> dict[str, Any]:
        end = time.monotonic() + 30
        while not self.reports():
            assert time.monotonic() < end, "no guard has reported"
            time.sleep(0.02)
        return self.reports()[-1]

    def agent(self, mode: str | None, *, lock: bool = False, python: str = sys.executable) -> subprocess.Popen[bytes]:
        """A process that holds a mode, as the agent does: it tells the guard's pid and then works."""
        script = (
            "import json, sys, time\n"
            "from device_tests.agent.power_hold import Hold\n"
            "from device_tests.agent.reading import Root\n"
            "asked, folder, top, program = json.loads(sys.argv[1])\n"
            "with Hold(asked, folder, Root(top), program, 0) as held:\n"
            "    print(held.guard_pid, flush=True)\n"
            "    time.sleep(60)\n"
        )
        asked = [{"mode": mode, "lock_clocks": lock}, str(self.folder), str(self.top), str(self.program)]
        return subprocess.Popen(
            [python, "-c", script, json.dumps(asked)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(self.program)},
            cwd=self.top.parent,
            start_new_session=True,
        )
