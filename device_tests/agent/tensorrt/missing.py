"""Why `import tensorrt` fails on a board that has TensorRT, and the command that mends it."""

import importlib.util
import os
import re
import sys

from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import trtexec

PACKAGE = "python3-libnvinfer"
PLAIN = "No module named 'tensorrt'"
_OR_TRTEXEC = " (or have trtexec used, which is here and needs no Python)"
_FOLDERS = "/usr/lib/python3*/dist-packages/tensorrt"
_LIBRARIES = "/usr/lib/*-linux-gnu/libnvinfer.so*"


def binding(root=None):
    """Why this Python has no TensorRT, in one line; None where it has. Starts nothing where none is installed."""
    if "tensorrt" in sys.modules or importlib.util.find_spec("tensorrt") is not None:
        return None
    return missing_binding(root or Root())


def runtime(root=None):
    """Why nothing of TensorRT can be used here; None where the binding is, or trtexec, which needs no Python."""
    root = root or Root()
    return None if trtexec.place(root) is not None else binding(root)


def remedy(root):
    """What brings the binding to a board that has trtexec, and so TensorRT."""
    told = missing_binding(root)
    if told == PLAIN:
        return "%s: sudo apt-get install %s" % (PLAIN, PACKAGE)
    return told[: -len(_OR_TRTEXEC)] if told.endswith(_OR_TRTEXEC) else told


def missing_binding(root, version=None, prefix=None, in_venv=None):
    """What keeps Python from TensorRT and what to do about it, in one line.

    JetPack puts the binding among the packages of Ubuntu's own Python; a virtual environment does not see those.

    Args:
        root: the board.
        version: of the Python that asks, "3.10"; its own where not given.
        prefix: its folder, likewise.
        in_venv: whether that is a virtual environment, likewise.
    """
    version = version or "%d.%d" % sys.version_info[:2]
    prefix = prefix or sys.prefix
    in_venv = sys.prefix != sys.base_prefix if in_venv is None else in_venv
    places = root.glob(_FOLDERS)
    if places:
        return "%s: %s" % (PLAIN, _not_seen(places[-1], version, prefix, in_venv))
    if not root.glob(_LIBRARIES):
        return PLAIN
    told = "TensorRT is installed, its Python binding is not: sudo apt-get install %s" % PACKAGE
    if root.command("dpkg-query", "-W", "-f", "${Status}", PACKAGE) == "install ok installed":
        told = "package %s is installed, its files are gone: sudo apt-get install --reinstall %s" % (PACKAGE, PACKAGE)
    if root.exists("/usr/src/tensorrt/bin/trtexec"):
        told += _OR_TRTEXEC
    return "%s: %s" % (PLAIN, told)


def _not_seen(place, version, prefix, in_venv):
    """The binding is there, for a Python that may be another one."""
    dist_packages = os.path.dirname(place)
    found = re.search(r"/python(3(?:\.\d+)?)/", place)
    owner = found.group(1) if found else "3"
    if owner not in ("3", version):
        return "%s is for Python %s, this is %s: use /usr/bin/python%s for this board" % (place, owner, version, owner)
    if in_venv:
        return (
            "%s is there, and this virtual environment does not look at it: "
            "sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' %s "
            "(or make it again with python3 -m venv --system-site-packages)"
            % (place, os.path.join(prefix, "pyvenv.cfg"))
        )
    return "%s is there, and this Python does not look at it: PYTHONPATH=%s, or use /usr/bin/python3" % (
        place,
        dist_packages,
    )
