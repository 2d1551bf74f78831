"""Power modes of a Jetson, read: which there are, which is on, and what the clocks may do in it.

nvpmodel's modes go by numbers that differ between boards and JetPacks: only their names mean something. Its files need
neither root nor the tool. `power_hold` sets modes, on request only.
"""

import os
import re

from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.sensors import devfreq

FOLDER = "power"
"""Below the workdir: what is to be put back, and what was."""
_CONF = "/etc/nvpmodel.conf"
_STATUS = "/var/lib/nvpmodel/status"
_POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
_TOLD = re.compile(r"NV Power Mode: *(\S+)")


def methods(agent, root=None):
    """What the agent can be asked here."""

    def power_mode(_params, _deadline, _event):
        """See `look`; and what earlier sessions left, or guards put back: "left", "earlier"."""
        from device_tests.agent import power_journal

        found = look(root or Root())
        if agent.folders is not None:
            folder = os.path.join(agent.folders.root, FOLDER)
            found.update(left=power_journal.left(folder), earlier=power_journal.reports(folder))
        return found

    return {"power_mode": power_mode}


def modes(root):
    """Number -> name, in the order of nvpmodel's file; empty where the board has no modes."""
    lines = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", root.text(_CONF) or "", re.MULTILINE)
    return {int(number): name for number, name in lines}


def current(root):
    """The mode's name; None where there is none or nobody tells."""
    known = modes(root)
    status = re.search(r"pmode:(\d+)", root.text(_STATUS) or "")
    if status and int(status.group(1)) in known:
        return known[int(status.group(1))]
    return told(root.command("nvpmodel", "-q"))


def told(text):
    """The name in what `nvpmodel -q` printed, or None."""
    found = _TOLD.search(text or "")
    return found.group(1) if found else None


def number_of(root, name):
    """The number of the mode of that name; an upper-case letter may be a lower-case one where that leaves no doubt.

    Raises:
        Refusal: "power-mode-unknown", with the names that there are.
    """
    known = modes(root)
    fitting = [number for number, found in known.items() if found == name] or [
        number for number, found in known.items() if found.lower() == name.lower()
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = list(known.values())
    listed = "it has " + ", ".join(names) if names else "it has none: %s names no modes" % _CONF
    raise Refusal("power-mode-unknown", "this board has no power mode %r; %s" % (name, listed), modes=names)


def clocks(root):
    """What the clocks may do: "cpu0" or a devfreq name -> {"governor", "min_khz", "max_khz"}; cpu by its policy."""
    found = {}
    for folder in root.glob(_POLICIES):
        found["cpu" + folder[len(_POLICIES) - 1 :]] = {
            "governor": root.text(folder + "/scaling_governor"),
            "min_khz": root.number(folder + "/scaling_min_freq"),
            "max_khz": root.number(folder + "/scaling_max_freq"),
        }
    for clock in devfreq.gpus(root):
        found[clock["name"]] = {key: clock[key] for key in ("governor", "min_khz", "max_khz")}
    return found


def loose(found):
    """Those of `clocks` that may still move, as sentences; what cannot be read may. Empty: all are held."""
    return [
        "%s may move between %s and %s kHz" % (name, clock["min_khz"], clock["max_khz"])
        for name, clock in found.items()
        if clock["min_khz"] is None or clock["min_khz"] != clock["max_khz"]
    ]


def look(root):
    """The board's power modes and clocks now.

    Returns:
        "mode", "modes": names. "clocks": see `clocks`. "clocks_locked": none of them may move. "loose": those that may.
        "tools": path of "nvpmodel", "jetson_clocks" and "sudo", None where missing. "root": we are.
    """
    found = clocks(root)
    free = loose(found)
    return {
        "mode": current(root),
        "modes": list(modes(root).values()),
        "clocks": found,
        "clocks_locked": bool(found) and not free,
        "loose": free,
        "tools": {name: root.tool(name) for name in ("nvpmodel", "jetson_clocks", "sudo")},
        "root": os.geteuid() == 0,
    }
