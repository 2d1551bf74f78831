"""What a board lets us see and hold still: clocks, temperatures, power rails. None of it is ever changed."""

import os
import re

from device_tests.agent import environment

_POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
_FIRST_CPU = "/sys/devices/system/cpu/cpu0/cpufreq"
_MONITORS = ("ina3221", "ina238", "ina226", "ina219", "ina2xx")


def sensors(root):
    """The record's keys about clocks and sensors."""
    clocks = _clocks(root)
    return {
        "clocks": clocks,
        "clock_lock": _clock_lock(root, clocks),
        "temperatures": environment.temperatures(root),
        "rails": _hwmon_rails(root) + _iio_rails(root) + _pmic_rails(root) + _rapl_rails(root),
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


def _hwmon_rails(root):
    """INA monitors as the kernel's hwmon shows them: JetPack 5 and later, and many other boards."""
    found = []
    for folder in root.glob("/sys/class/hwmon/hwmon*"):
        name = root.text(folder + "/name") or ""
        if not name.startswith(_MONITORS):
            continue
        # The INA238 measures power itself; the INA3221 gives a voltage and a current for each labelled channel.
        if root.exists(folder + "/power1_input"):
            found.append(_rail(root, name, root.text(folder + "/in1_label") or name, folder + "/power1_input"))
            continue
        for current in root.glob(folder + "/curr[0-9]_input"):
            channel = current[len(folder + "/curr") : -len("_input")]
            label = root.text("%s/in%s_label" % (folder, channel)) or "channel %s" % channel
            # "NC" is not connected; channel 7 is the sum of the shunt voltages.
            if label != "NC" and "sum of shunt" not in label:
                found.append(_rail(root, name, label, current))
    return found


def _iio_rails(root):
    """INA monitors as JetPack 4 shows them."""
    found = []
    for label in root.glob("/sys/bus/iio/devices/iio:device*/rail_name_[0-9]"):
        folder, number = os.path.split(label)[0], label[-1]
        found.append(_rail(root, "ina3221x", root.text(label), "%s/in_power%s_input" % (folder, number)))
    return [rail for rail in found if rail["name"] not in (None, "NC")]


def _pmic_rails(root):
    """A Raspberry Pi 5's PMIC: those rails that it measures the current of."""
    told = root.command("vcgencmd", "pmic_read_adc") or ""
    names = re.findall(r"^\s*(\w+)_A current\(", told, re.MULTILINE)
    return [{"source": "pmic", "name": name, "path": None, "readable": True} for name in names]


def _rapl_rails(root):
    """An x86 processor's own energy counters."""
    zones = root.glob("/sys/class/powercap/intel-rapl:[0-9]")
    return [_rail(root, "rapl", root.text(zone + "/name") or "package", zone + "/energy_uj") for zone in zones]


def _rail(root, source, name, path):
    return {"source": source, "name": name, "path": path, "readable": root.text(path) is not None}
