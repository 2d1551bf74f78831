"""One file per technique. The file name is the key in a recipe, and a new file is found without being registered."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import cast

from edgesmith.errors import ConfigError
from optimizer.base import Technique


def names() -> tuple[str, ...]:
    """Every technique, by stage and name. Imports no framework."""
    found = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return tuple(sorted(found, key=lambda name: (get(name).STAGE, name)))


def get(name: str) -> Technique:
    """A technique by its key.

    Raises:
        ConfigError: there is none of that name; says which ones there are.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}."
        raise ConfigError(f"unknown technique '{name}'; {hint}", next_step="`edgesmith techniques` lists them.")
    return cast("Technique", importlib.import_module(f"{__name__}.{name}"))
