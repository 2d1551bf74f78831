"""What the board is, and the state it is in. A sensor that is not there is None, never a guess."""

import os
import platform
import struct
import sys
import sysconfig
from datetime import datetime, timezone

from device_tests.agent import power_modes
from device_tests.agent.reading import Root
from device_tests.agent.sensors import devfreq, thermal

_CPU_ZONES = ("cpu", "soc", "pkg")
_FIRMWARE_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"

_FEATURES = (
    "neon asimd asimdhp fphp asimddp i8mm bf16 sve sve2 "
    "sse4_1 avx avx2 fma f16c avx512f avx512bw avx512_vnni avx512_bf16 avx_vnni amx_int8"
)

# (implementer, part) of /proc/cpuinfo, for the cores of the boards we know.
_PARTS = {
    ("0x41", "0xd03"): "cortex-a53",
    ("0x41", "0xd07"): "cortex-a57",
    ("0x41", "0xd08"): "cortex-a72",
    ("0x41", "0xd0b"): "cortex-a76",
    ("0x41", "0xd0c"): "neoverse-n1",
    ("0x41", "0xd42"): "cortex-a78ae",
    ("0x41", "0xd83"): "neoverse-v3ae",
    ("0x4e", "0x003"): "nvidia-denver2",
    ("0x4e", "0x004"): "nvidia-carmel",
}


def snapshot(root=None):
    """The board's state now, keyed as `edgesmith.types.Environment`."""
    root = root or Root()
    return {
        "taken_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "load_1m": _load(),
        "governor": root.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_khz": root.number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "temperature_c": temperature_c(root),
        "throttled": throttled(root),
        "throttling": thermal.throttling(root),
        "over_current": thermal.over_current(root),
        "gpu_clock_khz": devfreq.gpu_clock_khz(root),
        "power_mode": power_modes.current(root),
        "memory_available_bytes": meminfo(root, "MemAvailable"),
    }


def identity(root=None):
    """What the board is, keyed as `edgesmith.types.BoardInfo` where that has the field."""
    root = root or Root()
    return {
        "machine": platform.machine(),
        "platform": sysconfig.get_platform(),
        "pointer_bits": struct.calcsize("P") * 8,
        "system": os_release(root).get("PRETTY_NAME") or platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "model": model(root),
        "cpu": _cpu(root),
        "cpu_features": cpu_features(root),
        "cores": os.cpu_count() or 1,
        "memory_bytes": meminfo(root, "MemTotal"),
        "emulated": os.environ.get("EDGE_EMULATED") == "1",
    }


def cpu_features(root):
    """Those that decide how fast, and on x86-64 how exact, int8 and float16 are."""
    facts = cpuinfo(root)
    words = (facts.get("features") or facts.get("flags") or "").split()
    return [name for name in _FEATURES.split() if name in words]


def temperature_c(root):
    """Celsius of the processor: the hottest zone named after it, else the hottest zone; None without a zone."""
    named, others = [], []
    for zone in thermal.temperatures(root):
        if zone["celsius"] is not None:
            (named if any(word in zone["type"].lower() for word in _CPU_ZONES) else others).append(zone["celsius"])
    return max(named or others) if named or others else None


def throttled(root):
    """Raspberry Pi firmware's bits as "0x50005": 0-3 now, 16-19 since boot (under-voltage, cap, throttle, heat)."""
    name, _, bits = (root.command("vcgencmd", "get_throttled") or "").partition("=")
    if name == "throttled" and bits:
        return bits
    # Last: reading it makes newer kernels log that it is deprecated.
    bits = root.text(_FIRMWARE_THROTTLED)
    return "0x" + bits if bits else None


def meminfo(root, key):
    """A line of /proc/meminfo in bytes, or None."""
    for line in (root.text("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return None


def model(root):
    """The device tree's model. /sys first: /proc/device-tree is only a link to it, and not on every kernel."""
    return root.text("/sys/firmware/devicetree/base/model") or root.text("/proc/device-tree/model")


def os_release(root):
    """/etc/os-release as a dict."""
    found = {}
    for line in (root.text("/etc/os-release") or "").splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip().strip("\"'")
    return found


def cpuinfo(root):
    """The first value of every key of /proc/cpuinfo, keys in lower case."""
    facts = {}
    for line in (root.text("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip().lower(), value.strip())
    return facts


def _load():
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _cpu(root):
    facts = cpuinfo(root)
    implementer, part = facts.get("cpu implementer", "?"), facts.get("cpu part")
    if part is not None and (implementer, part) in _PARTS:
        return _PARTS[implementer, part]
    if "model name" in facts:
        return facts["model name"]
    if part is not None:
        return "ARM implementer %s part %s" % (implementer, part)
    return None
