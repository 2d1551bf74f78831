"""What runs on this machine, for tests that must leave nothing running."""

from __future__ import annotations

import time
from pathlib import Path


def wait_gone(pid: int, seconds: float = 20.0) -> None:
    """Waits until a process has ended; a zombie counts."""
    end = time.monotonic() + seconds
    while runs(pid):
        assert time.monotonic() < end, f"{pid} is still there"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    return stat(pid)[:1] not in ([], ["Z"])


def stat(pid: int) -> list[str]:
    """State, parent and the rest of /proc/PID/stat; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
