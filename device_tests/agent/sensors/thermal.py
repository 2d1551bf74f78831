"""Heat: thermal zones with their trip points, and who holds clocks down because of it."""

import os
import re

_FANS = ("fan",)
# What the kernel's thermal framework does to clocks on Jetsons and other Arm boards. A state above 0 is throttling.
_HOLDS_CLOCKS = re.compile(r"throttle|hot-surface|balanced|^(thermal-)?cpufreq|^devfreq")
_OVER_CURRENT = "/sys/class/hwmon/hwmon*/oc[0-9]_event_cnt"


def temperatures(root):
    """Every thermal zone: {"type", "celsius"}, in order. A zone without a believable value has None."""
    return [{"type": zone["type"], "celsius": zone["celsius"]} for zone in _zones(root)]


def zones(root):
    """The zones that measure something: {"type", "celsius", "trips": [{"type", "celsius"}]}, coolest trip first."""
    return [
        {"type": zone["type"], "celsius": zone["celsius"], "trips": _trips(root, zone["path"])}
        for zone in _zones(root)
        if zone["celsius"] is not None
    ]


def cooling(root):
    """What can be done against heat: {"type", "state", "most", "holds_clocks"}. A fan holds no clocks."""
    found = []
    for folder in root.glob("/sys/class/thermal/cooling_device*"):
        kind = root.text(folder + "/type") or os.path.basename(folder)
        fan = any(word in kind for word in _FANS)
        found.append(
            {
                "type": kind,
                "state": root.number(folder + "/cur_state"),
                "most": root.number(folder + "/max_state"),
                "holds_clocks": not fan and _HOLDS_CLOCKS.search(kind) is not None,
            }
        )
    return found


def throttling(root):
    """Names of what holds clocks down just now; empty where nothing does."""
    return [device["type"] for device in cooling(root) if device["holds_clocks"] and (device["state"] or 0) > 0]


def over_current(root):
    """Over-current events since the board started, by event: {"oc1": 0, ...}; None where they are not counted.

    On Orin: oc1 under-voltage, oc2 mean current, oc3 momentary current. The hardware lowers clocks for a moment each
    time. A board in its fastest mode counts oc3 all the while.
    """
    counts = {}
    for path in root.glob(_OVER_CURRENT):
        count = root.number(path)
        if count is not None:
            name = os.path.basename(path)[: -len("_event_cnt")]
            counts[name] = counts.get(name, 0) + count
    return counts or None


def _zones(root):
    found = []
    for folder in root.glob("/sys/class/thermal/thermal_zone*"):
        value, kind = root.number(folder + "/temp"), root.text(folder + "/type") or os.path.basename(folder)
        # A Jetson's PMIC-Die is a constant, and a sensor that is off reads below zero.
        believable = value is not None and value > 0 and "pmic" not in kind.lower()
        found.append({"path": folder, "type": kind, "celsius": value / 1000.0 if believable else None})
    return found


def _trips(root, zone):
    found = []
    for path in root.glob(zone + "/trip_point_*_temp"):
        value = root.number(path)
        # Trips that are switched off are far below zero, or above what silicon survives.
        if value is not None and 0 < value < 200000:
            found.append({"type": root.text(path[: -len("temp")] + "type"), "celsius": value / 1000.0})
    return sorted(found, key=lambda trip: trip["celsius"])
