"""Agents that nobody talks to any more: found by pid and start time, so that no other program is ever ended."""

import contextlib
import os
import re
import signal
import sys
import time

_AGENT = re.compile(r"agent-[0-9a-f]{64}\.zip")
_LEAVES_S = 3.0
_POLL_S = 0.02
_STARTED, _PARENT, _STATE = 19, 1, 0  # in /proc/PID/stat, after the program's name


def started(pid):
    """When a process started, in the kernel's ticks since boot; None where it is gone, or only its exit status left."""
    found = _stat(pid)
    return None if found is None or found[_STATE] in ("Z", "X") else int(found[_STARTED])


def is_agent(process):
    """Whether {"pid", "started"} still runs and is an agent of ours."""
    pid = process["pid"]
    if process["started"] is None or started(pid) != process["started"]:
        return False
    names = [os.path.basename(part) for part in _command(pid)]
    return any(_AGENT.fullmatch(name) or name == os.path.basename(sys.argv[0]) for name in names)


def ask_to_leave(process):
    """Has an agent clean up and go, if it can; waits for nothing."""
    if is_agent(process):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process["pid"], signal.SIGTERM)


def end(process, deadline):
    """Ends an agent and its children: asked first, so that it cleans up, and then killed. Says what came of it."""
    if not is_agent(process):
        return "was gone"
    pid, children = process["pid"], [child for child in _pids() if _parent(child) == process["pid"]]
    born = {child: started(child) for child in children}
    try:
        os.kill(pid, signal.SIGTERM)
        if not _wait(process, min(_LEAVES_S, deadline.remaining_s)):
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        return "belongs to another user"
    for child in children:
        if born[child] is not None and started(child) == born[child]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # Each child leads a group of its own.
                os.killpg(child, signal.SIGKILL)
    return "ended" if _wait(process, min(_LEAVES_S, deadline.remaining_s)) else "cannot be ended"


def _wait(process, seconds):
    until = time.monotonic() + seconds
    while started(process["pid"]) == process["started"]:
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_S)
    return True


def _pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid):
    found = _stat(pid)
    return None if found is None else int(found[_PARENT])


def _stat(pid):
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            return stream.read().rpartition(b")")[2].decode().split()
    except OSError:
        return None


def _command(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as stream:
            return stream.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return []
