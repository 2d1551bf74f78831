"""What each runtime accepts, and how to compile for it. One file per target; the file name is its key.

A module of this package is a target when it defines `NAME`, which must equal its file name. The others support them.
Importing a target imports no framework: each verb imports what it needs when it is called.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from types import ModuleType
from typing import cast

from edgesmith.errors import ConfigError, InternalError
from targets.base import VERBS, Target


def names() -> tuple[str, ...]:
    """Keys of all targets, sorted."""
    return tuple(sorted(_modules()))


def get(name: str) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is none; lists those that are.
    """
    modules = _modules()
    if name not in modules:
        close = difflib.get_close_matches(name, modules, n=1)
        raise ConfigError(
            f"There is no target '{name}'" + (f"; did you mean '{close[0]}'?" if close else "."),
            next_step=f"Targets: {', '.join(sorted(modules))}.",
        )
    return cast("Target", modules[name])


@functools.cache
def _modules() -> dict[str, ModuleType]:
    """A target that does not import is a defect, not a smaller list: its error goes up."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "NAME"):
            check(info.name, module)
            found[info.name] = module
    return found


def check(file_name: str, module: ModuleType) -> None:
    """Checks that a module keeps the contract of `targets.base.Target`.

    Raises:
        InternalError: its NAME is not its file name, or a verb is missing.
    """
    if file_name != module.NAME:
        raise InternalError(f"targets/{file_name}.py calls itself '{module.NAME}': the file name is the key.")
    missing = [verb for verb in VERBS if not callable(getattr(module, verb, None))]
    if missing or not isinstance(getattr(module, "FORMAT", None), str):
        raise InternalError(f"targets/{file_name}.py is no target: it lacks {', '.join(missing) or 'FORMAT'}.")
