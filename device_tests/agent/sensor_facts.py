"""What a board lets us see and hold still: clocks, temperatures, power rails. None of it is ever changed."""

import re

from device_tests.agent import environment
from device_tests.agent.sensors import devfreq, rails, thermal

_POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
_FIRST_CPU = "/sys/devices/system/cpu/cpu0/cpufreq"


def sensors(root):
    """The record's keys about clocks and sensors."""
    clocks = _clocks(root)
    return {
        "clocks": clocks,
        "clock_lock": _clock_lock(root, clocks),
        "gpu_clocks": devfreq.gpus(root),
        "temperatures": thermal.temperatures(root),
        "rails": _ina_rails(root) + _pmic_rails(root) + _rapl_rails(root),
        "throttled": environment.throttled(root),
    }


def _clocks(root):
    """One per cpufreq policy: which cores, the governor, and the clocks in kHz."""
    folders = root.glob(_POLICIES) or root.glob(_FIRST_CPU)
    return [
        {
            "path": folder,
            "cpus": [int(word) for word in (root.text(folder + "/related_cpus") or "").split()],
            "governor": root.text(folder + "/scaling_governor"),
            "governors": (root.text(folder + "/scaling_available_governors") or "").split(),
            "min_khz": root.number(folder + "/scaling_min_freq"),
            "max_khz": root.number(folder + "/scaling_max_freq"),
            "hardware_max_khz": root.number(folder + "/cpuinfo_max_freq"),
            "current_khz": root.number(folder + "/scaling_cur_freq"),
        }
        for folder in folders
    ]


def _clock_lock(root, clocks):
    """Whether clocks could be held still from here: {"possible", "how", "reason"}."""
    if not clocks:
        return _lock("", "there is no cpufreq here: the clocks are not this system's to set")
    if all(root.writable(clock["path"] + "/scaling_governor") for clock in clocks):
        return _lock("scaling_governor is writable")
    if root.tool("sudo") is None:
        return _lock("", "scaling_governor belongs to root, and there is no sudo")
    if root.command("sudo", "-n", "true") is None:
        return _lock("", "scaling_governor belongs to root, and sudo asks for a password")
    if root.tool("jetson_clocks"):
        return _lock("sudo -n jetson_clocks")
    return _lock("sudo -n may write scaling_governor")


def _lock(how, reason=""):
    return {"possible": bool(how), "how": how, "reason": reason}


def _ina_rails(root):
    """Those of INA monitors: Jetsons, and many other boards."""
    return [
        {"source": rail.source, "name": rail.name, "path": rail.path, "readable": rail.mw(root) is not None}
        for rail in rails.find(root)
    ]


def _pmic_rails(root):
    """A Raspberry Pi 5's PMIC: those rails that it measures the current of."""
    told = root.command("vcgencmd", "pmic_read_adc") or ""
    names = re.findall(r"^\s*(\w+)_A current\(", told, re.MULTILINE)
    return [{"source": "pmic", "name": name, "path": None, "readable": True} for name in names]


def _rapl_rails(root):
    """An x86 processor's own energy counters."""
    zones = root.glob("/sys/class/powercap/intel-rapl:[0-9]")
    return [_rapl_rail(root, zone) for zone in zones]


def _rapl_rail(root, zone):
    path = zone + "/energy_uj"
    name = root.text(zone + "/name") or "package"
    return {"source": "rapl", "name": name, "path": path, "readable": root.text(path) is not None}
