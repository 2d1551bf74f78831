"""The bundled example: in the repository, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from edgesmith.errors import ConfigError

_EXAMPLE = Path("examples") / "fashion_mnist" / "edgesmith.yaml"


def example_config() -> Path:
    """The example's config file.

    Raises:
        ConfigError: neither place has it.
    """
    package = Path(__file__).resolve().parent
    for place in (package / _EXAMPLE, package.parent / _EXAMPLE):
        if place.is_file():
            return place
    raise ConfigError(f"the bundled example is missing from this installation ({package / _EXAMPLE}).")
