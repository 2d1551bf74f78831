"""The capability record: what this board is, what it has, and what it lets us do. Nothing on it is changed.

Keys (None where the board has no such thing, or does not tell):
    those of `environment.identity`, and of `sensor_facts.sensors`, `nvidia_facts.nvidia`;
    compatible, soc: of the device tree; the last word of its list is the chip.
    os_id, os_version, os_codename: of os-release. libc: "glibc 2.36" or "musl".
    cpu_features: those that decide how fast int8 and float16 are. cores_online.
    memory_available_bytes, swap_bytes; workdir, disk_free_bytes, disk_total_bytes.
    venv: this Python is a virtual environment; externally_managed: pip refuses it; pip: its version;
    ensurepip: `python -m venv` works.
    numpy: imported, else installed. runtimes, runners, missing: as `hello` gives them.
    utc: by the board's own clock. uptime_s.
"""

import glob
import importlib.machinery
import importlib.util
import os
import re
import sys
import sysconfig
from datetime import datetime, timezone

from device_tests.agent import environment, nvidia_facts, runtimes, sensor_facts
from device_tests.agent.reading import Root


def methods(agent, root=None):
    """What the agent can be asked here."""

    def probe(_params, deadline, _event):
        """The capability record of this board."""
        workdir = agent.folders.root if agent.folders is not None else os.getcwd()
        found = look(root or Root(), workdir)
        imported = runtimes.importable(deadline)
        return dict(found, **dict(imported, numpy=imported["numpy"] or found["numpy"]))

    return {"probe": probe}


def look(root, workdir: str) -> dict:
    """The record without the runtimes: those take a process each.

    Args:
        root: the board.
        workdir: whose disk counts.
    """
    release = environment.os_release(root)
    compatible = root.strings("/sys/firmware/devicetree/base/compatible") or root.strings(
        "/proc/device-tree/compatible"
    )
    found = dict(
        environment.identity(root),
        compatible=compatible,
        soc=compatible[-1].rpartition(",")[2] if compatible else None,
        os_id=release.get("ID"),
        os_version=release.get("VERSION_ID"),
        os_codename=release.get("VERSION_CODENAME"),
        libc=_libc(root),
        memory_available_bytes=environment.meminfo(root, "MemAvailable"),
        swap_bytes=environment.meminfo(root, "SwapTotal"),
        utc=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        uptime_s=_uptime(root),
    )
    found.update(_cores(root))
    found.update(_disk(workdir))
    found.update(_python())
    found.update(sensor_facts.sensors(root))
    found.update(nvidia_facts.nvidia(root))
    return found


def _libc(root):
    try:
        told = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        told = None
    return told or ("musl" if root.glob("/lib/ld-musl-*") else None)


def _cores(root):
    """cores: those the board has; cores_online: those that are switched on now. nvpmodel switches some off."""
    here = os.cpu_count() or 1
    folder = "/sys/devices/system/cpu/"
    return {
        "cores": _count(root.text(folder + "present")) or here,
        "cores_online": _count(root.text(folder + "online")) or here,
    }


def _count(text):
    """How many numbers "0-3,6" names; None where it names none."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", text or "")
    return sum(int(last or first) - int(first) + 1 for first, last in spans) or None


def _disk(workdir):
    try:
        found = os.statvfs(workdir)
    except OSError:
        return {"workdir": workdir, "disk_free_bytes": None, "disk_total_bytes": None}
    return {
        "workdir": os.path.abspath(workdir),
        "disk_free_bytes": found.f_bavail * found.f_frsize,
        "disk_total_bytes": found.f_blocks * found.f_frsize,
    }


def _python():
    venv = sys.prefix != sys.base_prefix
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return {
        "venv": venv,
        "externally_managed": not venv and os.path.exists(marker),
        "pip": _installed("pip"),
        "ensurepip": importlib.util.find_spec("ensurepip") is not None,
        "numpy": _installed("numpy"),
    }


def _installed(name):
    """A package's version by the folder that its installer left beside it. Importing it would take a second or more."""
    # Only what lies on the path: setuptools' finder answers for pip with a warning, where distutils was imported.
    spec = importlib.machinery.PathFinder.find_spec(name)
    if spec is None or not spec.origin:
        return None
    beside = os.path.dirname(os.path.dirname(spec.origin))
    found = glob.glob(os.path.join(glob.escape(beside), name + "-*-info"))
    versions = [re.match(r"[^-]+-(.+?)(-py[\d.]+)?\.(dist|egg)-info$", os.path.basename(path)) for path in found]
    return next((match.group(1) for match in versions if match), "unknown")


def _uptime(root):
    words = (root.text("/proc/uptime") or "").split()
    return float(words[0]) if words else None
