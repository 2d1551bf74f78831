"""Where libcudart is. JetPack has it in a CUDA folder that the loader may not know, pip in a package of its own."""

import ctypes
import glob
import os
import re
import sys

from device_tests.agent.cuda.errors import CudaMissing

# Names the library itself: for places that are not looked at.
VARIABLE = "EDGESMITH_LIBCUDART"

# As the loader knows it: the link that comes with the headers, then what a bare runtime has, newest first.
SONAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")

FOLDERS = (
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/*/lib",
    "/usr/local/cuda-*/lib64",
    "/usr/local/cuda-*/targets/*/lib",
    "/usr/local/cuda*/lib",
    "/usr/lib/aarch64-linux-gnu/tegra",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
)
PACKAGES = ("nvidia/*/lib",)


def find(load=ctypes.CDLL, sonames=SONAMES, folders=FOLDERS, packages=PACKAGES):
    """(library, its name or path).

    Args:
        load: opens one; raises OSError where it cannot.
        sonames: tried by name.
        folders: patterns, searched after them, newest version first in each.
        packages: patterns below every folder of sys.path, searched last.

    Raises:
        CudaMissing: none could be opened; says which were tried and why they failed.
    """
    named = os.environ.get(VARIABLE)
    if named:
        try:
            return load(named), named
        except OSError as error:
            raise CudaMissing("ctypes", "%s=%s: %s" % (VARIABLE, named, error)) from None
    patterns = list(folders) + [os.path.join(entry, package) for entry in sys.path for package in packages]
    whys = []
    for place in list(sonames) + [path for pattern in patterns for path in _inside(pattern)]:
        try:
            return load(place), place
        except OSError as error:
            # A name that the loader does not know is no news; a file that is there and cannot be opened is.
            if os.path.isabs(place):
                whys.append("%s: %s" % (place, error))
    text = "; ".join(whys) or "no libcudart.so in the loader's path, nor below %s" % ", ".join(folders)
    raise CudaMissing("ctypes", "%s. Set %s to its path." % (text, VARIABLE))


def _inside(pattern):
    """Every file of that name in the folders of a pattern once, newest first."""
    found = {}
    for path in glob.glob(os.path.join(pattern, "libcudart.so*")):
        found.setdefault(os.path.realpath(path), path)
    return sorted(found.values(), key=lambda path: _version(os.path.realpath(path)), reverse=True)


def _version(path):
    return [int(part) for part in re.findall(r"\d+", path.rpartition(".so")[2])]
