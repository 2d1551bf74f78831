"""What a power mode's guard has to put back, written down before anything is changed.

<workdir>/power/lock              held by the guard that is at work
<workdir>/power/undo-<id>.json    what is to be put back; gone once it is
<workdir>/power/clocks-<id>.conf  what jetson_clocks stored
<workdir>/power/restored-<id>.json  what a guard did whose agent was gone

A board that loses its power in between comes back in the mode that was set: nvpmodel remembers it. Then the note is
still there, and the next guard, or `left`, finds it.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from datetime import datetime, timezone

from device_tests.agent.protocol import Refusal

_KEPT_REPORTS = 5
_POLL_S = 0.1
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@contextlib.contextmanager
def locked(folder, patience_s=0.0):
    """Held by the one guard of a workdir. Refusal "power-mode-busy" where another is at work for so long."""
    until = time.monotonic() + patience_s
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as lock:
        while not _taken(lock):
            if time.monotonic() > until:
                raise Refusal("power-mode-busy", "another guard holds this board's power mode, or still restores it")
            time.sleep(_POLL_S)
        yield


def _taken(lock):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def plan(root, folder, mode, clocks):
    """A note of what is there now.

    Args:
        root: the board.
        folder: of the notes.
        mode: its power mode, None where it has none.
        clocks: `power_modes.clocks` of it.
    """
    identity = "%d-%d" % (time.time() * 1000, os.getpid())
    return {
        "path": os.path.join(folder, "undo-%s.json" % identity),
        "clocks_file": os.path.join(folder, "clocks-%s.conf" % identity),
        "at": datetime.now(timezone.utc).isoformat(),
        "boot_id": root.text(_BOOT_ID),
        "mode": mode,
        "clocks": clocks,
        "mode_set": False,
        "locked": False,
    }


def same_boot(root, noted):
    """Whether the board has not been restarted since. Clocks do not outlive a restart, modes do."""
    return root.text(_BOOT_ID) == noted["boot_id"]


def write(noted):
    """Puts the note on the disk, whole or not at all, before it returns."""
    _write(noted["path"], noted)


def forget(noted):
    """It has been put back."""
    for path in (noted["clocks_file"], noted["path"]):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def pending(folder):
    """Notes that are there, the newest first: what was changed last is put back first."""
    found = [_read(path) for path in _paths(folder, "undo-")]
    return [noted for noted in reversed(found) if noted]


def left(folder):
    """What nobody will put back: notes without a guard at work, as {"at", "mode"}."""
    if not os.path.isdir(folder):
        return []
    try:
        with locked(folder):
            return [{"at": noted["at"], "mode": noted["mode"]} for noted in pending(folder)]
    except Refusal:
        return []


def report(folder, why, restored):
    """Writes down what was put back without an agent to tell it to."""
    at = datetime.now(timezone.utc).isoformat()
    path = os.path.join(folder, "restored-%d-%d.json" % (time.time() * 1000, os.getpid()))
    _write(path, {"at": at, "why": why, "restored": restored})
    for old in _paths(folder, "restored-")[:-_KEPT_REPORTS]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(old)


def reports(folder):
    """The last of `report`, the oldest first."""
    return [told for told in map(_read, _paths(folder, "restored-")) if told]


def _paths(folder, prefix):
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    # Names hold milliseconds: sorted by name is sorted by time.
    return [os.path.join(folder, name) for name in sorted(names) if name.startswith(prefix) and name.endswith(".json")]


def _read(path):
    try:
        with open(path) as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path, content):
    part = path + ".part"
    with open(part, "w") as stream:
        json.dump(content, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(part, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
