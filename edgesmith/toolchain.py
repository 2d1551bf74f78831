"""Versions of what makes and runs models, without importing any of it."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Iterable

from edgesmith import __version__

REPORTED = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "numpy",
)


@functools.cache
def version(package: str) -> str | None:
    """The installed version, or None where the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str] = REPORTED) -> dict[str, str]:
    """Package -> version of those installed, with Python and edgesmith themselves."""
    found = {name: text for name in packages if (text := version(name))}
    return {"edgesmith": __version__, "python": platform.python_version(), **found}
