"""What the user's `tensorrt:` adds to an artifact: its file stays, the board builds and runs it otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgesmith.config import TensorRt
from edgesmith.types import Artifact, Scheme

TARGET = "tensorrt"
_NOT_COUNTED = ("build_timeout_seconds",)


def as_asked(artifact: Artifact, settings: TensorRt) -> Artifact:
    """An artifact with the user's options among its own; one of another target as it is.

    No DLA computes in float32, so a float32 file stays on the GPU.
    """
    if artifact.target != TARGET:
        return artifact
    options = settings.options()
    if artifact.precision == Scheme.NONE.precision:
        options.pop("dla_core", None)
    return replace(artifact, build={**artifact.build, **options})


def counted(build: Mapping[str, object]) -> dict[str, object]:
    """The options of an artifact that a measurement depends on, besides its file."""
    return {name: value for name, value in build.items() if name not in _NOT_COUNTED}
