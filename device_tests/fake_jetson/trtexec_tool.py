"""Puts the FAKE trtexec of a version into a folder: a program, as JetPack's is one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Literal

from device_tests.fake_jetson import versions

PLACE = "usr/src/tensorrt/bin"
"""Where JetPack has it, below the root."""

_PROJECT = Path(__file__).resolve().parents[2]

_PROGRAM = '''#!{python}
"""FAKE trtexec of TensorRT {text}: there is none here. Written by edgesmith, for trying out board code."""

import signal
import sys

# As a C program: whoever reads the first line only hears no complaint.
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
sys.path.insert(0, {project!r})

from device_tests.fake_jetson.trtexec_program import main

sys.exit(main({version!r}, {script!r}, sys.argv[1:]))
'''

Failure = Literal["parse", "kernel", "memory", "gpu", "hangs", "crashes"]


def write_trtexec(
    folder: Path,
    version: str,
    *,
    fails: Failure | None = None,
    at: Literal["build", "run"] = "build",
    helper_pid_file: Path | None = None,
) -> Path:
    """Writes the program.

    Args:
        folder: made where it is missing; for a board's tree, its root and `PLACE`.
        version: such as "8.2" or "10.3"; its patch level is the recorded one.
        fails: how it comes to grief; "memory" of a build only where it is given more than a little workspace.
        at: when it does.
        helper_pid_file: where the process id of its helper goes, while it hangs.

    Returns:
        the program's path.

    Raises:
        ConfigError: there is nothing recorded of that version.
    """
    text = versions.find(version).text
    numbers = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    script = {"fails": fails, "at": at, "helper_pid_file": str(helper_pid_file) if helper_pid_file else None}
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trtexec"
    shown = ".".join(str(number) for number in numbers)
    written = _PROGRAM.format(python=sys.executable, project=str(_PROJECT), text=shown, version=numbers, script=script)
    program.write_text(written, encoding="utf-8")
    program.chmod(0o755)
    return program
