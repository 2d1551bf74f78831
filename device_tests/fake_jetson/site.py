"""Puts the fake TensorRT where a board's Python finds it: a folder for PYTHONPATH.

What runs on the board is a zip with a package `device_tests` of its own; the file written here leads that package's
search, and the import of everything else the fake needs, into this project.
"""

from __future__ import annotations

from pathlib import Path

from device_tests.fake_jetson import versions

_PROJECT = Path(__file__).resolve().parents[2]

_SHIM = '''"""FAKE TensorRT {version}: there is none here. Written by edgesmith, for trying out board code."""

import sys

import device_tests

_PROJECT = {project!r}
if _PROJECT not in sys.path:
    sys.path.append(_PROJECT)
if _PROJECT + "/device_tests" not in device_tests.__path__:
    device_tests.__path__.append(_PROJECT + "/device_tests")

from device_tests.fake_jetson.fake_tensorrt import make

globals().update(
    (_name, _value) for _name, _value in vars(make({version!r}, compute={compute!r}, dla_cores={cores})).items()
    if not _name.startswith("__") or _name == "__version__"
)
'''


def write_site(folder: Path, version: str, *, compute: str = "", dla_cores: int = 0) -> Path:
    """Writes a package `tensorrt` that is the fake.

    Args:
        folder: to put on PYTHONPATH; made where it is missing.
        version, compute, dla_cores: as `fake_tensorrt.make` takes them.

    Returns:
        the folder.

    Raises:
        ConfigError: the attributes of that version are not recorded.
    """
    versions.find(version)
    package = folder / "tensorrt"
    package.mkdir(parents=True, exist_ok=True)
    text = _SHIM.format(version=version, project=str(_PROJECT), compute=compute, cores=dla_cores)
    (package / "__init__.py").write_text(text, encoding="utf-8")
    return folder
