"""What of NVIDIA's software is there, read from packages and files: nothing is loaded, so nothing can crash."""

import importlib.util
import json
import re

from device_tests.agent import power_modes

_PACKAGES = ("nvidia-jetpack", "nvidia-l4t-core", "libnvinfer[0-9]*", "libcudnn[0-9]*", "cuda-cudart-[0-9]*")
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")


def nvidia(root):
    """The record's keys about L4T, JetPack, TensorRT, CUDA, cuDNN and nvpmodel."""
    packages = _packages(root)
    return {
        "l4t": _l4t(root, packages),
        "jetpack_package": _version(packages, "nvidia-jetpack"),
        "tensorrt": _version(packages, r"libnvinfer\d+") or _library(root, "libnvinfer.so"),
        "tensorrt_python": importlib.util.find_spec("tensorrt") is not None,
        "trtexec": root.exists("/usr/src/tensorrt/bin/trtexec") or root.tool("trtexec") is not None,
        "cuda": _cuda(root) or _version(packages, r"cuda-cudart-\d.*"),
        "cudnn": _version(packages, r"libcudnn\d+(-cuda-\d+)?") or _library(root, "libcudnn.so"),
        "power_mode": power_modes.current(root),
        "power_modes": list(power_modes.modes(root).values()),
    }


def is_jetson(root):
    """Whether this is one: by its Linux for Tegra, or, in a container without that, by its device tree."""
    if root.exists("/etc/nv_tegra_release"):
        return True
    return any("nvidia,tegra" in name for name in root.strings("/proc/device-tree/compatible"))


def _packages(root):
    """Installed Debian package -> version."""
    form = "${Package} ${Version} ${Status}\n"
    # Status 1: one of the patterns fits nothing.
    told = root.command("dpkg-query", "-W", "-f", form, *_PACKAGES, codes=(0, 1)) or ""
    lines = [line.split(" ", 2) for line in told.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 3 and line[2].endswith(" installed")}


def _version(packages, pattern):
    """The upstream version of the newest package of that name: "10.3.0.30-1+cuda12.5" is 10.3.0.30."""
    fitting = [re.split(r"[-+]", text)[0] for name, text in packages.items() if re.match(pattern + "$", name)]
    return max(fitting, key=lambda text: [int(part) for part in re.findall(r"\d+", text)], default=None)


def _l4t(root, packages):
    found = _RELEASE.search(root.text("/etc/nv_tegra_release") or "")
    return "%s.%s" % found.groups() if found else _version(packages, "nvidia-l4t-core")


def _library(root, name):
    """The version in the file name of a shared library: libnvinfer.so.10.3.0."""
    found = [path.rpartition(".so.")[2] for path in root.glob("/usr/lib/*-linux-gnu/%s.*" % name)]
    return max((text for text in found if "." in text), key=len, default=None)


def _cuda(root):
    try:
        return json.loads(root.text("/usr/local/cuda/version.json") or "{}")["cuda"]["version"]
    except (KeyError, TypeError, ValueError):
        found = re.search(r"CUDA Version ([\d.]+)", root.text("/usr/local/cuda/version.txt") or "")
        return found.group(1) if found else None
