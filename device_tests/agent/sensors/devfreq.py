"""The GPU's clocks as devfreq shows them.

17000000.gpu (Orin), gpu-gpc-0 (Thor), 57000000.gpu (Nano), 17000000.gv11b (Xavier), 17000000.gp10b (TX2), and whatever
else is named so.
"""

import os
import re

_GPU = re.compile(r"^gpu(-|$)|\.gpu$|\.g[a-z]\d+b$")
_PLACES = ("/sys/class/devfreq/*", "/sys/devices/gpu.0/devfreq/*")


def gpus(root):
    """One per clock of the GPU: {"name", "path", "governor", "min_khz", "max_khz", "current_khz"}."""
    for place in _PLACES:
        found = [_clock(root, path) for path in root.glob(place) if _GPU.search(os.path.basename(path))]
        if found:
            return found
    return []


def gpu_clock_khz(root):
    """The clock of the GPU now; None where there is none, or it is not told."""
    return next((clock["current_khz"] for clock in gpus(root)), None)


def _clock(root, path):
    return {
        "name": os.path.basename(path),
        "path": path,
        "governor": root.text(path + "/governor"),
        "min_khz": _khz(root, path + "/min_freq"),
        "max_khz": _khz(root, path + "/max_freq"),
        "current_khz": _khz(root, path + "/cur_freq"),
    }


def _khz(root, path):
    hertz = root.number(path)
    return None if hertz is None else hertz // 1000
