"""What the board is, and the state it is in. A sensor that is not there is None, never a guess."""

import glob
import os
import platform
import struct
import subprocess
import sys
import sysconfig
from datetime import datetime, timezone

_CPU_ZONES = ("cpu", "soc", "pkg")


def snapshot():
    """The board's state now, keyed as `edgesmith.types.Environment`."""
    return {
        "taken_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "load_1m": _load(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_khz": _number(_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")),
        "temperature_c": temperature_c(),
        "throttled": _throttled(),
        "memory_available_bytes": _meminfo("MemAvailable"),
    }


def identity():
    """What the board is, keyed as `edgesmith.types.BoardInfo` where that has the field."""
    return {
        "machine": platform.machine(),
        "platform": sysconfig.get_platform(),
        "pointer_bits": struct.calcsize("P") * 8,
        "system": _system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "model": _model(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": _meminfo("MemTotal"),
        "emulated": os.environ.get("EDGE_EMULATED") == "1",
    }


def temperature_c(root="/sys/class/thermal"):
    """Celsius of the processor: the hottest zone named after it, else the hottest zone; None without a zone."""
    named, others = [], []
    for zone in sorted(glob.glob(root + "/thermal_zone*")):
        value = _number(_read(zone + "/temp"))
        kind = (_read(zone + "/type") or "").lower()
        # A Jetson's PMIC-Die is a constant 100 C, and a sensor that is off reads below zero.
        if value is None or value <= 0 or "pmic" in kind:
            continue
        (named if any(word in kind for word in _CPU_ZONES) else others).append(value / 1000.0)
    return max(named or others) if named or others else None


def _read(path):
    try:
        with open(path, "rb") as stream:
            return stream.read().replace(b"\0", b"").decode("utf-8", "replace").strip() or None
    except OSError:
        return None


def _number(text):
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _load():
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _throttled():
    """Raspberry Pi firmware's bits as "0x50005": 0-3 now, 16-19 since boot (under-voltage, cap, throttle, heat)."""
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, bits = done.stdout.decode("ascii", "replace").strip().partition("=")
    return bits if done.returncode == 0 and name == "throttled" and bits else None


def _meminfo(key):
    for line in (_read("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return None


def _model():
    """The device tree's model. /sys first: /proc/device-tree is only a link to it, and not on every kernel."""
    return _read("/sys/firmware/devicetree/base/model") or _read("/proc/device-tree/model")


def _cpu():
    facts = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip().lower(), value.strip())
    if "model name" in facts:
        return facts["model name"]
    if "cpu part" in facts:
        return "ARM implementer %s part %s" % (facts.get("cpu implementer", "?"), facts["cpu part"])
    return None


def _system():
    for line in (_read("/etc/os-release") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return platform.system()
